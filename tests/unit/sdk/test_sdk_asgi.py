"""The guard before a web application: a request reaches it only with a token for exactly what it asks."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from fastapi import Depends, FastAPI, Request
from holdfast import strict_json
from holdfast.asgi import AuthorityMiddleware, authority_dependency, one_token, rejected
from holdfast.errors import TokenRejected
from holdfast.executor import Guard
from holdfast.gate import Grant, Wanted
from holdfast.intent import Resource
from holdfast.jwks import PinnedKeys
from sdk_fake_service import BASE_URL, EXECUTOR, EXECUTOR_KEY

BODY = b'{"amount_cents": 4200, "currency": "EUR"}'


def bind(scope, body):
    return Wanted(
        action="payments.refund.create",
        resource=Resource(type="payment", id=scope["path"].rsplit("/", 1)[-1]),
        parameters=strict_json.loads(body),
    )


@pytest.fixture
def guard(service):
    return Guard(
        BASE_URL,
        EXECUTOR_KEY,
        EXECUTOR,
        run_s=5,
        keys=PinnedKeys([service.key.public]),
        async_transport=service.transport(),
    )


class App:
    """Records what reached it and answers `status`."""

    def __init__(self):
        self.status = 200
        self.ran = []
        self.work = None

    async def __call__(self, scope, receive, send):
        message = await receive()
        self.ran.append((scope.get("holdfast.grant"), message["body"]))
        if self.work is not None:
            await self.work()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


@pytest.fixture
def app():
    return App()


@pytest.fixture
def post(guard, app):
    guarded = AuthorityMiddleware(app, guard, bind, open_paths=frozenset({"/livez"}))

    async def send(*tokens, path="/refunds/pay_123", content=BODY, to=guarded):
        transport = httpx2.ASGITransport(to, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://executor") as client:
            headers = [("Authority-Token", token) for token in tokens]
            return await client.post(path, content=content, headers=headers)

    return send


async def test_a_request_with_a_token_for_it_runs_on_the_bytes_that_were_bound(post, app, service, refund):
    response = await post(service.mint(refund))

    assert (response.status_code, response.text) == (200, "done")
    ((grant, body),) = app.ran
    assert (grant.parameters, body) == (refund.parameters, BODY)
    assert [outcome["status"] for outcome in service.outcomes] == ["succeeded"]


async def test_no_token_two_tokens_or_a_list_of_tokens_do_not_get_in(post, app, service, refund):
    token = service.mint(refund)
    for tokens in ([], [token, token], [f"{token},{token}"], [token, ""], [""]):
        response = await post(*tokens)
        assert (response.status_code, response.json()["reason_code"]) == (401, "TOKEN_INVALID")
        assert response.headers["content-type"] == "application/problem+json"
    assert app.ran == []


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("/refunds/pay_999", BODY, 403),
        ("/refunds/pay_123", b'{"amount_cents": 999, "currency": "EUR"}', 403),
        ("/refunds/pay_123", b"", 400),
        ("/refunds/pay_123", b'{"a": 1, "a": 2}', 400),
        ("/refunds/pay_123", b" " * (256 * 1024 + 1), 400),
    ],
    ids=["other resource", "other amount", "empty", "two readings", "too large"],
)
async def test_another_request_does_not_get_in(post, app, service, refund, path, content, status):
    response = await post(service.mint(refund), path=path, content=content)

    assert response.status_code == status
    assert app.ran == []
    assert service.consumed == set()


async def test_a_second_request_with_the_token_is_a_conflict(post, app, service, refund):
    token = service.mint(refund)

    assert [(await post(token)).status_code for _ in range(2)] == [200, 409]
    assert len(app.ran) == 1


async def test_without_the_service_nothing_runs(post, app, service, refund):
    service.lie("/consume", httpx2.ConnectError("away"))

    assert (await post(service.mint(refund))).status_code == 503
    assert app.ran == []


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_an_answer_of_failure_is_a_failed_outcome(post, app, service, refund, status):
    app.status = status

    assert (await post(service.mint(refund))).status_code == status
    assert [outcome["status"] for outcome in service.outcomes] == ["failed"]


async def test_an_exception_in_the_application_is_a_failed_outcome(post, app, service, refund):
    async def fail():
        raise ValueError("broken")

    app.work = fail

    assert (await post(service.mint(refund))).status_code == 500
    assert [outcome["status"] for outcome in service.outcomes] == ["failed"]


async def test_a_request_that_runs_out_of_time_is_of_unknown_outcome(service, app, refund, post):
    guard = Guard(
        BASE_URL,
        EXECUTOR_KEY,
        EXECUTOR,
        run_s=0.01,
        keys=PinnedKeys([service.key.public]),
        async_transport=service.transport(),
    )
    app.work = asyncio.Event().wait

    response = await post(service.mint(refund), to=AuthorityMiddleware(app, guard, bind))

    assert response.status_code == 504
    assert [outcome["status"] for outcome in service.outcomes] == ["unknown"]


async def test_only_the_named_paths_are_open(post, app):
    assert (await post(path="/livez")).status_code == 200
    assert (await post(path="/livez/x")).status_code == 401
    assert [grant for grant, _ in app.ran] == [None]


async def test_a_web_socket_is_closed(guard, app):
    sent = []

    async def send(message):
        sent.append(message)

    await AuthorityMiddleware(app, guard, bind)({"type": "websocket", "path": "/"}, None, send)

    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert app.ran == []


async def test_a_client_that_goes_away_while_sending_runs_nothing(guard, app, service, refund):
    scope = {"type": "http", "path": "/refunds/pay_123", "headers": [(b"authority-token", b"x")]}

    async def receive():
        return {"type": "http.disconnect"}

    await AuthorityMiddleware(app, guard, bind)(scope, receive, None)

    assert (app.ran, service.seen) == ([], [])


@pytest.mark.parametrize("headers", [[], [(b"authority-token", b"\xe9")], [(b"Authority-Token", b"a,b")]])
def test_what_is_not_one_token_is_refused(headers):
    with pytest.raises(TokenRejected):
        one_token(headers)


async def test_a_fastapi_dependency_yields_the_grant_and_nothing_runs_without(guard, service, refund, post):
    application = FastAPI()
    application.add_exception_handler(TokenRejected, rejected)
    authority = authority_dependency(guard, bind, Request)
    ran = []

    async def create(payment: str, grant: Grant = Depends(authority)) -> dict[str, object]:  # noqa: B008 - a local name
        ran.append(payment)
        return {"paid": grant.parameters["amount_cents"]}

    application.post("/refunds/{payment}")(create)
    token = service.mint(refund)

    assert (await post(to=application)).status_code == 401
    assert (await post(token, path="/refunds/pay_9", to=application)).status_code == 403
    assert ran == []
    assert (await post(token, to=application)).json() == {"paid": 4200}
    assert (await post(token, to=application)).status_code == 409
    assert ran == ["pay_123"]
    assert [outcome["status"] for outcome in service.outcomes] == ["succeeded"]
