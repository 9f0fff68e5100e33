"""Documents that nobody thought of: the status is one of the contract's, and 200 is there exactly when a token is."""

from __future__ import annotations

import json

import pytest
from e2e.envelope import check_problem, envelope
from e2e.running_service import read_note
from holdfast.reasons import ReasonCode, http_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.integration

TEXT = st.text(st.characters(exclude_categories=()), max_size=20) | st.sampled_from(
    ["\x00", "\ud800", "note", "n1", ""]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)
ACTIONS = st.sampled_from(["note.read", "note.write", "note.peek", "note.secret", "money.refund", "doom.launch", "x.y"])
RESOURCES = st.fixed_dictionaries(
    {"type": st.sampled_from(["note", "payment", "x"]) | TEXT, "id": st.just("n1") | TEXT}
)
PARAMETERS = st.dictionaries(
    st.sampled_from(["text", "weight", "tags", "pinned", "author", "amount_cents"]) | TEXT, JSON, max_size=5
)
CONTEXTS = st.dictionaries(
    st.sampled_from(["environment", "reason", "on_behalf_of", "model", "session", "model_tokens"]), JSON, max_size=3
)
INTENTS = st.fixed_dictionaries(
    {"action": ACTIONS | TEXT, "resource": RESOURCES | JSON},
    optional={
        "parameters": PARAMETERS | JSON,
        "executor": st.sampled_from(["notes-api", "bank-api", None]) | JSON,
        "context": CONTEXTS | JSON,
        "priority": st.sampled_from(["low", "normal", "high", "critical"]) | JSON,
        "queue": st.booleans() | JSON,
        "expires_in": st.integers(1, 604_800) | JSON,
        "callback_url": st.none() | JSON,
        "surprise": JSON,
    },
)
STATUSES = {200, 202, 400, 403, 429, 503}


def judge(answer) -> None:
    assert answer.status_code in STATUSES, answer.text
    assert answer.headers["x-request-id"]
    if answer.headers["content-type"] == "application/problem+json":
        check_problem(answer.status_code, answer.headers["content-type"], answer.content)
        return
    code = answer.json()["reason_code"]
    assert answer.status_code == http_status(ReasonCode(code))
    envelope(answer, answer.status_code, code)
    assert answer.status_code != 503 or code == "QUEUE_FULL", answer.text


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(document=INTENTS, key=st.booleans())
def test_no_document_gets_anything_but_an_answer_of_the_contract(service, document, key):
    body = json.dumps(document).encode("utf-8", "surrogatepass")

    judge(service.submit(body, agent="beta", key=f"fuzz-{hash(body) & 0xFFFFFFFF}" if key else None))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(position=st.integers(0, 200), inserted=st.binary(max_size=4), removed=st.integers(0, 4))
def test_no_damaged_bytes_get_anything_but_an_answer_of_the_contract(service, position, inserted, removed):
    good = json.dumps({**read_note("n1"), "parameters": {"a": [1, {"b": "c\u00e9"}]}, "queue": True}).encode()
    at = position % len(good)

    judge(service.submit(good[:at] + inserted + good[at + removed :], agent="beta"))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(token=st.text(max_size=60), parameters=PARAMETERS)
def test_no_made_up_token_is_consumed(service, token, parameters):
    body = json.dumps({"token": token, **read_note(), "parameters": parameters}).encode("utf-8", "surrogatepass")
    headers = {**service.bearer("executor", "notes-api"), "Content-Type": "application/json"}

    answer = service.request("POST", "/v1/tokens/consume", content=body, headers=headers)

    assert answer.status_code in {400, 401}, answer.text
    check_problem(answer.status_code, answer.headers["content-type"], answer.content)


def test_after_all_that_there_was_no_fault(service):
    assert service.faults() == []
    envelope(service.submit(read_note()), 200, "ALLOWED")
