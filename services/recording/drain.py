"""From a journal to the database: each record once, in order, and compared with what is stored already."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, TypeVar

from services.recording import replay
from services.recording.effects import REFUSE
from services.recording.sink import Fork, Rejected, SinkFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from services.recording.journal import Journal
    from services.recording.mode import LaneSettings
    from services.recording.replay import Replayed
    from services.recording.sink import AuditSink, Batch

_log = logging.getLogger(__name__)
T = TypeVar("T")

_ABANDON_GRACE_S: Final = 1.0


class Contact:
    """Calls to a sink that may hang, or raise anything."""

    def __init__(self, sink: AuditSink, deadline_s: float) -> None:
        self._sink = sink
        self._deadline_s = deadline_s

    async def ask(self, question: Coroutine[object, object, T]) -> T:
        """Await a question within the deadline of a commit. Raises: SinkFailed."""
        return await self.call(question, self._deadline_s)

    async def call(self, call: Coroutine[object, object, T], limit_s: float) -> T:
        """Await one call. Whatever it raises, and silence, is SinkFailed: the outcome is in doubt."""
        task = asyncio.ensure_future(call)
        try:
            await asyncio.wait({task}, timeout=limit_s)
            if not task.done():
                self._sink.abandon()
                await asyncio.wait({task}, timeout=_ABANDON_GRACE_S)
        finally:
            # Whoever waited may have gone away, and nobody asks for the outcome then.
            task.add_done_callback(_look_away)
            if not task.done():
                task.cancel()
        if not task.done() or task.cancelled():
            raise SinkFailed(f"no answer within {limit_s} s")
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, SinkFailed):
            raise error
        raise SinkFailed(f"{type(error).__name__}: {error}") from error


class Drain:
    """Stores replayed records.

    `on_refused` hears of each released record whose effect was refused; `meanwhile` runs when a commit takes longer
    than the hedge, again and again.
    """

    def __init__(
        self,
        sink: AuditSink,
        contact: Contact,
        settings: LaneSettings,
        *,
        on_refused: Callable[[Replayed], None],
        meanwhile: Callable[[], Awaitable[None]],
    ) -> None:
        self._sink = sink
        self._contact = contact
        self._settings = settings
        self._on_refused = on_refused
        self._meanwhile = meanwhile

    def read(self, journal: Journal, skip: int) -> tuple[int, list[Replayed]] | None:
        """Return how many frames were read behind the first `skip`, and their records; None at the end. Blocks.

        Raises: JournalCorrupt, JournalUnavailable.
        """
        found = journal.peek(self._settings.drain_rows, skip=skip)
        if not found:
            return None
        return len(found), replay.read(row for frame in found for row in frame)

    async def store(self, records: Sequence[Replayed]) -> None:
        """Store the records, and look that they are there. Raises: Fork, SinkFailed."""
        for chunk in replay.chunks(records, self._settings.drain_rows):
            for record in await self._store(chunk):
                if record.released:
                    self._on_refused(record)
            last = chunk[-1].receipt
            if await self._contact.ask(self._sink.hash_at(last.stream, last.seq)) != last.hash:
                raise Fork(f"the record {last.stream}:{last.seq} is not what was stored")

    async def _store(self, chunk: Sequence[Replayed]) -> list[Replayed]:
        """Commit one chunk and return the records whose effect was refused.

        Where the database rejects a value, each record goes alone, and the one at fault goes without its effect.
        """
        try:
            refused = await self._commit(replay.batch(chunk))
        except Rejected as error:
            if len(chunk) > 1:
                return [record for alone in chunk for record in await self._store([alone])]
            _log.error("the effect of %s is rejected: %s", chunk[0].receipt, error)
            refused = await self._commit(replay.batch(chunk, instead=REFUSE))
        return [chunk[index] for index in sorted(refused)]

    async def _commit(self, batch: Batch) -> frozenset[int]:
        task = asyncio.ensure_future(self._contact.ask(self._sink.commit_batch(batch)))
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=self._settings.hedge_s)
                if not task.done():
                    await self._meanwhile()
        except BaseException:
            task.cancel()
            raise
        return task.result()


def _look_away(task: asyncio.Future[T]) -> None:
    if not task.cancelled():
        task.exception()
