"""One writer of the log: chains at once, commits in groups, and falls back to a journal without losing its place.

A lane is in one of four modes, and only its own task changes them:

    DATABASE   groups are committed to PostgreSQL, and everything may be released on a commit
    JOURNAL    groups are fsynced to the journal; what may not rest on one is refused before it is chained
    CLOSED     neither takes records, or the histories differ: everything is refused
    STOPPED    before `start` and after `stop`

The way from DATABASE to JOURNAL is a commit *in doubt*: an exception, or no answer in time. The records may be stored
or not, so the same rows go to the journal and later to the database again, where they are compared. The way back is at
a batch boundary with everything drained, no write in flight, and the old connection fenced. Source: design 8.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import sys
from collections import deque
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from holdfast.audit.record import seal_message
from holdfast.errors import AuditInvalid

from services.audit.chain import link, void_kind
from services.ports import RecordingFailed
from services.recording import replay
from services.recording.chained import Chained
from services.recording.drain import Contact, Drain
from services.recording.effects import EffectMalformed, EncodedEffect, close_refusal, encode_all
from services.recording.frames import JournalCorrupt, JournalRow
from services.recording.journal import JournalUnavailable
from services.recording.mode import LaneCounters, LaneSettings, Mode, Unrecordable
from services.recording.past import Past, place
from services.recording.sink import Batch, Fork, Row, SinkFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from holdfast.audit.record import Receipt
    from holdfast.strict_json import JSON

    from services.notices.notice import Notice
    from services.ports import Clock, Entry, Ids, Pending
    from services.recording.journal import Journal
    from services.recording.replay import Replayed
    from services.recording.sink import AuditSink

__all__ = ["Lane", "LaneCounters", "LaneSettings", "Mode", "Unrecordable"]

_log = logging.getLogger(__name__)

_CONNECT_LIMIT_S: Final = 10.0


class Lane:
    """The Recorder port. One event loop; `start` before and `stop` after."""

    def __init__(
        self,
        sink: AuditSink,
        journal: Journal,
        clock: Clock,
        ids: Ids,
        *,
        instance: str,
        settings: LaneSettings | None = None,
    ) -> None:
        self._sink = sink
        self._journal = journal
        self._clock = clock
        self._ids = ids
        self._instance = instance
        self._settings = LaneSettings() if settings is None else settings
        self._lane = f"{instance}/{self._settings.name}"
        self._mode = Mode.STOPPED
        self._diverged = False
        self._stopping = False
        self._stream = ""
        self._key = Ed25519PrivateKey.generate()  # lives here and nowhere else, and only as long as this process
        self._head: Receipt | None = None
        self._waiting: deque[Chained] = deque()
        self._waiting_bytes = 0
        self._unplaced: list[Chained] = []  # in doubt, or refused by the journal: durable nowhere for certain
        self._refused_late: set[Receipt] = set()
        self._sink_ready = False
        self._sink_lost = False
        sink.on_lost = self._on_sink_lost
        self._contact = Contact(sink, self._settings.commit_deadline_s)
        self._drain = Drain(
            sink, self._contact, self._settings, on_refused=self._on_refused_late, meanwhile=self._meanwhile
        )
        self._past = Past(sink, self._contact, self._drain, journal, self, lane=self._lane)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        # On the loop: told `in_journal`, and told what notices ride with a record.
        self.on_mode_change: Callable[[bool], None] | None = None
        self.on_notices: Callable[[tuple[Notice, ...], Pending], None] | None = None
        self.counters = LaneCounters()

    # --- what others see ------------------------------------------------------------------------------------------

    @property
    def mode(self) -> Mode:
        """Return where records go now."""
        return self._mode

    @property
    def accepting_commits(self) -> bool:
        """Return whether an entry that needs a PostgreSQL commit may be appended."""
        return self._mode is Mode.DATABASE

    @property
    def in_journal(self) -> bool:
        """Return whether a running lane has no commits to offer."""
        return self._mode in (Mode.JOURNAL, Mode.CLOSED)

    @property
    def closed(self) -> bool:
        """Return whether neither the database nor the journal takes records."""
        return self._mode is Mode.CLOSED

    @property
    def diverged(self) -> bool:
        """Return whether the database and this lane tell different histories. Never heals by itself."""
        return self._diverged

    @property
    def journal_bytes(self) -> int:
        """Return the journal bytes that PostgreSQL does not have yet."""
        return self._journal.waiting_bytes

    def append(self, entry: Entry) -> Chained:
        """Chain the entry at once. Raises: RecordingFailed; Unrecordable if it never can be."""
        if self._mode is Mode.STOPPED or self._stopping:
            raise RecordingFailed("the recorder does not run")
        if self._mode is Mode.CLOSED:
            raise RecordingFailed("neither the database nor the journal takes records")
        if self._mode is Mode.JOURNAL and not entry.journal_may_release:
            raise RecordingFailed("the database takes no commits, and the journal may not release this")
        if len(self._waiting) >= self._settings.waiting_rows or self._waiting_bytes >= self._settings.waiting_bytes:
            raise RecordingFailed("too many records wait to become durable")
        return self._chain(entry)

    # --- start and stop -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take the journal, bring what it holds to the database, open a stream. In journal mode if it is away.

        Raises: DirectoryLocked, JournalCorrupt, JournalUnavailable, Fork; then nothing was started.
        """
        if self._mode is not Mode.STOPPED or self._stopping:
            raise RuntimeError("a lane starts once")
        await asyncio.to_thread(self._journal.open)
        try:
            self._stream = self._ids.new("str_")
            try:
                await self._contact.call(self._sink.connect(self._journal.identity), _CONNECT_LIMIT_S)
                while await self._drain_frames():
                    pass
                await self._past.look_up(self._stream)
                mode = Mode.DATABASE
            except Fork:
                raise
            except SinkFailed as error:
                _log.warning("the database is away at the start, recording to the journal: %s", error)
                await asyncio.to_thread(self._past.read_journal)
                mode = Mode.JOURNAL
            self.say("stream.open", self._opening())
            if mode is Mode.DATABASE:
                try:
                    await self._past.settle(self._stream)
                except Fork:
                    raise
                except SinkFailed as error:
                    _log.warning("the database left during the start, recording to the journal: %s", error)
                    mode = Mode.JOURNAL
        except BaseException:
            self._sink.abandon()
            await asyncio.to_thread(self._close_journals)
            raise
        self._sink_ready = mode is Mode.DATABASE
        self._set_mode(mode)
        if mode is Mode.JOURNAL:
            self._lose_sink()
        self._task = asyncio.create_task(self._run(), name=f"lane {self._lane}")
        self._heartbeat = asyncio.create_task(self._beat(), name=f"heartbeat of lane {self._lane}")

    async def stop(self) -> None:
        """Make everything chained durable, close the stream, let go of connection and journal. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping = True
        self._wake.set()
        try:
            await task
        finally:
            for helper in (self._heartbeat, self._recovery):
                if helper is not None:
                    helper.cancel()
                    await asyncio.wait({helper})
            await self._sink.close()
            await asyncio.to_thread(self._close_journals)

    async def until_ended(self) -> None:
        """Wait for as long as the lane runs, and raise what ended it: a process without its lane is of no use."""
        if self._task is not None:
            await asyncio.shield(self._task)

    # --- chaining -------------------------------------------------------------------------------------------------

    def _chain(self, entry: Entry) -> Chained:
        try:
            linked = link(self._stream, self._head, kind=entry.kind, at=entry.at, members=entry.members)
            effect = entry.effect(linked.receipt) if callable(entry.effect) else entry.effect
            encoded = encode_all(effect, entry.notices, origin=self._instance)
        except (AuditInvalid, EffectMalformed) as error:
            raise Unrecordable(str(error)) from error
        item = Chained(linked, kind=entry.kind, effect=encoded, may_release=entry.journal_may_release)
        self._take_in(item)
        if entry.notices and self.on_notices is not None:
            self.on_notices(entry.notices, item)
        return item

    def say(
        self,
        kind: str,
        members: Mapping[str, JSON] | None = None,
        *,
        effect: EncodedEffect | None = None,
        settles: Chained | None = None,
    ) -> Chained:
        """Chain a record of the lane's own."""
        linked = link(self._stream, self._head, kind=kind, at=self._clock.now(), members=members)
        item = Chained(linked, kind=kind, effect=effect, may_release=True, own=True, settles=settles)
        self._take_in(item)
        return item

    def _take_in(self, item: Chained) -> None:
        self._head = item.receipt
        self._waiting.append(item)
        self._waiting_bytes += item.size
        self.counters.chained += 1
        self._wake.set()

    def void(self, record: Receipt, kind: str, why: str, *, settles: Chained | None = None) -> Chained:
        """Chain the record that says: this one stands in the log, and what it speaks of did not happen."""
        earlier = record.stream != self._stream
        stands: dict[str, JSON] = place(record) if earlier else {"seq": record.seq, "hash": record.hash}
        self.counters.voided += 1
        return self.say(
            void_kind(kind, earlier=earlier),
            {"void": stands, "why": why},
            effect=close_refusal(record.stream, record.seq),
            settles=settles,
        )

    def _opening(self) -> dict[str, JSON]:
        public = self._key.public_key().public_bytes_raw()
        members: dict[str, JSON] = {
            "lane": self._lane,
            "instance": self._instance,
            "reason": "start",
            "seal_key": base64.urlsafe_b64encode(public).rstrip(b"=").decode("ascii"),
        }
        if self._past.predecessor is not None:
            members["predecessor"] = place(self._past.predecessor)
        return members

    def _seal(self, head: Receipt) -> bytes:
        return self._key.sign(seal_message(head))

    # --- the lane's own task --------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            closing: Chained | None = None
            while True:
                if not self._diverged:
                    await self._past.release()
                idle = not self._waiting and not self._unplaced
                if self._stopping and (idle or self._mode is Mode.CLOSED):
                    if closing is not None or self._mode is Mode.CLOSED:
                        break
                    closing = self.say("stream.close", {"reason": "stop"})
                if self._mode is Mode.DATABASE:
                    await self._database_turn()
                else:
                    await self._journal_turn()
        finally:
            for item in (*self._unplaced, *self._waiting):
                item.fail("the recorder stopped")
            if not self._stopping and not isinstance(sys.exc_info()[1], asyncio.CancelledError):
                _log.critical("lane %s ended by itself, and takes nothing any more", self._lane, exc_info=True)
            self._set_mode(Mode.STOPPED if self._stopping else Mode.CLOSED)

    async def _wait_for_work(self, limit_s: float | None = None) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                return await self._wake.wait()
        return False

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat_s)
            if self._mode in (Mode.DATABASE, Mode.JOURNAL) and not self._stopping:
                self.say("stream.heartbeat", {"waiting": len(self._waiting)})

    def _set_mode(self, mode: Mode) -> None:
        before, self._mode = self.in_journal, mode
        if before is not self.in_journal:
            _log.warning("lane %s records to the %s now", self._lane, mode)
            if self.on_mode_change is not None:
                self.on_mode_change(self.in_journal)

    # --- database mode --------------------------------------------------------------------------------------------

    async def _database_turn(self) -> None:
        self._wake.clear()
        if self._sink_lost:
            # Nothing is under way, so nothing is in doubt. An idle lane is back before anybody comes.
            _log.warning("the connection to the database ended while nothing was under way")
            self._lose_sink()
            self._set_mode(Mode.JOURNAL)
            return
        if not self._waiting:
            if not self._stopping:
                await self._wait_for_work()
            return
        group = self._take_group()
        # What a journal may release does not wait long for a database that hesitates.
        hedged = all(item.may_release for item in group)
        limit_s = self._settings.hedge_s if hedged else self._settings.commit_deadline_s
        began = self._clock.monotonic()
        try:
            refused = await self._contact.call(self._sink.commit_batch(self._batch(group)), limit_s)
        except SinkFailed as error:
            # Stored or not, nobody knows. Whatever happens next, happens to these very rows.
            _log.warning("a commit of %d records is in doubt: %s", len(group), error)
            self.counters.in_doubt += 1
            self._unplaced = group
            self._lose_sink()
            self._set_mode(Mode.JOURNAL)
            return
        self.counters.batches += 1
        self.counters.committed += len(group)
        self.counters.commit_seconds += self._clock.monotonic() - began
        for index, item in enumerate(group):
            if index in refused:
                self.counters.refused += 1
                item.voided = True
                self.void(item.receipt, item.kind, "effect_refused", settles=item)
            else:
                item.settle(in_journal=False)

    def _take_group(self) -> list[Chained]:
        group: list[Chained] = []
        size = 0
        while self._waiting and len(group) < self._settings.group_rows:
            size += self._waiting[0].size
            if group and size > self._settings.group_bytes:
                break
            item = self._waiting.popleft()
            self._waiting_bytes -= item.size
            group.append(item)
        return group

    def _all_waiting(self) -> list[Chained]:
        taken = list(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        return taken

    def _batch(self, group: Sequence[Chained]) -> Batch:
        return Batch(
            stream=self._stream,
            prev=bytes.fromhex(group[0].prev),
            rows=[
                Row(seq=item.receipt.seq, hash=bytes.fromhex(item.receipt.hash), body=item.body, effect=item.effect)
                for item in group
            ],
            seal=self._seal(group[-1].receipt),
        )

    # --- journal mode ---------------------------------------------------------------------------------------------

    async def _journal_turn(self) -> None:
        self._wake.clear()
        if self._diverged:
            if not self._stopping:
                await self._wait_for_work()
            return
        closed = self._mode is Mode.CLOSED
        if not closed and (self._unplaced or self._waiting) and not await self._write_journal():
            return
        if self._sink_ready:
            await self._return_to_database()
        elif closed:
            if not await self._wait_for_work(self._settings.journal_retry_s):
                await self._write_journal()
        elif not self._stopping:
            await self._wait_for_work()

    def _form_frame(self) -> list[Chained]:
        """Take everything that is chained, and void in the same breath what will not be released."""
        frame = self._unplaced = [*self._unplaced, *self._all_waiting()]
        for item in frame:
            if not item.may_release:
                item.released = False
            if not item.released and not item.voided and not item.own:
                item.voided = True
                self.void(item.receipt, item.kind, "not_released")
        frame += self._all_waiting()
        return frame

    def _journal_rows(self, frame: Sequence[Chained], *, sealed_every: int) -> list[JournalRow]:
        last = len(frame) - 1
        return [
            JournalRow(
                body=item.body,
                seal=self._seal(item.receipt) if n == last or (n + 1) % sealed_every == 0 else None,
                released=item.released,
                effect=item.effect,
            )
            for n, item in enumerate(frame)
        ]

    async def _write_journal(self) -> bool:
        """Journal everything that is chained, and answer; return whether the journal took it."""
        frame = self._form_frame()
        try:
            rows = self._journal_rows(frame, sealed_every=self._settings.group_rows)
            await asyncio.to_thread(self._journal.write, rows)
        except JournalUnavailable as error:
            _log.critical("neither the database nor the journal takes records: %s", error)
            self._refuse(frame, str(error))
            self._set_mode(Mode.CLOSED)
            return False
        self._unplaced = []
        self.counters.journalled += len(frame)
        self._answer(frame, in_journal=True)
        if self._mode is Mode.CLOSED:
            self._set_mode(Mode.JOURNAL)
        return True

    def _refuse(self, frame: Iterable[Chained], why: str) -> None:
        """Tell everybody no. The records keep their place in the chain, and are voided when it can be written."""
        for item in frame:
            if not item.own:
                item.released = False
            item.fail(why)

    def _answer(self, frame: Iterable[Chained], *, in_journal: bool) -> None:
        for item in frame:
            if item.released and not item.voided:
                item.settle(in_journal=in_journal)
            elif not item.released:
                item.fail("the commit is in doubt, and the journal may not release this")

    # --- the way back ---------------------------------------------------------------------------------------------

    def _lose_sink(self) -> None:
        """Drop the connection and let the recovery task get another. It connects and fences, and nothing else."""
        self._sink.abandon()
        self._sink_ready = self._sink_lost = False
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.create_task(self._recover(), name=f"recovery of lane {self._lane}")

    def _on_sink_lost(self) -> None:
        self._sink_lost = True
        self._wake.set()

    async def _recover(self) -> None:
        pause_s = self._settings.reconnect_first_s
        while True:
            try:
                await self._contact.call(self._sink.connect(self._journal.identity), _CONNECT_LIMIT_S)
            except SinkFailed as error:
                _log.info("the database is still away: %s", error)
            else:
                break
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._settings.reconnect_last_s)
        self._sink_ready = True
        self._wake.set()

    async def _return_to_database(self) -> None:
        """One step: drain some, and once nothing is left anywhere, flip."""
        try:
            # What waits by now goes to the database behind the last frame: a busy lane would never find both empty.
            if await self._drain_frames() and not self._journal.empty:
                return
            if self._unplaced:
                await self._drain_unplaced()
                return
            if not self._past.settled:
                await self._past.settle(self._stream)
            # Nothing is in the journal and nothing is in flight: whatever waits now follows the last stored record.
            self.counters.returns += 1
            self._refused_late.clear()
            self._set_mode(Mode.DATABASE)
        except (Fork, JournalCorrupt) as error:
            self._diverged = True
            _log.critical("lane %s stays closed, a human has to look: %s", self._lane, error)
            self._refuse((*self._unplaced, *self._waiting), "the histories differ")
            self._sink.abandon()
            self._set_mode(Mode.CLOSED)
        except SinkFailed as error:
            _log.info("the database left again: %s", error)
            self._lose_sink()
        except JournalUnavailable as error:
            _log.error("the journal cannot be drained: %s", error)
            await self._wait_for_work(self._settings.journal_retry_s)

    async def _drain_frames(self) -> bool:
        """Bring the oldest frames to the database and forget them; return whether there were any."""
        found = await asyncio.to_thread(self._drain.read, self._journal, 0)
        if found is None:
            return False
        count, records = found
        await self._drain.store(records)
        self.counters.drained += len(records)
        await asyncio.to_thread(self._journal.drained, count)
        return True

    def _on_refused_late(self, record: Replayed) -> None:
        # Refusals of older streams are asked for when the past is settled. A drain that starts over hears them again.
        if record.receipt.stream != self._stream or record.receipt in self._refused_late:
            return
        self._refused_late.add(record.receipt)
        self.counters.refused += 1
        item = next((item for item in self._unplaced if item.receipt == record.receipt), None)
        if item is not None:
            item.voided = True
        self.void(record.receipt, record.kind, "effect_refused", settles=item)

    async def _meanwhile(self) -> None:
        """Go on journalling while the database takes its time, so that it delays nobody's answer."""
        if self._waiting and self._mode is Mode.JOURNAL:
            await self._write_journal()

    async def _drain_unplaced(self) -> None:
        """Store what the journal did not take. Its callers were refused, so its effects are not applied."""
        frame = self._form_frame()
        # Each is sealed, because each may be stored alone and be the last that this process stores: nothing else holds
        # them, and a tail that no seal covers looks forged for ever.
        await self._drain.store(replay.read(self._journal_rows(frame, sealed_every=1)))
        self._unplaced = []
        self._answer(frame, in_journal=False)

    def _close_journals(self) -> None:
        self._past.close()
        self._journal.close()
