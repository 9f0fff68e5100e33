"""What can be said of a lane: its modes, its limits, its counters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.ports import RecordingFailed


class Unrecordable(RecordingFailed):
    """This entry can never be recorded, whatever the weather: its members or its effect keep no profile."""


class Mode(StrEnum):
    """Where records go."""

    DATABASE = "database"
    JOURNAL = "journal"
    CLOSED = "closed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """How long, and how much. `hedge_s` is what a batch that the journal may release waits for PostgreSQL."""

    name: str = "main"
    hedge_s: float = 0.25
    commit_deadline_s: float = 2.0
    group_rows: int = 512
    group_bytes: int = 4 << 20
    waiting_rows: int = 8192
    waiting_bytes: int = 16 << 20
    drain_rows: int = 1024
    heartbeat_s: float = 10.0
    reconnect_first_s: float = 0.1
    reconnect_last_s: float = 2.0
    journal_retry_s: float = 1.0

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        if not 0 < self.hedge_s <= self.commit_deadline_s:
            raise ValueError("the hedge is positive and not longer than the commit's deadline")
        if not 0 < self.group_rows <= min(self.waiting_rows, self.drain_rows):
            raise ValueError("a group has records, and fits what may wait and what is drained at once")
        if min(self.group_bytes, self.waiting_bytes, self.heartbeat_s, self.reconnect_first_s) <= 0:
            raise ValueError("bounds and intervals are positive")
        if not 0 < self.reconnect_first_s <= self.reconnect_last_s or self.journal_retry_s <= 0:
            raise ValueError("pauses are positive, and grow")


@dataclass(slots=True)
class LaneCounters:
    """What happened since the start, for metrics. Records, but for `batches`, `in_doubt` and `returns`."""

    chained: int = 0
    committed: int = 0
    journalled: int = 0
    refused: int = 0
    voided: int = 0
    drained: int = 0
    batches: int = 0
    in_doubt: int = 0
    returns: int = 0
    commit_seconds: float = 0.0
