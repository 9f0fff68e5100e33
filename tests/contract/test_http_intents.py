"""Looking at, waiting for, claiming and cancelling intents, and what operators see of them; over HTTP."""

from __future__ import annotations

import pytest
from e2e.envelope import check_members, envelope, problem
from e2e.running_service import held, read_note

pytestmark = pytest.mark.integration


@pytest.fixture
def waiting(service):
    """Return a starter of held intents, which are cancelled afterwards."""
    started: list[tuple[str, str]] = []

    def start(name: str, agent: str = "alpha", **more) -> dict:
        answer = service.submit({**held(name), **more}, agent=agent, key=f"waiting-{agent}-{name}")
        body = envelope(answer, 403, "APPROVAL_REQUIRED", status="held")
        started.append((body["intent_id"], agent))
        return body

    yield start
    for intent_id, agent in started:
        service.cancel(intent_id, agent=agent)


# --- only one's own ---------------------------------------------------------------------------------------------------


def test_another_agents_intent_does_not_exist(service, waiting):
    mine = waiting("mine")["intent_id"]

    unknown = problem(service.look("int_" + "0" * 26, agent="beta"), 404, "NOT_FOUND")

    assert problem(service.look(mine, agent="beta"), 404, "NOT_FOUND") == unknown
    assert problem(service.claim(mine, agent="beta"), 404, "NOT_FOUND") == unknown
    assert problem(service.cancel(mine, agent="beta"), 404, "NOT_FOUND") == unknown
    assert service.look(mine).json()["status"] == "held"


@pytest.mark.parametrize(
    "intent_id",
    [
        "x",
        "%00",
        "int_%00",
        "..",
        "%2e%2e",
        "..%2f..%2fetc",
        "%F0%9F%99%82",
        "%ed%a0%80",
        "%ff",
        "a" * 10_000,
        "'%20OR%201=1--",
        "%25s",
        "int_" + "0" * 26,
        "INT_" + "0" * 26,
    ],
)
@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("DELETE", ""), ("POST", "/claim"), ("GET", "?wait=1")])
def test_an_absurd_id_is_unknown(service, intent_id, method, suffix):
    answer = service.request(method, f"/v1/intents/{intent_id}{suffix}", headers=service.bearer("agent", "alpha"))

    # A path that a client folds (`..`) may name no resource, or the collection.
    assert answer.status_code in {404, 405} if intent_id in {"..", "%2e%2e"} else answer.status_code == 404
    problem(answer, answer.status_code, "NOT_FOUND" if answer.status_code == 404 else "METHOD_NOT_ALLOWED")


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_wait_returns_at_once_for_what_is_final(service):
    granted = envelope(service.submit(read_note()), 200, "ALLOWED")

    seen = service.get(f"/v1/intents/{granted['intent_id']}?wait=60", headers=service.bearer("agent", "alpha"))

    assert seen.json()["status"] == "granted"


def test_a_wait_ends_with_its_time_and_the_same_envelope(service, waiting):
    intent_id = waiting("patient")["intent_id"]

    seen = service.get(f"/v1/intents/{intent_id}?wait=0.3", headers=service.bearer("agent", "alpha"))

    assert (seen.status_code, seen.json()["status"]) == (200, "held")
    check_members(seen.json())


@pytest.mark.parametrize(
    "query",
    [
        *("wait=", "wait=-1", "wait=61", "wait=1e1", "wait=inf", "wait=nan", "wait=1.", "wait=0x1", "wait=%00"),
        *("wait=%D9%A3", "wait=" + "1" * 5000, "wait=1&wait=1", "wait=1;wait=2", "later=1", "wait[]=1"),
    ],
)
def test_an_absurd_wait_is_refused(service, query):
    answer = service.get(f"/v1/intents/int_1?{query}", headers=service.bearer("agent", "alpha"))

    problem(answer, 400, "REQUEST_MALFORMED")


# --- cancel and claim -------------------------------------------------------------------------------------------------


