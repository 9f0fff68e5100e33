"""What a lane needs from the database that holds the log, and what each answer must prove.

The contract suite is `tests/contract/test_audit_sink.py`; the sink on PostgreSQL and the one in memory pass it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from holdfast.audit.record import Receipt

    from services.recording.effects import EncodedEffect


class SinkFailed(Exception):
    """The database did not say that it stored what it was given. It may have."""


class Rejected(SinkFailed):
    """The database will never store this: a value, not the weather, is at fault. Nothing of the batch was stored."""


class Fork(SinkFailed):
    """The database holds another record in this place. Two histories exist; a human has to look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record as stored. `hash` is 32 bytes."""

    seq: int
    hash: bytes
    body: bytes
    effect: EncodedEffect | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Consecutive records of one stream. `prev` is the hash before the first, `seal` covers everything to the last.

    With `recovering` the rows may be stored already, and then must be these.
    """

    stream: str
    prev: bytes
    rows: Sequence[Row]
    seal: bytes | None
    recovering: bool = False


class AuditSink(Protocol):
    """The log in a database, through one connection of its own. One call at a time; `abandon` at any time."""

    async def connect(self, identity: str) -> None:
        """Open a connection, and fence every other of this `identity`.

        When it returns, nothing that was sent through an earlier connection can still commit. Raises: SinkFailed.
        """
        ...

    async def fence(self, identity: str) -> None:
        """Fence every other connection of another `identity`, whose process is gone. Raises: SinkFailed."""
        ...

    async def commit_batch(self, batch: Batch) -> frozenset[int]:
        """Store the rows and apply their effects in one transaction, durably; return the indexes of refused effects.

        A refused effect stays listed in `refusals` until its void record is stored. While recovering, rows that are
        stored already keep the effect they had, and a refusal that is still listed is returned again.

        Raises: SinkFailed, and anything else a driver may raise. Then all of the batch is stored, or none of it.
        """
        ...

    def abandon(self) -> None:
        """Drop the connection at once: a call under way raises, an answer is never read. Never blocks."""
        ...

    async def hash_at(self, stream: str, seq: int) -> str | None:
        """Return the hash of a stored record, 64 hexadecimal digits. Raises: SinkFailed."""
        ...

    async def last_stream(self, lane: str, *, before: str | None = None) -> Receipt | None:
        """Return the last record of the newest stream that `lane` opened, of those older than `before`.

        Raises: SinkFailed.
        """
        ...

    async def refusals(self, streams: Iterable[str]) -> tuple[tuple[str, Row], ...]:
        """Return stream and record of each refused effect that no void record names yet, in order.

        Raises: SinkFailed.
        """
        ...

    async def close(self) -> None:
        """Close the connection, politely if the server listens."""
        ...
