"""How the records of one stream follow each other.

`link` is the only way a record's bytes are made. It keeps the profile of `holdfast.audit.record`, whose slower
`canonical` and `read` are the oracle that the tests hold it to. Values in, values out.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson
from holdfast.audit.record import GENESIS, MAX_BODY_BYTES, Receipt, leaf_hash, timestamp
from holdfast.errors import AuditInvalid
from holdfast.strict_json import MAX_INTEGER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from holdfast.strict_json import JSON

RESERVED: Final = frozenset({"stream", "seq", "prev", "at", "kind"})
MAX_DEPTH: Final = 16

_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")
_KIND = re.compile(r"[a-z][a-z_]*(?:\.[a-z][a-z_]*)?")
_PLAIN: Final = (str, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A record that has its place: exact bytes, the receipt whose hash is theirs, and the hash before it."""

    receipt: Receipt
    prev: str
    body: bytes


def link(
    stream: str, after: Receipt | None, *, kind: str, at: datetime, members: Mapping[str, JSON] | None = None
) -> Link:
    """Return the record that follows `after` in `stream`; the first one follows None.

    Raises: AuditInvalid for what the profile does not allow; nothing of it can be recorded.
    """
    if after is not None and after.stream != stream:
        raise AuditInvalid("a record follows one of its own stream")
    if _KIND.fullmatch(kind) is None:
        raise AuditInvalid(f"the kind `{kind[:64]}` is malformed")
    body: dict[str, JSON] = dict(members or {})
    if not RESERVED.isdisjoint(body):
        raise AuditInvalid("a member takes the name of one that the chain writes")
    body["stream"] = stream
    seq = body["seq"] = 0 if after is None else after.seq + 1
    prev = body["prev"] = GENESIS if after is None else after.hash
    body["at"] = _time(at)
    body["kind"] = kind
    exact = canonical(body)
    if len(exact) > MAX_BODY_BYTES:
        raise AuditInvalid("a record is too large")
    return Link(receipt=Receipt(stream=stream, seq=seq, hash=leaf_hash(exact)), prev=prev, body=exact)


def canonical(members: dict[str, JSON]) -> bytes:
    """Return what `record.canonical` returns, thirty times faster. Raises: AuditInvalid outside of the profile."""
    _check(members, 0)
    try:
        return orjson.dumps(members, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:  # a lone surrogate
        raise AuditInvalid(f"a record has no canonical bytes: {error}") from error


def void_kind(kind: str, *, earlier: bool = False) -> str:
    """Return the kind of the record that voids one of `kind`: `decision` and `decision.grant` give `decision.void`.

    One that stands in an `earlier` stream is voided by `decision.void_earlier`: a `void` points into its own stream.
    """
    return kind.partition(".")[0] + (".void_earlier" if earlier else ".void")


def _time(at: datetime) -> str:
    try:
        return timestamp(at)
    except ValueError as error:
        raise AuditInvalid(str(error)) from error


def _check(value: object, depth: int) -> None:
    """Refuse what the profile does not name. Narrower than `check_profile`: orjson would write other types too."""
    if depth > MAX_DEPTH:
        raise AuditInvalid("a record is nested too deeply")
    if isinstance(value, _PLAIN):
        return
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise AuditInvalid("an integer is beyond 2^53 - 1")
    elif isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str) or not _is_key(key):
                raise AuditInvalid(f"the key `{str(key)[:64]!r}` is not ASCII snake_case")
            _check(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            _check(member, depth + 1)
    else:
        raise AuditInvalid(f"a record holds no {type(value).__name__}")


@functools.lru_cache(maxsize=1024)
def _is_key(key: str) -> bool:
    """Tell whether the profile has such keys. The service's own are few, and come with every record."""
    return _KEY.fullmatch(key) is not None
