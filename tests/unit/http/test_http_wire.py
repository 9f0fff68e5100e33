"""The edge without a network: ids, bodies, queries, problems, and who is calling."""

from __future__ import annotations

import base64
import json

import httpx2
import pytest
from holdfast.reasons import ReasonCode
from starlette.responses import Response
from starlette.routing import Route

from intent_queue.item import Page
from intent_queue.store import QueueUnavailable
from services.credentials import Kind, Principal, key_hash, new_secret
from services.http.app import create_app
from services.http.callers import Callers
from services.http.queue import QueueEndpoints
from services.http.wire import Endpoint, json_response, path_id, query, read_json
from services.ports import StoreUnreachable
from services.submissions import Problem


class FakeCredentials:
    """Two agents' secrets, and a switch."""

    def __init__(self) -> None:
        self.secrets = {kind: new_secret(kind) for kind in Kind}
        self.away = False

    async def find(self, digest: str) -> Principal | None:
        if self.away:
            raise StoreUnreachable("nobody can tell")
        for kind, secret in self.secrets.items():
            if key_hash(secret) == digest:
                return Principal(kind=kind, subject=f"the {kind}")
        return None


class FakeQueue:
    """An empty queue that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []
        self.away = False

    async def page(self, *, after, limit, filters):
        if self.away:
            raise QueueUnavailable("gone")
        self.asked.append((after, limit, filters))
        return Page(items=(), after=None)


class NothingWaits:
    async def glance(self, intent_ids):
        return {}


class Edge:
    """An application with one route of each kind."""

    def __init__(self) -> None:
        self.credentials = FakeCredentials()
        self.queue = FakeQueue()
        callers = Callers(self.credentials)

        async def echo(request) -> Response:
            return json_response(200, {"body": await read_json(request, max_bytes=64)})

        async def thing(request) -> Response:
            return json_response(200, {"id": path_id(request, "name"), "query": query(request, {"a", "b"})})

        async def who(request) -> Response:
            return json_response(200, {"who": await callers.require(request, Kind.AGENT)})

        async def fault(request) -> Response:
            raise RuntimeError("postgresql://user:secret@host/db")

        async def refuse(request) -> Response:
            raise Problem(429, ReasonCode.RATE_LIMITED, "later", retry_after_s=7)

        self.app = create_app(
            [
                Route("/echo", Endpoint(echo), methods=["POST"]),
                Route("/things/{name}", Endpoint(thing), methods=["GET"]),
                Route("/things/{name}", Endpoint(refuse), methods=["DELETE"]),
                Route("/who", Endpoint(who), methods=["GET"]),
                Route("/fault", Endpoint(fault), methods=["GET"]),
                *QueueEndpoints(callers=callers, queue=self.queue, tending=NothingWaits()).routes(),
            ]
        )

    async def ask(self, method: str, path: str, **more) -> httpx2.Response:
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://edge.test") as client:
            return await client.request(method, path, **more)

    async def refusal(self, method: str, path: str, **more) -> tuple[int, str]:
        answer = await self.ask(method, path, **more)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
        return answer.status_code, answer.json()["reason_code"]


@pytest.fixture
def edge() -> Edge:
    return Edge()


# --- every response ---------------------------------------------------------------------------------------------------


async def test_every_response_has_a_request_id_and_is_not_cached(edge):
    for method, path in [
        ("GET", "/things/x"),
        ("GET", "/nothing"),
        ("PUT", "/echo"),
        ("GET", "/fault"),
        ("GET", "/who"),
    ]:
        answer = await edge.ask(method, path)
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["cache-control"] == "no-store"
        assert (await edge.ask(method, path, headers={"X-Request-ID": "mine"})).headers["x-request-id"] == "mine"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "a;b"])
async def test_a_malformed_request_id_is_never_repeated(edge, given):
    answer = await edge.ask("GET", "/things/x", headers={"X-Request-ID": given})

    assert answer.headers["x-request-id"].startswith("req_")


async def test_a_fault_tells_the_caller_nothing(edge):
    answer = await edge.ask("GET", "/fault")

    assert answer.json()["reason_code"] == "SERVICE_UNAVAILABLE"
    assert answer.status_code == 503
    assert 2 <= int(answer.headers["retry-after"]) < 7
    assert "secret" not in answer.text


async def test_where_nothing_is_there_is_no_redirect_either(edge):
    assert await edge.refusal("GET", "/who/") == (404, "NOT_FOUND")
    assert await edge.refusal("POST", "/echo/") == (404, "NOT_FOUND")


async def test_a_405_names_the_methods_of_all_routes_of_the_path(edge):
    answer = await edge.ask("PUT", "/things/x")

    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD")


async def test_a_problem_carries_its_retry_after(edge):
    answer = await edge.ask("DELETE", "/things/x")

    assert answer.status_code == 429
    # Spread, so that callers that were refused together do not come back together; never earlier than said.
    assert 7 <= int(answer.headers["retry-after"]) < 12


# --- bodies, paths, queries -------------------------------------------------------------------------------------------


async def in_pieces(*pieces: bytes):
    for piece in pieces:
        yield piece


async def test_a_body_is_bounded_however_it_arrives(edge):
    assert (await edge.ask("POST", "/echo", content=b'"' + b"x" * 62 + b'"')).status_code == 200
    assert await edge.refusal("POST", "/echo", content=b'"' + b"x" * 63 + b'"') == (400, "REQUEST_MALFORMED")
    assert await edge.refusal("POST", "/echo", content=in_pieces(b'"', *[b"x" * 8] * 8, b'"')) == (
        400,
        "REQUEST_MALFORMED",
    )


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":1,"a":1}', b"NaN", b"\xff", b"\xef\xbb\xbf1", b"[" * 40])
async def test_what_is_not_strict_json_is_refused(edge, body):
    assert await edge.refusal("POST", "/echo", content=body) == (400, "REQUEST_MALFORMED")


@pytest.mark.parametrize("name", ["%00", "a%20b", "x" * 65, "%F0%9F%99%82", "a.b", "a%2fb"])
async def test_what_no_id_looks_like_is_unknown(edge, name):
    assert await edge.refusal("GET", f"/things/{name}") == (404, "NOT_FOUND")


@pytest.mark.parametrize("text", ["c=1", "a=1&a=2", "a=%00", "A=1"])
async def test_a_query_is_strict(edge, text):
    assert await edge.refusal("GET", f"/things/x?{text}") == (400, "REQUEST_MALFORMED")


async def test_a_known_query_is_read(edge):
    assert (await edge.ask("GET", "/things/x?a=1&b=")).json() == {"id": "x", "query": {"a": "1", "b": ""}}


# --- who is calling ---------------------------------------------------------------------------------------------------


async def test_only_the_right_secret_of_the_right_kind_is_somebody(edge):
    secrets = edge.credentials.secrets
    right = f"Bearer {secrets[Kind.AGENT]}"

    assert (await edge.ask("GET", "/who", headers={"Authorization": right})).json() == {"who": "the agent"}
    for value in [
        "",
        "Bearer",
        right[7:],
        f"Basic {right[7:]}",
        right[:-1],
        right + "x",
        f"Bearer {secrets[Kind.EXECUTOR]}",
    ]:
        assert await edge.refusal("GET", "/who", headers={"Authorization": value}) == (401, "UNAUTHENTICATED")
    twice = [("Authorization", right), ("Authorization", right)]
    assert await edge.refusal("GET", "/who", headers=twice) == (401, "UNAUTHENTICATED")


async def test_a_secret_stored_for_another_kind_is_nobodys_whatever_its_prefix(edge):
    secret = new_secret(Kind.AGENT)
    edge.credentials.secrets[Kind.OPERATOR] = secret

    assert await edge.refusal("GET", "/who", headers={"Authorization": f"Bearer {secret}"}) == (401, "UNAUTHENTICATED")


async def test_when_nobody_can_tell_nobody_is_let_in(edge):
    edge.credentials.away = True
    right = f"Bearer {edge.credentials.secrets[Kind.AGENT]}"

    assert await edge.refusal("GET", "/who", headers={"Authorization": right}) == (503, "SERVICE_UNAVAILABLE")


# --- the operators' list ----------------------------------------------------------------------------------------------


def operator(edge) -> dict[str, str]:
    return {"Authorization": f"Bearer {edge.credentials.secrets[Kind.OPERATOR]}"}


def cursor(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).rstrip(b"=").decode()


async def test_a_listing_passes_on_exactly_what_was_asked(edge):
    after = cursor("1", "2026-11-20T10:00:00+00:00", "int_1")

    answer = await edge.ask(
        "GET", f"/v1/operator/queue?state=held&lane=critical&agent=a&limit=7&after={after}", headers=operator(edge)
    )

    assert answer.json() == {"items": [], "next": None}
    [(place, limit, filters)] = edge.queue.asked
    assert (int(place.lane), place.rank_at.isoformat(), place.intent_id) == (1, "2026-11-20T10:00:00+00:00", "int_1")
    assert limit == 7
    assert (filters.state, int(filters.lane), filters.agent, filters.reason_code) == ("held", 1, "a", None)


@pytest.mark.parametrize(
    "text",
    [
        *("limit=0", "limit=501", "limit=%D9%A1", "limit=" + "9" * 5000, "state=x", "lane=0", "other=1"),
        *("after=", "after=%FF", "after=AAA", "after=" + cursor(), "after=" + cursor("1", "x", "int_1")),
        "after=" + cursor("1", "0001-01-01T00:00:00+14:00", "int_1"),
        "after=" + cursor("1", "2026-11-20T10:00:00", "int_1"),
        "after=" + cursor("9", "2026-11-20T10:00:00Z", "int_1"),
        "after=" + cursor("1", "2026-11-20T10:00:00Z", "\x00"),
        "after=" + cursor(1, "2026-11-20T10:00:00Z", "int_1"),
    ],
)
async def test_an_absurd_listing_is_refused_before_the_queue_is_asked(edge, text):
    assert await edge.refusal("GET", f"/v1/operator/queue?{text}", headers=operator(edge)) == (400, "REQUEST_MALFORMED")
    assert edge.queue.asked == []


async def test_a_queue_that_is_away_is_unavailable(edge):
    edge.queue.away = True

    assert await edge.refusal("GET", "/v1/operator/queue", headers=operator(edge)) == (503, "SERVICE_UNAVAILABLE")