def test_a_waiting_intent_is_cancelled_once_and_stays_so(service, waiting):
    intent_id = waiting("cancelled")["intent_id"]

    first = service.cancel(intent_id)
    again = service.cancel(intent_id)

    assert (first.status_code, again.status_code) == (200, 200)
    check_members(first.json())
    assert (first.json()["status"], first.json()["reason_code"]) == ("cancelled", "CANCELLED")
    assert again.json() == {**first.json()}
    problem(service.claim(intent_id), 409, "NOT_CLAIMABLE")


def test_a_decided_intent_cannot_be_cancelled(service):
    granted = envelope(service.submit(read_note()), 200, "ALLOWED")
    denied = envelope(
        service.submit({"action": "no.such", "resource": {"type": "a", "id": "1"}}), 403, "INTENT_UNCLASSIFIED"
    )

    problem(service.cancel(granted["intent_id"]), 409, "NOT_CANCELLABLE")
    problem(service.cancel(denied["intent_id"]), 409, "NOT_CANCELLABLE")


def test_a_held_or_denied_intent_cannot_be_claimed(service, waiting):
    denied = envelope(
        service.submit({"action": "no.such", "resource": {"type": "a", "id": "1"}}), 403, "INTENT_UNCLASSIFIED"
    )

    problem(service.claim(waiting("unclaimable")["intent_id"]), 409, "NOT_CLAIMABLE")
    problem(service.claim(denied["intent_id"]), 409, "NOT_CLAIMABLE")


def test_what_waits_too_long_expires_and_can_neither_be_claimed_nor_cancelled(service, waiting):
    intent_id = waiting("expires", expires_in=1)["intent_id"]

    service.until(lambda: service.look(intent_id).json()["status"] == "expired", "the held intent expires")

    seen = service.look(intent_id).json()
    check_members(seen)
    assert seen["reason_code"] == "EXPIRED"
    problem(service.claim(intent_id), 410, "EXPIRED")
    problem(service.cancel(intent_id), 409, "NOT_CANCELLABLE")
    again = service.submit({**held("expires"), "expires_in": 1}, key="waiting-alpha-expires")
    envelope(again, 403, "EXPIRED", status="expired")


# --- the operators' list ----------------------------------------------------------------------------------------------


def listed(service, query: str = "") -> dict:
    answer = service.get(f"/v1/operator/queue{query}", headers=service.bearer("operator"))
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_operators_list_the_queue_page_by_page_without_gap_or_repeat(service, waiting):
    ids = [waiting(f"page-{n}", agent="gamma")["intent_id"] for n in range(5)]

    whole = listed(service, "?agent=gamma")
    pages: list[list[str]] = []
    after = ""
    while True:
        page = listed(service, f"?agent=gamma&limit=2{after}")
        pages.append([item["intent_id"] for item in page["items"]])
        if page["next"] is None:
            break
        after = f"&after={page['next']}"

    assert [len(page) for page in pages] == [2, 2, 1]
    turned = [intent_id for page in pages for intent_id in page]
    assert turned == [item["intent_id"] for item in whole["items"]]
    assert set(turned) == set(ids)


def test_an_item_says_what_an_operator_needs_and_nothing_of_the_payload(service, waiting):
    waiting("item", agent="gamma")

    [item] = listed(service, "?agent=gamma")["items"]

    assert item.keys() == {
        *("intent_id", "agent", "state", "lane", "rank_at", "enqueued_at", "expires_at"),
        *("attempts", "reason_code", "version", "act_hash", "bundle", "category", "impact", "needed", "approvals"),
    }
    [need] = item["needed"]
    assert (need["role"], need["count"], need["approved_by"], need["missing"]) == ("finance", 1, [], 1)
    assert (item["agent"], item["state"], item["lane"]) == ("gamma", "held", "critical")


