"""Every row of the outcome table that a healthy service can answer, over HTTP."""

from __future__ import annotations

import pytest
from e2e.envelope import check_members, envelope, problem
from e2e.running_service import held, read_note, refund
from holdfast.token import Claims, VerifyKey, verify_signature

pytestmark = pytest.mark.integration


def verify_keys(service) -> tuple[VerifyKey, ...]:
    return tuple(VerifyKey.from_jwk(key) for key in service.get("/.well-known/jwks.json").json()["keys"])


def claims_of(service, token: str) -> Claims:
    return verify_signature(token, verify_keys(service))


def test_an_allowed_intent_is_a_200_with_a_token_for_exactly_that(service):
    answer = service.submit(read_note("n7"))

    body = envelope(answer, 200, "ALLOWED", status="granted", decision="allow", mode="normal", category="note.read")
    claims = claims_of(service, body["token"])
    assert (claims.iss, claims.aud, claims.sub) == (service.base_url, "notes-api", "alpha")
    assert (claims.txn, claims.action) == (body["intent_id"], "note.read")
    receipt = body["receipt"]
    assert claims.rcp == f"{receipt['stream']}:{receipt['seq']}:{receipt['hash']}"
    assert claims.pol == body["policy"]["bundle"]
    assert claims.exp - claims.iat <= 60


def test_an_action_that_no_catalogue_knows_is_unclassified(service):
    answer = service.submit({"action": "no.such.action", "resource": {"type": "any", "id": "1"}})

    envelope(answer, 403, "INTENT_UNCLASSIFIED", status="denied", decision="deny", category=None, queue=None)


def write(**parameters):
    return {"action": "note.write", "resource": {"type": "note", "id": "n1"}, "parameters": parameters}


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"text": 1},
        {"text": "x" * 201},
        {"text": "a", "undeclared": 1},
        {"text": "a", "weight": 0.5},
        {"text": "a", "weight": "1.5"},
        {"text": "a", "tags": "b"},
        {"text": "a", "tags": ["b"] * 6},
        {"text": "a", "pinned": 1},
        {"text": "a", "author": {"name": "n"}},
        {"text": None},
        {"text": "a", "\x00": 1},
        {"text": "a", "\x1b[31m": 1},
    ],
)
def test_parameters_that_do_not_fit_the_catalogue_are_a_rules_no(service, parameters):
    answer = service.submit(write(**parameters))

    body = envelope(answer, 403, "PARAMETERS_INVALID", status="denied", decision="deny", queue=None)
    assert body["detail"].isprintable()


def test_parameters_that_fit_are_allowed_whatever_text_they_hold(service):
    text = "\x00 \u202e 🙂 \\u0000 \"'`;--"

    envelope(service.submit(write(text=text, weight="0.25", tags=["a", ""], pinned=True)), 200, "ALLOWED")


def test_what_the_manifest_does_not_list_is_not_available(service):
    envelope(service.submit(refund(), agent="reader", key="not-listed"), 403, "ACTION_NOT_AVAILABLE", status="denied")


def test_what_asks_for_a_proof_of_possession_gets_no_bearer_token(service):
    answer = service.submit({"action": "note.secret", "resource": {"type": "note", "id": "n1"}})

    envelope(answer, 403, "ACTION_NOT_AVAILABLE", status="denied")


def test_what_a_policy_forbids_is_denied_by_name(service):
    body = envelope(service.submit(refund(2_000_000), key="huge"), 403, "POLICY_DENIED", status="denied", queue=None)

    assert body["policy"]["determining"] == ["no-huge-refunds"]


def test_what_no_policy_permits_is_denied(service):
    answer = service.submit({"action": "note.hide", "resource": {"type": "note", "id": "n1"}}, agent="reader")

    envelope(answer, 403, "NO_MATCHING_POLICY", status="denied")


def test_the_limit_of_the_manifest_is_a_429_that_says_when_to_come_back(service):
    for _ in range(3):
        envelope(service.submit(read_note(), agent="limited"), 200, "ALLOWED")

    answer = service.submit(read_note(), agent="limited")

    body = envelope(answer, 429, "RATE_LIMITED", status="denied", queue=None)
    assert 1 <= int(answer.headers["retry-after"]) <= 60 + 6  # spread, so that not all come back at once
    assert body["retry_after"] == int(answer.headers["retry-after"])


def test_what_a_human_must_approve_is_held_in_its_lane(service):
    answer = service.submit(held(), key="held-1")

    body = envelope(answer, 403, "APPROVAL_REQUIRED", status="held", decision="hold")
    assert (body["queue"]["state"], body["queue"]["lane"]) == ("durable", "critical")
    assert service.cancel(body["intent_id"]).status_code == 200


