"""Signatures of webhooks: what a receiver with the public key alone can tell."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.outbound.signature import (
    KeyMalformed,
    SignatureInvalid,
    decode_private,
    decode_public,
    encode_private,
    encode_public,
    sign,
    verify,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
NOW = 1_795_000_000
BODY = b'{"type":"incident.opened"}'


def verified(**changes) -> None:
    given = {
        "message_id": "ntc_1",
        "timestamp": str(NOW),
        "signature": sign(KEY, message_id="ntc_1", timestamp=NOW, body=BODY),
        "body": BODY,
        "now": NOW,
    }
    verify(changes.pop("keys", (PUBLIC,)), **(given | changes))


def test_the_signature_is_over_id_timestamp_and_body():
    """A receiver in any language computes the same bytes."""
    header = sign(KEY, message_id="ntc_1", timestamp=NOW, body=BODY)
    scheme, _, text = header.partition(",")
    assert scheme == "v1a"
    PUBLIC.verify(base64.b64decode(text), b"ntc_1.%d.%s" % (NOW, BODY))
    verified()


@pytest.mark.parametrize(
    "changes",
    [
        {"message_id": "ntc_2"},
        {"timestamp": str(NOW + 1)},
        {"body": BODY + b" "},
        {"now": NOW + 301},
        {"now": NOW - 301},
        {"keys": ()},
        {"keys": (Ed25519PrivateKey.generate().public_key(),)},
        {"signature": ""},
        {"signature": "v1a,"},
        {"signature": "v1a,????"},
        {"timestamp": "soon"},
        {"timestamp": "١٧٩٥"},
        {"timestamp": "9" * 5000},
        {"message_id": "ntc_1."},
    ],
)
def test_whatever_was_changed_is_refused(changes):
    with pytest.raises(SignatureInvalid):
        verified(**changes)


def test_a_symmetric_signature_is_not_taken_for_an_asymmetric_one():
    _, _, text = sign(KEY, message_id="ntc_1", timestamp=NOW, body=BODY).partition(",")
    with pytest.raises(SignatureInvalid):
        verified(signature=f"v1,{text}")


def test_a_key_is_replaced_while_both_sign():
    new = Ed25519PrivateKey.generate()
    both = " ".join(sign(key, message_id="ntc_1", timestamp=NOW, body=BODY) for key in (new, KEY))
    verified(signature=both)
    verified(signature=both, keys=(new.public_key(),))
    with pytest.raises(SignatureInvalid):
        verified(signature=" ".join([both] * 5))


@pytest.mark.parametrize("message_id", ["", "a.b", "a b", "é", "a" * 129])
def test_an_id_that_could_be_read_in_two_ways_is_not_signed(message_id):
    with pytest.raises(ValueError, match="id"):
        sign(KEY, message_id=message_id, timestamp=NOW, body=BODY)


def test_keys_travel_as_the_specification_writes_them():
    assert encode_private(decode_private(encode_private(KEY))) == encode_private(KEY)
    assert decode_public(encode_public(PUBLIC)).public_bytes_raw() == PUBLIC.public_bytes_raw()
    assert encode_private(KEY).startswith("whsk_")
    assert encode_public(PUBLIC).startswith("whpk_")


@pytest.mark.parametrize("text", ["", "whsk_", "whsk_AAAA", "whpk_" + "A" * 43 + "=", "whsk_" + "?" * 44])
def test_what_is_no_key_is_refused_without_being_quoted(text):
    with pytest.raises(KeyMalformed) as refused:
        decode_private(text)
    assert "AAAA" not in str(refused.value)
