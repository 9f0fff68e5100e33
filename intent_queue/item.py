"""What the queue hands out: an intent under a lease, and a row as an operator sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from intent_queue.order import Lane
    from intent_queue.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedItem:
    """One intent under a lease. Whoever settles it must name `epoch` and `version`, so that it is settled once.

    `submission` is the canonical JSON as the agent sent it: a late decision starts from there, never from an old one.
    `leased_from` is `waiting` for an intent to decide; one to expire comes from any waiting state.
    """

    intent_id: str
    agent: str
    lane: Lane
    rank_at: datetime
    enqueued_at: datetime
    expires_at: datetime
    attempts: int
    epoch: int
    version: int
    submission: bytes
    reason_code: str
    leased_from: State


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedItem:
    """One row of the queue. `version` is the intent's, for optimistic changes."""

    intent_id: str
    agent: str
    state: State
    lane: Lane
    rank_at: datetime
    enqueued_at: datetime
    expires_at: datetime
    not_before: datetime
    attempts: int
    reason_code: str
    lease_until: datetime | None
    leased_by: str | None
    version: int

    @property
    def cursor(self) -> Cursor:
        """The place to continue a listing from."""
        return Cursor(lane=self.lane, rank_at=self.rank_at, intent_id=self.intent_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A place in the queue's order."""

    lane: Lane
    rank_at: datetime
    intent_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What a listing is narrowed to; None is everything."""

    state: State | None = None
    lane: Lane | None = None
    agent: str | None = None
    category: str | None = None
    reason_code: str | None = None
    queued_before: datetime | None = None
    queued_after: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some rows in order. `after` is where the next page starts, None on the last."""

    items: Sequence[QueuedItem]
    after: Cursor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reclaimed:
    """What became of leases that ran out: how many went back, and which intents are parked after too many attempts."""

    returned: int
    parked: Sequence[str]
