"""The keys that tokens are trusted by: the service's key set over the wire, or keys pinned by hand.

An empty set never verifies anything, and a set that cannot be read is an error, not an empty set.
Source: RFC 7517, RFC 8037, design 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from holdfast import strict_json
from holdfast.errors import MalformedJSON, ServiceUnavailable
from holdfast.exchange import Lost, Request
from holdfast.token import VerifyKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.exchange import Outside

PATH: Final = "/.well-known/jwks.json"
MAX_KEYS: Final = 64


class KeySource(Protocol):
    """Where the verifying keys come from."""

    async def for_header(self, header: str) -> tuple[VerifyKey, ...]:
        """Return the trusted keys, asking again if none has this header. Raises: ServiceUnavailable when none are."""
        ...


def parse_jwks(body: bytes) -> tuple[VerifyKey, ...]:
    """Read a JWK set. A key of another kind is passed over. Raises: ServiceUnavailable if none is usable."""
    try:
        document = strict_json.loads(body)
    except MalformedJSON as error:
        raise ServiceUnavailable("the key set is not strict JSON") from error
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ServiceUnavailable("the key set is malformed")
    keys: dict[str, VerifyKey] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise ServiceUnavailable("the key set holds something that is not a key")
        try:
            key = VerifyKey.from_jwk(entry)
        except ValueError:  # a key of another algorithm or use, which no authority token is signed with
            continue
        keys[key.kid] = key
    if not keys:
        raise ServiceUnavailable("the key set holds no usable key")
    return tuple(keys.values())


class PinnedKeys:
    """Keys known beforehand. Nothing is fetched, nothing expires."""

    def __init__(self, keys: Iterable[VerifyKey]) -> None:
        self._keys = tuple(keys)
        if not self._keys:
            raise ValueError("an empty set of pinned keys would verify nothing")

    @classmethod
    def from_jwks(cls, body: bytes) -> PinnedKeys:
        """Take the keys of a stored `jwks.json`. Raises: ServiceUnavailable if none is usable."""
        return cls(parse_jwks(body))

    async def for_header(self, header: str) -> tuple[VerifyKey, ...]:
        """See `KeySource.for_header`."""
        del header
        return self._keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """How long fetched keys are good for, in seconds.

    After `fresh_s` they are fetched again on the next use; while that fails they serve until `max_stale_s`, and then
    nothing verifies. `cooldown_s` bounds how often an unknown key may cause a fetch, `retry_s` how often a failing
    fetch is repeated.
    """

    fresh_s: float = 300
    max_stale_s: float = 3600
    cooldown_s: float = 10
    retry_s: float = 1
    timeout_s: float = 2

    def __post_init__(self) -> None:
        """Refuse limits that would never expire or never fetch."""
        if not 0 < self.fresh_s <= self.max_stale_s <= 24 * 3600 or min(self.cooldown_s, self.retry_s) < 0:
            raise ValueError("0 < fresh_s <= max_stale_s <= one day, and cool-downs are not negative")
        if self.timeout_s <= 0:
            raise ValueError("timeout_s must be positive")


class FetchedKeys:
    """The service's key set, fetched when needed, one fetch at a time, and never trusted beyond `max_stale_s`."""

    def __init__(self, outside: Outside, freshness: Freshness | None = None) -> None:
        self._outside = outside
        self._freshness = freshness or Freshness()
        self._lock = outside.lock()
        self._keys: tuple[VerifyKey, ...] = ()
        self._fetched_at = float("-inf")
        self._next_try_at = float("-inf")
        self._next_unknown_at = float("-inf")
        self._why = "the key set was never fetched"

    async def for_header(self, header: str) -> tuple[VerifyKey, ...]:
        """See `KeySource.for_header`."""
        if self._wants_fetch(header) and not (self._serves(header) and self._lock.locked()):
            async with self._lock:
                if self._wants_fetch(header):
                    await self._fetch()
        if not self._keys or self._age() > self._freshness.max_stale_s:
            raise ServiceUnavailable(f"no trustworthy key set: {self._why}")
        return self._keys

    def _age(self) -> float:
        return self._outside.monotonic() - self._fetched_at

    def _serves(self, header: str) -> bool:
        known = any(key.header_segment == header for key in self._keys)
        return known and self._age() <= self._freshness.max_stale_s

    def _wants_fetch(self, header: str) -> bool:
        now = self._outside.monotonic()
        if not self._keys or self._age() >= self._freshness.fresh_s:
            return now >= self._next_try_at
        return not self._serves(header) and now >= max(self._next_unknown_at, self._next_try_at)

    async def _fetch(self) -> None:
        asked_at = self._outside.monotonic()
        reply = await self._outside.exchange(
            Request(method="GET", path=PATH, timeout_s=self._freshness.timeout_s, credential=False)
        )
        now = self._outside.monotonic()
        self._next_unknown_at = now + self._freshness.cooldown_s
        self._next_try_at = now + self._freshness.retry_s
        if isinstance(reply, Lost):
            self._why = reply.why
            return
        if reply.status != 200:  # noqa: PLR2004 - HTTP
            self._why = f"its address answered {reply.status}"
            return
        try:
            self._keys = parse_jwks(reply.body)
        except ServiceUnavailable as error:
            self._why = str(error)
            return
        self._fetched_at = asked_at
