"""A receiver believes a message that is signed by a key it knows, fresh, and whole; nothing else."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from holdfast import WebhookInvalid, webhook

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in (1, 2))
BODY = json.dumps({"type": "intent.claimable", "version": 2, "data": {"intent_id": "int_1", "token": None}}).encode()
NOW = 1_800_000_000


def public(key) -> str:
    return "whpk_" + base64.b64encode(key.public_key().public_bytes_raw()).decode()


def signature(key=KEY, *, message_id="msg_1", timestamp=str(NOW), body=BODY) -> str:
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return "v1a," + base64.b64encode(key.sign(signed)).decode()


def headers(**changes: str) -> dict[str, str]:
    made = {"webhook-id": "msg_1", "webhook-timestamp": str(NOW), "webhook-signature": signature()}
    return {**made, **{name.replace("_", "-"): value for name, value in changes.items()}}


def verify(body=BODY, given=None, keys=None, now=NOW):
    return webhook.verify(body, given or headers(), [public(KEY)] if keys is None else keys, now=now)


def test_an_authentic_message_is_returned_as_its_event():
    assert verify()["data"]["intent_id"] == "int_1"
    assert verify(keys=[KEY.public_key()])["type"] == "intent.claimable"
    assert verify(given={name.upper(): value for name, value in headers().items()})["version"] == 2


def test_while_a_key_is_replaced_one_of_several_signatures_and_keys_is_enough():
    both = headers(webhook_signature=f"v1,c29tZXRoaW5n {signature(OTHER)} {signature()}")
    for keys in ([public(KEY)], [public(OTHER)], [public(OTHER), public(KEY)]):
        verify(given=both, keys=keys)


@pytest.mark.parametrize("late", [301, -301, 10**9])
def test_a_message_from_another_time_is_refused(late):
    verify(now=NOW + 300)
    verify(now=NOW - 300)
    with pytest.raises(WebhookInvalid):
        verify(now=NOW + late)


def test_no_key_verifies_nothing():
    with pytest.raises(WebhookInvalid):
        verify(keys=[])


@pytest.mark.parametrize(
    "given",
    [
        headers(webhook_signature=signature(OTHER)),
        headers(webhook_signature=signature(body=BODY + b" ")),
        headers(webhook_signature=signature(message_id="msg_2")),
        headers(webhook_signature=signature(timestamp=str(NOW + 1))),
        headers(webhook_signature=signature().removeprefix("v1a,")),
        headers(webhook_signature="v1" + signature().removeprefix("v1a")),
        headers(webhook_signature=""),
        headers(webhook_signature="v1a,"),
        headers(webhook_signature="v1a,!!!"),
        headers(webhook_signature=" ".join([signature(OTHER)] * 16 + [signature()])),
        headers(webhook_id="msg.1"),
        headers(webhook_id=""),
        headers(webhook_timestamp=f"0{NOW}"),
        headers(webhook_timestamp=f"{NOW}.0"),
        headers(webhook_timestamp="-1"),
        headers(webhook_timestamp="١٨"),
        {name: value for name, value in headers().items() if name != "webhook-id"},
        {**headers(), "Webhook-Id": "msg_1"},
    ],
)
def test_a_message_whose_headers_are_not_the_signers_is_refused(given):
    with pytest.raises(WebhookInvalid):
        verify(given=given)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data": 1}', b'{"data": {}, "data": {}}', b"\xff", b"{" * 100])
def test_a_signed_message_that_is_no_event_is_refused(body):
    with pytest.raises(WebhookInvalid):
        verify(body, headers(webhook_signature=signature(body=body)))


@pytest.mark.parametrize(
    "key", ["", "whpk_", "whpk_AAAA", "whsk_" + public(KEY)[5:], public(KEY)[5:], "whpk_" + "A" * 43 + "="]
)
def test_a_key_that_is_none_or_verifies_anything_is_refused(key):
    with pytest.raises(ValueError, match="webhook key"):
        verify(keys=[key])


def test_no_error_quotes_the_message():
    body = b'{"data": {"secret": "hunter2"}}'
    with pytest.raises(WebhookInvalid) as caught:
        verify(body)
    assert "hunter2" not in str(caught.value)