def test_what_may_not_wait_is_denied_instead_of_held(service):
    answer = service.submit({**held(), "queue": False}, key="held-no-queue")

    envelope(answer, 403, "APPROVAL_REQUIRED", status="denied", decision="hold", queue=None)


def test_over_its_bound_an_agents_next_intent_does_not_wait(service):
    waiting = [service.submit(held(f"p{n}"), agent="filler", key=f"fill-{n}") for n in range(service.max_per_agent)]
    for answer in waiting:
        envelope(answer, 403, "APPROVAL_REQUIRED", status="held")

    over = service.submit(held("over"), agent="filler", key="fill-over")
    others = service.submit(held("other"), agent="gamma", key="fill-other")

    envelope(over, 503, "QUEUE_FULL", status="denied", queue=None)
    envelope(others, 403, "APPROVAL_REQUIRED", status="held")
    service.cancel(others.json()["intent_id"], agent="gamma")
    for answer in waiting:
        assert service.cancel(answer.json()["intent_id"], agent="filler").status_code == 200


@pytest.mark.parametrize("intent", [refund(), {"action": "doom.launch", "resource": {"type": "any", "id": "1"}}])
def test_high_and_critical_impact_need_an_idempotency_key(service, intent):
    problem(service.submit(intent), 400, "IDEMPOTENCY_KEY_REQUIRED")


def test_a_hint_never_changes_the_lane(service):
    body = envelope(service.submit({**held(), "priority": "low"}, key="hint"), 403, "APPROVAL_REQUIRED")

    assert body["queue"]["lane"] == "critical"
    service.cancel(body["intent_id"])


def test_every_answer_has_its_record_in_the_log(service):
    answers = [
        service.submit(read_note()),
        service.submit(refund(2_000_000), key="log-1"),
        service.submit({"action": "no.such", "resource": {"type": "any", "id": "1"}}),
        service.submit(write()),
    ]
    receipts = [answer.json()["receipt"] for answer in answers]

    verified = service.verify([f"{receipt['stream']}:{receipt['seq']}:{receipt['hash']}" for receipt in receipts])

    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_looking_at_an_intent_shows_its_envelope_and_never_a_token(service):
    submitted = envelope(service.submit(read_note()), 200, "ALLOWED")

    seen = service.look(submitted["intent_id"])

    assert seen.status_code == 200
    check_members(seen.json())
    assert seen.json() == {**submitted, "token": None}


def test_the_request_id_is_echoed_where_it_is_well_formed_and_made_otherwise(service):
    assert service.submit(read_note(), **{"X-Request-ID": "mine-1.2_3"}).headers["x-request-id"] == "mine-1.2_3"
    for bad in ("", "a b", "x" * 129, "a/b", "é".encode().decode("latin-1")):
        made = service.get("/livez", headers={"X-Request-ID": bad.encode("latin-1")}).headers["x-request-id"]
        assert made.startswith("req_")


@pytest.mark.parametrize(
    ("method", "path", "status", "reason_code"),
    [
        ("GET", "/", 404, "NOT_FOUND"),
        ("GET", "/v1", 404, "NOT_FOUND"),
        ("POST", "/v1/intents/", 404, "NOT_FOUND"),
        ("GET", "/livez/", 404, "NOT_FOUND"),
        ("GET", "/docs", 404, "NOT_FOUND"),
        ("GET", "/v1/intents", 405, "METHOD_NOT_ALLOWED"),
        ("PUT", "/v1/intents/int_1", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/v1/tokens/consume", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/.well-known/jwks.json", 405, "METHOD_NOT_ALLOWED"),
        ("OPTIONS", "/v1/intents", 405, "METHOD_NOT_ALLOWED"),
        ("TRACE", "/livez", 405, "METHOD_NOT_ALLOWED"),
        ("PATCH", "/readyz", 405, "METHOD_NOT_ALLOWED"),
    ],
)
def test_where_there_is_nothing_the_answer_is_a_problem(service, method, path, status, reason_code):
    answer = service.request(method, path, headers={"X-Request-ID": "r1"})

    problem(answer, status, reason_code)
    assert answer.headers["x-request-id"] == "r1"


def test_a_405_names_every_method_of_the_path(service):
    assert service.request("PUT", "/v1/intents/int_1").headers["allow"] == "DELETE, GET, HEAD"
    assert service.request("GET", "/v1/intents").headers["allow"] == "POST"
