"""What travels over the signer's socket: frames of a 4-byte big-endian length and that many bytes of strict JSON.

Requests: `{"id", "op": "sign", "claims", "replaces"?}`, `{"id", "op": "health", "nonce"}`, `{"id", "op": "keys"}`.
Answers carry the request's `id` and `token`, or `kid` and `canary`, or `keys`; or else `error` and `detail`.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Final

from holdfast import strict_json
from holdfast.errors import MalformedJSON

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from holdfast.strict_json import JSON

MAX_FRAME_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 8
NONCE: Final = re.compile(r"[0-9a-f]{32}")

_LENGTH_BYTES = 4


class MalformedFrame(Exception):
    """The peer does not speak this protocol. The connection is of no further use."""


class FrameReader:
    """Cuts a byte stream into JSON objects. Holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, JSON]]:
        """Yield the objects that `data` completes. Raises: MalformedFrame, as early as the length allows."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if not 0 < length <= MAX_FRAME_BYTES:
                raise MalformedFrame(f"a frame of {length} bytes")
            end = _LENGTH_BYTES + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH_BYTES:end])
            del self._buffer[:end]
            try:
                document = strict_json.loads(body, max_depth=MAX_DEPTH)
            except MalformedJSON as error:
                raise MalformedFrame(str(error)) from error
            if not isinstance(document, dict):
                raise MalformedFrame("the frame is not an object")
            yield document


def frame(document: Mapping[str, object]) -> bytes:
    """Return one frame. Raises: ValueError if the object is too large for one."""
    body = json.dumps(document, separators=(",", ":")).encode("ascii")
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"the object has {len(body)} bytes; a frame holds {MAX_FRAME_BYTES}")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def request_id(document: Mapping[str, JSON]) -> int:
    """Return the `id` of a request or an answer. Raises: MalformedFrame; without one nothing can be answered."""
    number = document.get("id")
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise MalformedFrame("the frame has no `id`")
    return number


def read_signature(text: str) -> bytes:
    """Return the bytes of unpadded base64url. Raises: ValueError."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def canary_message(nonce: str) -> bytes:
    """Return the bytes signed to prove health. No JWS signing input has a line end, so this can never be a token."""
    return b"holdfast-signer-canary/v1\n" + nonce.encode("ascii") + b"\n"
