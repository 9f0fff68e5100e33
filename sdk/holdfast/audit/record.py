"""One audit record: canonical bytes, and the hash that is chain link, Merkle leaf and receipt at once.

`hash = SHA-256(0x00 || body)`, the RFC 6962 leaf hash over the exact stored bytes. The body carries `stream`, `seq` and
`prev`, so nothing that matters lives outside the hashed bytes. Source: design 8.

The profile is a subset of RFC 8785: ASCII snake_case keys, integers within 2^53 - 1, no floats, no null, times as
fixed-width UTC text.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from holdfast import strict_json
from holdfast.errors import AuditInvalid, MalformedJSON

if TYPE_CHECKING:
    from holdfast.strict_json import JSON

GENESIS: Final = "0" * 64
MAX_BODY_BYTES: Final = 1 << 20
SEAL_DOMAIN: Final = b"holdfast-seal/v1\n"

_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")
_STREAM = re.compile(r"str_[0-9a-z]{26}")
_HASH = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_KIND = re.compile(r"[a-z][a-z_]*(?:\.[a-z][a-z_]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Where a record stands: what a token carries as `rcp`. `hash` is 64 hexadecimal digits."""

    stream: str
    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.stream}:{self.seq}:{self.hash}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record as read back from its exact bytes."""

    stream: str
    seq: int
    prev: str
    at: str
    kind: str
    members: dict[str, JSON]
    body: bytes
    hash: str

    @property
    def receipt(self) -> Receipt:
        """The record's place and hash."""
        return Receipt(stream=self.stream, seq=self.seq, hash=self.hash)


def leaf_hash(body: bytes) -> str:
    """Return the RFC 6962 leaf hash of the exact bytes, in hexadecimal."""
    return hashlib.sha256(b"\x00" + body).hexdigest()


def timestamp(moment: datetime) -> str:
    """Return fixed-width UTC text with microseconds. Raises: ValueError for a naive datetime."""
    if moment.utcoffset() is None:
        raise ValueError("a record's time is aware")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def check_profile(members: JSON, *, depth: int = 0) -> None:
    """Refuse what the profile does not allow. Raises: AuditInvalid. Every writer and every reader calls it."""
    if depth > 16:  # noqa: PLR2004 - records are shallow
        raise AuditInvalid("a record is nested too deeply")
    if isinstance(members, dict):
        for key, value in members.items():
            if _KEY.fullmatch(key) is None:
                raise AuditInvalid(f"the key `{key[:64]!r}` is not ASCII snake_case")
            check_profile(value, depth=depth + 1)
    elif isinstance(members, list):
        for value in members:
            check_profile(value, depth=depth + 1)
    elif isinstance(members, float) or members is None:
        raise AuditInvalid("a record holds no floats and no null")
    elif isinstance(members, int) and not isinstance(members, bool) and abs(members) > strict_json.MAX_INTEGER:
        raise AuditInvalid("an integer is beyond 2^53 - 1")


def read(body: bytes) -> Record:
    """Read one record from its exact bytes and compute its hash.

    Raises: AuditInvalid if the bytes are not the canonical form of a record.
    """
    if len(body) > MAX_BODY_BYTES:
        raise AuditInvalid("a record is too large")
    try:
        members = strict_json.loads(body)
    except MalformedJSON as error:
        raise AuditInvalid(f"a record is not strict JSON: {error}") from error
    if not isinstance(members, dict):
        raise AuditInvalid("a record is not an object")
    check_profile(members)
    if canonical(members) != body:
        raise AuditInvalid("a record's bytes are not canonical")
    stream, seq, prev = members.get("stream"), members.get("seq"), members.get("prev")
    at, kind = members.get("at"), members.get("kind")
    if not isinstance(stream, str) or _STREAM.fullmatch(stream) is None:
        raise AuditInvalid("the member `stream` is malformed")
    if not isinstance(seq, int) or isinstance(seq, bool) or seq < 0:
        raise AuditInvalid("the member `seq` is malformed")
    if not isinstance(prev, str) or _HASH.fullmatch(prev) is None:
        raise AuditInvalid("the member `prev` is malformed")
    if not isinstance(at, str) or _TIME.fullmatch(at) is None:
        raise AuditInvalid("the member `at` is malformed")
    if not isinstance(kind, str) or _KIND.fullmatch(kind) is None:
        raise AuditInvalid("the member `kind` is malformed")
    return Record(stream=stream, seq=seq, prev=prev, at=at, kind=kind, members=members, body=body, hash=leaf_hash(body))


def canonical(members: dict[str, JSON]) -> bytes:
    """Return the canonical bytes of members that keep the profile: sorted keys, no white space, UTF-8."""
    return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def seal_message(head: Receipt) -> bytes:
    """Return the bytes that a stream's ephemeral key signs to seal everything up to `head`."""
    return SEAL_DOMAIN + str(head).encode("ascii") + b"\n"
