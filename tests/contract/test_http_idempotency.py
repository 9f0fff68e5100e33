"""One key, one intent, one effect; over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from e2e.envelope import envelope, problem
from e2e.running_service import held, read_note, refund
from holdfast import Client, Refused, Resource

pytestmark = pytest.mark.integration


def test_the_same_key_and_body_answer_with_the_same_intent_and_the_same_token(service):
    first = envelope(service.submit(refund(), key="same-1"), 200, "ALLOWED")

    again = envelope(service.submit(refund(), key="same-1"), 200, "ALLOWED")

    assert again == first


def test_the_same_document_written_otherwise_is_the_same_body(service):
    first = service.submit(b'{"action":"note.read","resource":{"type":"note","id":"n1"}}', key="spelled")
    again = service.submit(
        b' { "resource" : {"id":"n\\u0031", "type":"note"}, "parameters":{}, "action":"note.read","queue":true} ',
        key="spelled",
    )

    assert envelope(again, 200, "ALLOWED") == envelope(first, 200, "ALLOWED")


def test_another_body_under_a_used_key_is_refused(service):
    envelope(service.submit(refund(100), key="reused"), 200, "ALLOWED")

    problem(service.submit(refund(101), key="reused"), 422, "IDEMPOTENCY_KEY_REUSED")
    problem(service.submit({**refund(100), "priority": "high"}, key="reused"), 422, "IDEMPOTENCY_KEY_REUSED")


def test_a_key_belongs_to_its_agent(service):
    mine = envelope(service.submit(refund(100), key="shared-name"), 200, "ALLOWED")

    theirs = envelope(service.submit(refund(200), agent="beta", key="shared-name"), 200, "ALLOWED")

    assert mine["intent_id"] != theirs["intent_id"]


def test_after_consumption_the_same_key_is_finished(service):
    intent = refund(300)
    granted = envelope(service.submit(intent, key="consumed"), 200, "ALLOWED")
    assert service.consume(granted["token"], intent, executor="bank-api").status_code == 200

    problem(service.submit(intent, key="consumed"), 409, "INTENT_FINISHED")
    problem(service.claim(granted["intent_id"]), 409, "INTENT_FINISHED")


def test_after_the_tokens_life_the_same_key_is_finished(service):
    intent = {"action": "note.peek", "resource": {"type": "note", "id": "n1"}}
    envelope(service.submit(intent, key="brief"), 200, "ALLOWED")

    service.until(lambda: service.submit(intent, key="brief").status_code != 200, "the token has expired")

    problem(service.submit(intent, key="brief"), 409, "INTENT_FINISHED")


def test_a_denial_is_repeated_as_it_was_and_judged_once(service):
    first = envelope(service.submit(refund(2_000_000), key="denied"), 403, "POLICY_DENIED")

    assert envelope(service.submit(refund(2_000_000), key="denied"), 403, "POLICY_DENIED") == first


def test_a_held_intent_is_repeated_and_waits_once(service):
    first = envelope(service.submit(held("once"), key="held-once"), 403, "APPROVAL_REQUIRED", status="held")

    again = envelope(service.submit(held("once"), key="held-once"), 403, "APPROVAL_REQUIRED", status="held")

    assert again["intent_id"] == first["intent_id"]
    service.cancel(first["intent_id"])


def test_without_a_key_every_submission_is_an_intent_of_its_own(service):
    ids = {envelope(service.submit(read_note()), 200, "ALLOWED")["intent_id"] for _ in range(3)}

    assert len(ids) == 3


def test_fifty_submissions_at_once_with_one_key_are_one_intent_and_one_token(service):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: service.submit(refund(555), key="fifty"), range(50)))

    bodies = [envelope(answer, 200, "ALLOWED") for answer in answers]
    assert len({body["intent_id"] for body in bodies}) == 1
    assert len({body["token"] for body in bodies}) == 1


def test_two_bodies_racing_for_one_key_have_one_winner(service):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: service.submit(refund(700 + n % 2), key="race"), range(16)))

    winners = [answer for answer in answers if answer.status_code == 200]
    assert len({answer.json()["intent_id"] for answer in winners}) == 1
    for answer in answers:
        if answer.status_code != 200:
            problem(answer, 422, "IDEMPOTENCY_KEY_REUSED")


@pytest.mark.parametrize("key", ["", "a b", "a\tb", "x" * 256, "schlüssel", "a\x7f"])
def test_a_malformed_key_is_refused(service, key):
    headers = {**service.bearer("agent", "alpha"), "Idempotency-Key": key.encode("utf-8")}

    answer = service.request("POST", "/v1/intents", json=read_note(), headers=headers)

    problem(answer, 400, "REQUEST_MALFORMED")


def test_two_keys_are_refused_even_if_they_agree(service):
    headers = [*service.bearer("agent", "alpha").items(), ("Idempotency-Key", "k"), ("Idempotency-Key", "k")]

    problem(service.request("POST", "/v1/intents", json=read_note(), headers=headers), 400, "REQUEST_MALFORMED")


def test_the_longest_key_is_accepted(service):
    envelope(service.submit(read_note(), key="~" * 255), 200, "ALLOWED")


def test_the_same_action_while_it_waits_is_answered_with_the_intent_that_waits(service):
    first = envelope(service.submit(held("twice"), key="twice-1"), 403, "APPROVAL_REQUIRED")

    again = envelope(service.submit({**held("twice"), "priority": "high"}, key="twice-2"), 403, "APPROVAL_REQUIRED")

    assert again["intent_id"] == first["intent_id"]
    service.cancel(first["intent_id"])


def test_an_intent_takes_the_place_of_a_waiting_one_by_its_key(service):
    old = envelope(service.submit(held("old"), key="old-1"), 403, "APPROVAL_REQUIRED")

    new = envelope(service.submit(held("new"), key="new-1", Supersedes="old-1"), 403, "APPROVAL_REQUIRED")

    ended = service.look(old["intent_id"]).json()
    assert (ended["status"], ended["reason_code"]) == ("superseded", "SUPERSEDED")
    assert ended["receipt"] == new["receipt"]
    service.cancel(new["intent_id"])


def test_the_sdk_puts_an_intent_in_the_place_of_a_waiting_one(service):
    old = envelope(service.submit(held("sdk-old"), key="sdk-old"), 403, "APPROVAL_REQUIRED")

    with Client(service.base_url, service.key("agent", "alpha")) as client:
        authority = client.submit(
            action="note.read", resource=Resource(type="note", id="n1"), idempotency_key="sdk-new", supersedes="sdk-old"
        )
        with pytest.raises(Refused) as refused:
            client.submit(action="note.read", resource=Resource(type="note", id="n2"), supersedes="sdk-old")

    assert authority.envelope["status"] == "granted"
    assert service.look(old["intent_id"]).json()["status"] == "superseded"
    assert refused.value.code == "NOT_CANCELLABLE"


def test_nothing_but_ones_own_waiting_intent_is_superseded(service):
    envelope(service.submit(read_note("over"), key="over-1"), 200, "ALLOWED")

    problem(service.submit(held("next"), key="next-1", Supersedes="over-1"), 409, "NOT_CANCELLABLE")
    problem(service.submit(held("next"), key="next-1", Supersedes="unheard-of"), 404, "NOT_FOUND")
    problem(service.submit(read_note(), Supersedes="over-1"), 400, "IDEMPOTENCY_KEY_REQUIRED")
    problem(service.submit(held("next"), key="next-1", Supersedes="two words"), 400, "REQUEST_MALFORMED")
