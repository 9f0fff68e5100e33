"""Signed webhooks over the wire: real receivers that fail, hang, redirect, and are gone."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from e2e.envelope import check_members, problem
from e2e.receiver import Receiver
from e2e.running_service import RunningService, held, read_note
from holdfast import webhook

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def calling(tmp_path_factory):
    """Return a service that may call receivers on this machine, and nothing else that is private."""
    running = RunningService(
        tmp_path_factory.mktemp("calling service"),
        max_per_agent=50,
        environment={"HOLDFAST_WEBHOOK_ALLOW": "127.0.0.1", "HOLDFAST_WEBHOOK_PLAIN_HTTP": "true"},
    )
    running.start()
    running.until(lambda: keys(running) != [], "the webhook keys are published")
    yield running
    running.close()


def keys(service) -> list[str]:
    return [key["whpk"] for key in service.get("/.well-known/webhook-keys.json").json()["keys"]]


def called(service, receiver, path: str, count: int) -> list:
    service.until(lambda: len(receiver.at(path)) >= count, f"{count} messages at {path}")
    return receiver.at(path)


def cancelled(service, url: str, payment: str, *, agent: str = "alpha") -> str:
    """Have an intent held and cancelled, and return its id."""
    answer = service.submit({**held(payment), "callback_url": url}, key=payment, agent=agent)
    assert answer.json()["status"] == "held", answer.text
    assert service.cancel(answer.json()["intent_id"], agent=agent).status_code == 200
    return answer.json()["intent_id"]


def test_an_outcome_is_posted_signed_and_without_a_token(calling, receiver):
    intent_id = cancelled(calling, receiver.url("/good/1?x=1"), "signed")

    [message] = called(calling, receiver, "/good/1?x=1", 1)
    event = webhook.verify(message.body, message.headers, keys(calling))
    assert event["type"] == "intent.cancelled"
    assert event["data"]["intent_id"] == intent_id
    assert event["data"]["token"] is None
    check_members(event["data"])
    assert message.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert "authorization" not in message.headers


def test_a_forged_or_altered_message_does_not_verify(calling, receiver):
    cancelled(calling, receiver.url("/good/2"), "altered")
    [message] = called(calling, receiver, "/good/2", 1)

    with pytest.raises(webhook.WebhookInvalid):
        webhook.verify(message.body + b" ", message.headers, keys(calling))
    with pytest.raises(webhook.WebhookInvalid):
        webhook.verify(message.body, message.headers, [Ed25519PrivateKey.generate().public_key()])


def test_a_late_allow_and_its_claim_are_posted_and_an_answer_at_once_is_not(calling, receiver):
    at_once = calling.submit({**read_note("at once"), "callback_url": receiver.url("/good/at-once")})
    assert at_once.status_code == 200
    with calling.stopped("postgres"):
        calling.until(lambda: not calling.ready(), "the outage is noticed")
        queued = calling.submit({**read_note("late"), "callback_url": receiver.url("/good/late")}, key="late").json()
    [first] = called(calling, receiver, "/good/late", 1)
    assert first.document["type"] == "intent.claimable"
    assert first.document["data"]["queue"]["expires_at"]

    assert calling.claim(queued["intent_id"]).status_code == 200

    messages = called(calling, receiver, "/good/late", 2)
    assert messages[1].document["type"] == "intent.granted"
    assert b"eyJ" not in messages[1].body
    assert receiver.at("/good/at-once") == []


def test_a_receiver_that_fails_is_tried_again_with_the_same_message(calling, receiver):
    cancelled(calling, receiver.url("/fail-once"), "failing")

    messages = called(calling, receiver, "/fail-once", 2)
    assert len({(message.headers["webhook-id"], message.body) for message in messages}) == 1


def test_410_ends_it_and_a_redirect_is_not_followed(calling, receiver):
    cancelled(calling, receiver.url("/gone"), "gone")
    cancelled(calling, receiver.url("/redirect"), "redirected")
    called(calling, receiver, "/gone", 1)
    messages = called(calling, receiver, "/redirect", 2)

    assert len(receiver.at("/gone")) == 1
    assert messages[0].headers["webhook-id"] == messages[1].headers["webhook-id"]
    assert [message.path for message in receiver.got if "trap" in message.path] == []


@pytest.mark.parametrize(("path", "agent"), [("/hang", "alpha"), ("/drip", "gamma"), ("/flood", "filler")])
def test_a_receiver_that_holds_the_line_holds_up_nobody_else(calling, receiver, path, agent):
    for n in range(6):
        cancelled(calling, receiver.url(path), f"{path[1:]}-{n}", agent=agent)
    called(calling, receiver, path, 1)

    cancelled(calling, receiver.url(f"/good{path}"), f"beside-{path[1:]}", agent="beta")

    called(calling, receiver, f"/good{path}", 1)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.2/x",
        "http://10.0.0.1/x",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/x",
        "http://[::ffff:127.0.0.1]/x",
        "http://localhost:8080/x",
        "http://2130706433/x",
        "ftp://127.0.0.1/x",
        "http://user@127.0.0.1/x",
        "http://127.0.0.1:22/x",
        "not a url",
    ],
)
def test_a_receiver_inside_is_refused_at_the_submission(calling, url):
    answer = calling.submit({**held(), "callback_url": url}, key="refused")
    assert "`callback_url`" in problem(answer, 400, "CALLBACK_REFUSED")["detail"]


def test_by_default_nothing_private_may_be_called(service):
    """The service that every other test talks to was told nothing of receivers."""
    service.until(lambda: keys(service) != [], "the webhook keys are published")
    for url in ("https://127.0.0.1:8443/x", "https://10.0.0.1/x", "http://93.184.216.34/x"):
        problem(service.submit({**held(), "callback_url": url}, key="refused"), 400, "CALLBACK_REFUSED")


def test_the_log_holds_what_was_given_up_and_still_verifies(calling, receiver):
    cancelled(calling, receiver.url("/gone/again"), "gone-again")
    called(calling, receiver, "/gone/again", 1)
    calling.until(lambda: "holdfast_webhooks_waiting" in calling.get("/metrics").text, "the metrics are there")

    verified = calling.verify([])
    assert verified.returncode == 0, verified.stdout + verified.stderr
