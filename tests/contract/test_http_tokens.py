"""The executors' side over HTTP: consume once, report once."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
from e2e.envelope import envelope, problem
from e2e.running_service import read_note, refund
from holdfast.token import VerifyKey, verify_signature

pytestmark = pytest.mark.integration


def granted(service, intent, **options) -> dict:
    return envelope(service.submit(intent, **options), 200, "ALLOWED")


def test_a_token_is_consumed_for_exactly_what_it_permits(service):
    body = granted(service, read_note("c1"))

    answer = service.consume(body["token"], read_note("c1"))

    assert answer.status_code == 200
    said = answer.json()
    assert said["consumed"] is True
    assert (said["txn"], said["sub"], said["aud"]) == (body["intent_id"], "alpha", "notes-api")
    problem(service.consume(body["token"], read_note("c1")), 409, "TOKEN_CONSUMED")


def test_of_two_hundred_racing_consumers_exactly_one_wins(service):
    intent = refund(4242)
    token = granted(service, intent, key="two-hundred")["token"]

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: service.consume(token, intent, executor="bank-api"), range(200)))

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 199
    for answer in answers:
        if answer.status_code != 200:
            problem(answer, 409, "TOKEN_CONSUMED")


@pytest.mark.parametrize(
    "presented",
    [
        refund(4243),
        refund(4242, "another"),
        {**refund(4242), "action": "money.return"},
        {**refund(4242), "resource": {"type": "pay", "id": "p1"}},
        {**refund(4242), "parameters": {"amount_cents": 4242, "more": None}},
        {**refund(4242), "parameters": {"amount_cents": "4242"}},
        {**refund(4242), "parameters": {}},
    ],
)
def test_a_token_for_other_arguments_is_a_mismatch_and_stays_unconsumed(service, presented):
    token = granted(service, refund(4242), key=f"mismatch-{sha256(repr(presented).encode()).hexdigest()}")["token"]

    problem(service.consume(token, presented, executor="bank-api"), 403, "TOKEN_MISMATCH")

    assert service.consume(token, refund(4242), executor="bank-api").status_code == 200


def test_the_digest_is_of_the_value_not_of_its_spelling(service):
    """RFC 8785: 4242.0 and 4242 are one number."""
    token = granted(service, refund(4242), key="spelling")["token"]
    body = json.dumps({"token": token, **refund(4242)}).replace("4242", "4242.0").encode()
    headers = {**service.bearer("executor", "bank-api"), "Content-Type": "application/json"}

    assert service.request("POST", "/v1/tokens/consume", content=body, headers=headers).status_code == 200


def test_a_token_for_another_executor_is_a_mismatch(service):
    token = granted(service, refund(1), key="other-executor")["token"]

    problem(service.consume(token, refund(1), executor="notes-api"), 403, "TOKEN_MISMATCH")


def altered(token: str) -> list[object]:
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["sub"] = "beta"
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"authority+jwt"}').rstrip(b"=").decode()
    return [
        "",
        "x",
        "..",
        token[:-1],
        token + "A",
        token + "=",
        token + "\n",
        " " + token,
        f"{head}.{payload}.",
        f"{head}.{forged}.{signature}",
        f"{none}.{payload}.",
        f"{none}.{payload}.{signature}",
        f"{head}.{payload}.{signature[::-1]}",
        token * 2,
        "a" * 100_000,
        "é",
        "\x00",
    ]


def test_every_way_to_be_a_bad_token_has_the_same_text(service):
    token = granted(service, refund(1), key="altered")["token"]

    details = {
        problem(service.consume(bad, refund(1), executor="bank-api"), 401, "TOKEN_INVALID")["detail"]
        for bad in altered(token)
    }

    assert len(details) == 1
    assert service.consume(token, refund(1), executor="bank-api").status_code == 200


def test_an_expired_token_is_invalid(service):
    intent = {"action": "note.peek", "resource": {"type": "note", "id": "n1"}}
    token = granted(service, intent, key="expires")["token"]
    service.until(lambda: service.submit(intent, key="expires").status_code == 409, "the token has expired")

    problem(service.consume(token, intent, executor="brief-api"), 401, "TOKEN_INVALID")


@pytest.mark.parametrize("token", [None, 1, [], {}, True])
def test_a_token_that_is_no_text_is_malformed(service, token):
    problem(service.consume(token, read_note()), 400, "REQUEST_MALFORMED")


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"token": "x"},
        {"token": "x", "action": "a"},
        {"token": "x", "action": "a", "resource": {"type": "t", "id": "1"}, "executor": "bank-api"},
        {"token": "x", "action": 1, "resource": {"type": "t", "id": "1"}},
        {"token": "x", "action": "a", "resource": "t/1"},
        {"token": "x", "action": "a", "resource": {"type": "t", "id": "1"}, "parameters": []},
    ],
)
def test_a_malformed_consumption_is_refused(service, body):
    answer = service.request("POST", "/v1/tokens/consume", json=body, headers=service.bearer("executor", "bank-api"))

    problem(answer, 400, "REQUEST_MALFORMED")


@pytest.mark.parametrize(("kind", "name"), [("agent", "alpha"), ("operator", "")])
def test_only_executors_consume(service, kind, name):
    body = {"token": "x", **read_note()}

    answer = service.request("POST", "/v1/tokens/consume", json=body, headers=service.bearer(kind, name))

    problem(answer, 401, "UNAUTHENTICATED")


# --- outcomes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def consumed(service) -> str:
    token = granted(service, read_note())["token"]
    return service.consume(token, read_note()).json()["jti"]


def test_an_outcome_may_be_reported_twice_but_not_changed(service, consumed):
    first = service.report(consumed, {"status": "succeeded", "detail": "done"})
    again = service.report(consumed, {"status": "succeeded"})

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == {"recorded": True, "jti": consumed, "status": "succeeded"}
    problem(service.report(consumed, {"status": "failed"}), 409, "OUTCOME_CONFLICT")
    assert service.report(consumed, {"status": "succeeded"}).status_code == 200


def test_racing_outcomes_have_one_winner(service, consumed):
    with ThreadPoolExecutor(8) as pool:
        statuses = ["succeeded", "failed", "unknown", "failed"] * 3
        answers = list(pool.map(lambda status: (status, service.report(consumed, {"status": status})), statuses))

    winners = {status for status, answer in answers if answer.status_code == 200}
    assert len(winners) == 1
    assert all(answer.status_code == 409 for status, answer in answers if status not in winners)


def test_only_the_executor_that_consumed_may_report(service, consumed):
    problem(service.report(consumed, {"status": "succeeded"}, executor="bank-api"), 404, "NOT_FOUND")


def test_an_unconsumed_token_has_no_outcome(service):
    token = granted(service, read_note())["token"]
    keys = tuple(VerifyKey.from_jwk(key) for key in service.get("/.well-known/jwks.json").json()["keys"])

    problem(service.report(verify_signature(token, keys).jti, {"status": "succeeded"}), 404, "NOT_FOUND")


@pytest.mark.parametrize("jti", ["x", "%00", "..%2f..", "jti_" + "0" * 32, "a" * 3000, "%F0%9F%99%82"])
def test_an_absurd_token_id_is_unknown(service, jti):
    problem(service.report(jti, {"status": "succeeded"}), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"status": "ok"},
        {"status": None},
        {"status": ["failed"]},
        {"status": "failed", "detail": 1},
        {"status": "failed", "detail": "x" * 2001},
        {"status": "failed", "more": 1},
        {"status": "failed", "model_tokens": -1},
        {"status": "failed", "model_tokens": 10**12 + 1},
        {"status": "failed", "model_tokens": 1.5},
        {"status": "failed", "model_tokens": True},
        {"status": "failed", "model_tokens": "7"},
    ],
)
def test_a_malformed_outcome_is_refused(service, consumed, body):
    problem(service.report(consumed, body), 400, "REQUEST_MALFORMED")


def test_an_outcomes_detail_may_hold_any_text(service, consumed):
    assert service.report(consumed, {"status": "failed", "detail": "\x00 🙂 \u2028"}).status_code == 200


def test_an_outcome_with_the_tokens_really_used_may_be_sent_again(service, consumed):
    for _ in range(2):
        assert service.report(consumed, {"status": "succeeded", "model_tokens": 1200}).status_code == 200


def test_an_outcome_corrects_what_its_agent_announced(service):
    """Over a day of 1000 tokens: 900 announced, 100 used, and then an action that turned out to need more."""
    first = granted(service, thrifty(900), agent="thrifty")
    envelope(service.submit(thrifty(101), agent="thrifty"), 429, "RATE_LIMITED")
    jti = service.consume(first["token"], thrifty(900)).json()["jti"]
    for used in (100, 0):
        assert service.report(jti, {"status": "succeeded", "model_tokens": used}).status_code == 200

    second = granted(service, thrifty(None), agent="thrifty")
    jti = service.consume(second["token"], thrifty(None)).json()["jti"]
    assert service.report(jti, {"status": "succeeded", "model_tokens": 800}).status_code == 200

    envelope(service.submit(thrifty(101), agent="thrifty"), 429, "RATE_LIMITED")
    granted(service, thrifty(100), agent="thrifty")
    answer = service.submit(thrifty(None), agent="thrifty")
    envelope(answer, 429, "RATE_LIMITED")
    assert 0 < int(answer.headers["retry-after"]) <= 86_400


def thrifty(model_tokens) -> dict:
    return {**read_note(), "context": {} if model_tokens is None else {"model_tokens": model_tokens}}


def test_the_public_keys_are_public_and_cached_for_minutes(service):
    answer = service.get("/.well-known/jwks.json")

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "max-age=300"
    [key] = answer.json()["keys"]
    assert key.keys() >= {"kty", "crv", "x", "kid"}
    assert "d" not in key
