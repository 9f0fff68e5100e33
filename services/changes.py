"""Changes of waiting intents, in one order that never gains anything in the past. See infra/migrations/0033_events.sql.

A change is a status and the envelope as it was then. It never holds a token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import orjson
from holdfast.reasons import Status

from services.outcome import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from holdfast.strict_json import JSON

#: Statuses that may still change. A claimable intent can be picked up, so nobody waits any longer for it.
OPEN: Final = frozenset({Status.QUEUED, Status.HELD, Status.CLAIMABLE})
UNDECIDED: Final = frozenset({Status.QUEUED, Status.HELD})

_POSITION: Final = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,17})")


class MalformedPosition(ValueError):
    """The text is not a position."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the order of changes: the transaction that wrote the change, and its number."""

    xid: int
    number: int

    def __str__(self) -> str:
        return f"{self.xid}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read what `str` wrote. Raises: MalformedPosition."""
        found = _POSITION.fullmatch(text)
        if found is None or int(found[1]) >= 2**63:
            raise MalformedPosition("a position is two numbers with `-` between them")
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of one intent. `stored` is the stored envelope's JSON."""

    position: Position
    agent: str
    intent_id: str
    version: int
    status: str
    stored: str
    claim_by: datetime | None = None

    def envelope(self) -> dict[str, JSON]:
        """Return the envelope as of this change."""
        return shown(orjson.loads(self.stored), status=self.status, claim_by=self.claim_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one look at the feed brought.

    `settled` are changes that nothing can come before any more; `early` are visible already, and may still be preceded
    by what has not committed: good to wake somebody, not to be put in order. `next` is where to look from next time.
    """

    settled: Sequence[Change]
    early: Sequence[Change]
    next: Position
    more: bool = False


class ChangeFeed(Protocol):
    """Reads of changes. Raises: StoreUnreachable."""

    async def head(self) -> Position:
        """Return a position that every change which is not committed yet comes after."""
        ...

    async def after(self, position: Position) -> Page:
        """Return what came after `position`, of all agents, in order and bounded."""
        ...

    async def missed(self, position: Position, *, agent: str, intent_id: str | None) -> Page | None:
        """Return an agent's settled changes after `position`; None when what came after it is not all known."""
        ...

    async def decided(self, intent_ids: Sequence[str]) -> Sequence[Change]:
        """Return which of these intents are no longer undecided, as of now. Their positions mean nothing."""
        ...


def shown(stored: Mapping[str, JSON], *, status: str, claim_by: datetime | None) -> dict[str, JSON]:
    """Return a stored envelope as it is shown later: without a token, and with the time to claim it by."""
    envelope = {**stored, "token": None}
    if status == Status.CLAIMABLE and claim_by is not None:
        envelope["queue"] = {"state": "durable", "lane": None, "position": None, "expires_at": rfc3339(claim_by)}
    return envelope
