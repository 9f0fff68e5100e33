"""Signatures of what is sent to a webhook: Standard Webhooks, asymmetric (`v1a`).

The signature is Ed25519 over `id.timestamp.body`. It travels as `webhook-signature: v1a,BASE64` beside `webhook-id` and
`webhook-timestamp`; a receiver needs the public key alone. Source: Standard Webhooks specification 1.0.0, "Asymmetric".
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

if TYPE_CHECKING:
    from collections.abc import Iterable

#: How far a receiver's clock may be from ours. Source: the specification's reference implementations.
TOLERANCE_S: Final = 300

_SCHEME: Final = "v1a"
_PRIVATE: Final = "whsk_"
_PUBLIC: Final = "whpk_"
_SEED_BYTES: Final = 32
#: The dot separates the signed parts, so that an id which holds one could be read as another message.
_MESSAGE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MOST_SIGNATURES: Final = 8


class SignatureInvalid(Exception):
    """The message was not signed by a holder of one of the keys, or too long ago."""


class KeyMalformed(ValueError):
    """The text is not a key of Standard Webhooks."""


def sign(key: Ed25519PrivateKey, *, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`. `timestamp` is seconds since the epoch. Raises: ValueError."""
    if _MESSAGE_ID.fullmatch(message_id) is None:
        raise ValueError("a message's id has 1 to 128 letters, digits, `_` or `-`")
    if isinstance(timestamp, bool) or timestamp < 0:
        raise ValueError("a timestamp is seconds since the epoch")
    signature = key.sign(_signed(message_id, str(timestamp), body))
    return f"{_SCHEME},{base64.b64encode(signature).decode('ascii')}"


def verify(
    keys: Iterable[Ed25519PublicKey],
    *,
    message_id: str,
    timestamp: str,
    signature: str,
    body: bytes,
    now: int,
    tolerance_s: int = TOLERANCE_S,
) -> None:
    """Return if one of the header's signatures is by one of the keys, over this message, and fresh.

    A receiver that was given no key verifies nothing. Raises: SignatureInvalid.
    """
    # 1. The form of the headers.
    if _MESSAGE_ID.fullmatch(message_id) is None:
        raise SignatureInvalid("the message's id is malformed")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= len(str(2**63))):
        raise SignatureInvalid("the timestamp is not seconds since the epoch")
    # 2. Fresh: a message that was seen once is not believed for ever.
    if abs(now - int(timestamp)) > tolerance_s:
        raise SignatureInvalid("the timestamp is too far from now")
    # 3. Signed. Several signatures stand beside each other while a key is replaced.
    signed = _signed(message_id, timestamp, body)
    offered = signature.split(" ")
    if len(offered) > _MOST_SIGNATURES:
        raise SignatureInvalid("there are too many signatures")
    held = tuple(keys)
    for one in offered:
        scheme, _, text = one.partition(",")
        if scheme == _SCHEME and any(_is_by(key, text, signed) for key in held):
            return
    raise SignatureInvalid("no signature is by a known key")


def encode_private(key: Ed25519PrivateKey) -> str:
    """Return the private key as a key file holds it: `whsk_` and base64."""
    return _PRIVATE + base64.b64encode(key.private_bytes_raw()).decode("ascii")


def encode_public(key: Ed25519PublicKey) -> str:
    """Return the public key as receivers are given it: `whpk_` and base64."""
    return _PUBLIC + base64.b64encode(key.public_bytes_raw()).decode("ascii")


def decode_private(text: str) -> Ed25519PrivateKey:
    """Read `encode_private` back. Raises: KeyMalformed, which does not quote the key."""
    return Ed25519PrivateKey.from_private_bytes(_decoded(text, _PRIVATE))


def decode_public(text: str) -> Ed25519PublicKey:
    """Read `encode_public` back. Raises: KeyMalformed."""
    return Ed25519PublicKey.from_public_bytes(_decoded(text, _PUBLIC))


def _decoded(text: str, prefix: str) -> bytes:
    if not text.startswith(prefix):
        raise KeyMalformed(f"the key does not begin with `{prefix}`")
    try:
        data = base64.b64decode(text.removeprefix(prefix), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != _SEED_BYTES:
        raise KeyMalformed(f"the key is not {_SEED_BYTES} bytes in base64")
    return data


def _signed(message_id: str, timestamp: str, body: bytes) -> bytes:
    return b".".join((message_id.encode("ascii"), timestamp.encode("ascii"), body))


def _is_by(key: Ed25519PublicKey, text: str, signed: bytes) -> bool:
    try:
        key.verify(base64.b64decode(text, validate=True), signed)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
