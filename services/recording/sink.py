"""What a lane needs from the database that holds the log, and what each answer must prove.

The contract suite is `tests/contract/test_audit_sink.py`; the sink on PostgreSQL and the one in memory pass it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from holdfast.audit.record import Receipt

    from services.recording.effects import EncodedEffect


class SinkFailed(Exception):
    """The database did not say that it stored what it was given. It may have."""


class Rejected(SinkFailed):
    """The database will never store this: a value, not the weather, is at fault. Nothing of the batch was stored."""


class Fork(SinkFailed):
    """The database's history is not this one: another record in this place, or none before it. A human has to look."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A stored record whose effect was refused."""

    receipt: Receipt
    kind: str


class AuditSink(Protocol):
    """The log in a database, through one connection of its own. One call at a time; `abandon` at any time.

    `on_lost` is told, on the loop, when the connection ends that nobody abandoned or closed, though nobody asks
    anything of it: a server that restarts, an administrator who ends it. Silence is not told.
    """

    on_lost: Callable[[], None] | None

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
        stored already keep the effect they had, and a refusal that is still listed is returned again; but for a use of
        break-glass, whose token has left: a refusal that is still listed is taken back, and the use is kept.

        Raises: SinkFailed, and anything else a driver may raise. Then all of the batch is stored, or none of it.
        """
        ...

    def abandon(self) -> None:
        """Drop the connection at once: a call under way raises, an answer is never read. Never blocks."""
        ...

    async def hash_at(self, stream: str, seq: int) -> str | None:
        """Return the hash of a stored record, 64 hexadecimal digits. Raises: SinkFailed."""
        ...

    async def last_stream(self, lane: str, *, other_than: str) -> Receipt | None:
        """Return the last record of the newest stream that `lane` opened, `other_than` left out.

        Raises: SinkFailed.
        """
        ...

    async def refusals(self, lane: str, *, other_than: str, streams: Iterable[str] = ()) -> tuple[Refusal, ...]:
        """Return the records whose effect was refused and that no void names yet, in order of stream and seq.

        Of every stream that `lane` opened, `other_than` left out, and of `streams`. Raises: SinkFailed.
        """
        ...

    async def close(self) -> None:
        """Close the connection, politely if the server listens."""
        ...
