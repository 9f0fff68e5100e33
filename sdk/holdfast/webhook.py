"""What a receiver of webhooks does with a message before it believes a word of it: Standard Webhooks with Ed25519.

    event = holdfast.webhook.verify(body, request.headers, ["whpk_…"])    # raises, or returns the event

`body` is the bytes as received, before anything parsed them. The keys are those of `/.well-known/webhook-keys.json`,
pinned or fetched over TLS by the receiver itself. An event is news, never a permission: it holds no token, and who acts
on it looks the intent up. The same event may come twice; its `webhook-id` is then the same.
Source: Standard Webhooks specification 1.0.0.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from holdfast import strict_json
from holdfast.errors import MalformedJSON, WebhookInvalid
from holdfast.token import VerifyKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from holdfast.strict_json import JSON

#: How far the sender's clock may be from the receiver's.
TOLERANCE_S: Final = 300
MAX_BODY_BYTES: Final = 1 << 20

_SCHEME: Final = "v1a,"
_KEY: Final = "whpk_"
_KEY_BYTES: Final = 32
_MESSAGE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SECONDS: Final = re.compile(r"0|[1-9][0-9]{0,15}")
_MAX_SIGNATURES: Final = 16

Key: TypeAlias = "str | Ed25519PublicKey"


def verify(
    body: bytes,
    headers: Mapping[str, str],
    keys: Iterable[Key],
    *,
    now: float | None = None,
    tolerance_s: int = TOLERANCE_S,
) -> dict[str, JSON]:
    """Return the event of an authentic, fresh message: `type`, `timestamp`, `version`, and the envelope as `data`.

    `now` is seconds since the epoch, the machine's unless given. Raises: WebhookInvalid, also without a key; ValueError
    for a key that is none.
    """
    known = [_public(key) for key in keys]
    # 1. One of each header, whatever case it was written in.
    message_id = _header(headers, "webhook-id")
    timestamp = _header(headers, "webhook-timestamp")
    signatures = _header(headers, "webhook-signature")
    if _MESSAGE_ID.fullmatch(message_id) is None or _SECONDS.fullmatch(timestamp) is None:
        raise WebhookInvalid("the headers are malformed")
    # 2. Fresh: an old message that was recorded once proves nothing today.
    at = time.time() if now is None else now
    if not abs(at - int(timestamp)) <= tolerance_s:
        raise WebhookInvalid("the message is too old or from the future")
    # 3. Signed by a known key. Several signatures stand there while a key is replaced; one that holds is enough.
    if len(body) > MAX_BODY_BYTES:
        raise WebhookInvalid("the message is too long")
    signed = b".".join((message_id.encode("ascii"), timestamp.encode("ascii"), body))
    offered = signatures.split(" ")
    if len(offered) > _MAX_SIGNATURES or not any(_holds(one, signed, key) for one in offered for key in known):
        raise WebhookInvalid("the signature is not by a known key")
    # 4. Only now is it read.
    try:
        event = strict_json.loads(body)
    except MalformedJSON as error:
        raise WebhookInvalid("the message is not an event") from error
    if not isinstance(event, dict) or not isinstance(event.get("data"), dict):
        raise WebhookInvalid("the message is not an event")
    return event


def _header(headers: Mapping[str, str], name: str) -> str:
    values = [value for given, value in headers.items() if given.lower() == name]
    if len(values) != 1 or not isinstance(values[0], str):
        raise WebhookInvalid("a header is missing or stands twice")
    return values[0]


def _holds(offered: str, signed: bytes, key: Ed25519PublicKey) -> bool:
    if not offered.startswith(_SCHEME):
        return False
    try:
        key.verify(base64.b64decode(offered.removeprefix(_SCHEME), validate=True), signed)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _public(key: Key) -> Ed25519PublicKey:
    """Return a key in its canonical form; one of small order would verify anything. Raises: ValueError."""
    if isinstance(key, Ed25519PublicKey):
        data = key.public_bytes_raw()
    else:
        try:
            data = base64.b64decode(key.removeprefix(_KEY), validate=True) if key.startswith(_KEY) else b""
        except (binascii.Error, ValueError):
            data = b""
    if len(data) != _KEY_BYTES:
        raise ValueError("a webhook key is `whpk_` and 32 bytes in base64")
    try:
        VerifyKey.from_public_bytes(data)
    except ValueError:
        raise ValueError("the webhook key is not a sound Ed25519 key") from None
    return Ed25519PublicKey.from_public_bytes(data)
