"""What became of earlier streams, as a new one says it: who came before, whose journals were left, what was refused."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from services.recording.frames import JournalCorrupt
from services.recording.journal import JournalUnavailable
from services.recording.orphan import Orphan
from services.recording.sink import Fork

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.audit.record import Receipt
    from holdfast.strict_json import JSON

    from services.recording.chained import Chained
    from services.recording.drain import Contact, Drain
    from services.recording.journal import Journal
    from services.recording.sink import AuditSink

_log = logging.getLogger(__name__)


class Writer(Protocol):
    """The lane, as far as it writes for itself."""

    def say(self, kind: str, members: Mapping[str, JSON]) -> Chained:
        """Chain a record of the lane's own."""
        ...

    def void(self, record: Receipt, kind: str, why: str) -> Chained:
        """Chain the record that says that what another speaks of did not happen."""
        ...


class Past:
    """The streams before this one. `settle` once the database is there, as often as it takes."""

    def __init__(
        self, sink: AuditSink, contact: Contact, drain: Drain, journal: Journal, writer: Writer, *, lane: str
    ) -> None:
        self._sink = sink
        self._contact = contact
        self._drain = drain
        self._journal = journal
        self._writer = writer
        self._lane = lane
        self._orphans: list[Orphan] = []
        self.predecessor: Receipt | None = None
        self.settled = False

    async def look_up(self, stream: str) -> None:
        """Ask the database for the last record before `stream`. Raises: SinkFailed."""
        self.predecessor = await self._last_before(stream)

    def read_journal(self) -> None:
        """Take the last record that an earlier process left in the journal for the one before. Blocks."""
        skip = 0
        while (found := self._drain.read(self._journal, skip)) is not None:
            skip += found[0]
            self.predecessor = found[1][-1].receipt

    async def settle(self, stream: str) -> None:
        """Say what became of the streams before `stream`. Raises: SinkFailed, JournalUnavailable."""
        # 1. Who came before? Known at the start, unless the database was away.
        predecessor = await self._last_before(stream)
        if predecessor is not None and predecessor != self.predecessor:
            self._takes_over(predecessor, "unknown_at_open")
            self.predecessor = predecessor
        # 2. Journals of processes that are gone.
        if not self._orphans:
            self._orphans = [Orphan(journal) for journal in await asyncio.to_thread(self._journal.orphans)]
        for orphan in list(self._orphans):
            await self._adopt(orphan)
        # 3. Effects that were refused, and whose void a crash prevented.
        streams = {name for orphan in self._orphans for name in orphan.tails}
        refusals = await self._contact.ask(self._sink.refusals(self._lane, other_than=stream, streams=streams))
        voids = [self._writer.void(refusal.receipt, refusal.kind, "effect_refused") for refusal in refusals]
        for orphan in self._orphans:
            orphan.written += voids
        self.settled = True

    async def _last_before(self, stream: str) -> Receipt | None:
        return await self._contact.ask(self._sink.last_stream(self._lane, other_than=stream))

    async def _adopt(self, orphan: Orphan) -> None:
        """Bring the records of a process that is gone to the database, and say so. Raises: SinkFailed."""
        if orphan.written:
            return
        try:
            await self._contact.ask(self._sink.fence(orphan.journal.identity))
            orphan.frames = 0
            while (found := await asyncio.to_thread(self._drain.read, orphan.journal, orphan.frames)) is not None:
                await self._drain.store(found[1])
                orphan.frames += found[0]
                orphan.tails |= {record.receipt.stream: record.receipt for record in found[1]}
        except (Fork, JournalCorrupt, JournalUnavailable) as error:
            # Its files stay as they are; this lane's own history does not depend on them.
            _log.critical("an orphaned journal cannot be taken over, a human has to look: %s", error)
            self._orphans.remove(orphan)
            await asyncio.to_thread(orphan.journal.close)
            return
        orphan.written = [self._takes_over(tail, "orphaned_journal") for tail in orphan.tails.values()]

    def _takes_over(self, predecessor: Receipt, why: str) -> Chained:
        return self._writer.say("stream.takes_over", {"predecessor": place(predecessor), "why": why})

    async def release(self) -> None:
        """Delete the journals of others once everything that was said about them is durable."""
        if self.settled and self._orphans and all(item.done for orphan in self._orphans for item in orphan.written):
            for orphan in list(self._orphans):
                await asyncio.to_thread(orphan.discard)
                self._orphans.remove(orphan)

    def close(self) -> None:
        """Let go of the journals of others."""
        for orphan in self._orphans:
            orphan.journal.close()
        self._orphans = []


def place(receipt: Receipt) -> dict[str, JSON]:
    """Return a receipt as the members of a record name it."""
    return {"stream": receipt.stream, "seq": receipt.seq, "hash": receipt.hash}
