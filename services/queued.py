"""A waiting intent as operators see it: the whole, and at a glance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from services.decision.approvals import Approval
    from services.ports import StoredIntent


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEntry:
    """An intent's place in the queue. `state` is what it is leased from while it is leased."""

    state: str
    leased: bool
    lane: int
    rank_at: datetime
    enqueued_at: datetime
    expires_at: datetime
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedIntent:
    """An intent with its place, None once it waits no more, and every approval it was given."""

    stored: StoredIntent
    entry: QueueEntry | None
    approvals: tuple[Approval, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What a list shows of an intent, beside its place: what was decided, under which bundle, and who approved."""

    act_hash: str
    category: str | None
    impact: str | None
    bundle: str | None
    determining: tuple[str, ...]
    approvals: tuple[Approval, ...]


class QueuedIntents(Protocol):
    """Reads of waiting intents. Raises: StoreUnreachable."""

    async def get(self, intent_id: str) -> QueuedIntent | None:
        """Return an intent, whether it still waits or not."""
        ...

    async def glances(self, intent_ids: Sequence[str]) -> Mapping[str, Glance]:
        """Return what a list shows, by id; an intent that is unknown is left out."""
        ...


class Approvals(Protocol):
    """What people approved."""

    async def given(self, intent_id: str) -> tuple[Approval, ...]:
        """Return every approval of an intent, whether it counts or not. Raises: StoreUnreachable."""
        ...