def test_filters_narrow_the_list(service, waiting):
    intent_id = waiting("filtered", agent="gamma")["intent_id"]

    for query, found in [
        ("state=held&lane=critical&reason_code=APPROVAL_REQUIRED", True),
        ("state=waiting", False),
        ("lane=bulk", False),
        ("reason_code=QUEUE_FULL", False),
        ("reason_code=nothing", False),
        ("queued_after=2026-01-01T00:00:00Z", True),
        ("queued_before=2026-01-01T00:00:00Z", False),
    ]:
        ids = [item["intent_id"] for item in listed(service, f"?agent=gamma&{query}")["items"]]
        assert (intent_id in ids) is found, query
    assert listed(service, "?agent=nobody")["items"] == []


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=501", "limit=-1", "limit=", "limit=1.0", "limit=%D9%A3", "limit=" + "1" * 6000),
        *(
            "state=no",
            "state=granted",
            "state=",
            "lane=no",
            "lane=1",
            "agent=%00",
            "reason_code=%00",
            "unknown=1",
            "limit=1&limit=2",
        ),
        *(
            "queued_before=no",
            "queued_before=2026-01-01T00:00:00",
            "queued_after=",
            "queued_after=0001-01-01T00:00:00%2B14:00",
        ),
        *("after=", "after=%00", "after=AAAA", "after=!!!!", "after=bnVsbA", "after=" + "A" * 9000, "after=e30"),
        "after=WyIxIiwiMDAwMS0wMS0wMVQwMDowMDowMCsxNDowMCIsImEiXQ",  # the year 0 in UTC
        "after=WyI5IiwiMjAyNi0wMS0wMVQwMDowMDowMFoiLCJhIl0",  # lane 9
        "after=WyIxIiwiMjAyNi0wMS0wMVQwMDowMDowMCIsImEiXQ",  # a time without a zone
        "after=WyIxIiwiMjAyNi0wMS0wMVQwMDowMDowMFoiLCJcdTAwMDAiXQ",  # a NUL for an id
    ],
)
def test_an_absurd_query_is_refused(service, query):
    answer = service.get(f"/v1/operator/queue?{query}", headers=service.bearer("operator"))

    problem(answer, 400, "REQUEST_MALFORMED")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/intents?x=1"),
        ("POST", "/v1/intents/int_1/claim?x=1"),
        ("DELETE", "/v1/intents/int_1?wait=1"),
        ("GET", "/v1/events?x=1"),
        ("POST", "/v1/operator/queue/int_1/approve?force=true"),
        ("GET", "/v1/operator/queue/int_1?x=1"),
        ("GET", "/v1/operator/halt?x=1"),
    ],
)
def test_a_parameter_that_nothing_asked_for_is_refused_wherever_it_stands(service, method, path):
    headers = service.bearer("operator") if "/operator/" in path else service.bearer("agent", "alpha")
    answer = service.request(method, path, headers=headers, json={} if method == "POST" else None)

    problem(answer, 400, "REQUEST_MALFORMED")


@pytest.mark.parametrize(("kind", "name"), [("agent", "alpha"), ("executor", "notes-api")])
def test_only_operators_list_the_queue(service, kind, name):
    problem(service.get("/v1/operator/queue", headers=service.bearer(kind, name)), 401, "UNAUTHENTICATED")


# --- the process ------------------------------------------------------------------------------------------------------


def test_it_lives_is_ready_and_names_its_boundaries(service):
    assert service.get("/livez").json() == {"alive": True}
    ready = service.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["boundaries"] == dict.fromkeys(("intent", "evaluation", "token", "audit"), "closed")


def test_metrics_are_prometheus_text_and_count_decisions(service):
    def allowed() -> float:
        lines = service.get("/metrics").text.splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("holdfast_decisions_total{") and 'reason_code="ALLOWED"' in line
        )

    before = allowed()
    envelope(service.submit(read_note()), 200, "ALLOWED")

    assert service.get("/metrics").headers["content-type"].startswith("text/plain")
    assert allowed() == before + 1


def test_the_description_names_every_route_that_answers(service):
    document = service.get("/openapi.json").json()

    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method in operations:
            answer = service.request(method.upper(), path.replace("{intent_id}", "int_1").replace("{jti}", "jti_1"))
            assert answer.status_code in {200, 401}, (method, path, answer.status_code)
