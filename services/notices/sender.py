"""Delivers notices: from memory while the store is away, from the outbox otherwise.

    1. A notice rides beside its record. Where the record went says who delivers it.
       in PostgreSQL   the outbox; the process that wrote it looks at once
       in the journal  this process, now, from memory: the outage may be what the notice is about
    2. The journal is imported later, and the notice appears in the outbox. The process it comes from fans it out: what
       it delivered already is stored as delivered, what it was still trying is handed over.
    3. Each channel has a loop of its own, a bounded number of messages under way, and a deadline for each. A receiver
       that hangs or dies holds up nobody else.

Delivery is at least once: a crash between an answer and its note repeats the message, with the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.notices.channel import Taken, Undelivered
from services.notices.outbox import Delivery, Placed
from services.notices.retry import Retry, pause_s
from services.ports import RecordingFailed, StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from services.notices.channel import Channel
    from services.notices.notice import Notice
    from services.notices.outbox import Outbox, Standing
    from services.ports import Clock, Pending

_log = logging.getLogger(__name__)

#: One message, from the connection to the answer.
DEADLINE_S: Final = 15.0
#: Longer than the deadline and the note of its outcome: nobody else sends what is under way.
LEASE_S: Final = 60.0
AT_ONCE: Final = 4
_LOOK_S: Final = 1.0
_MEASURE_S: Final = 10.0
_PRUNE_S: Final = 3600.0
#: What a long outage may pile up. The oldest are dropped from memory; the journal keeps them for the outbox.
_MOST_IN_MEMORY: Final = 1000


@dataclass(slots=True)
class _Direct:
    """A notice that is delivered from memory. Times are monotonic seconds."""

    notice: Notice
    due: float
    since: float
    attempts: int = 0
    under_way: bool = False


class Sender:
    """Every process runs one. One event loop."""

    def __init__(
        self,
        channels: tuple[Channel, ...],
        outbox: Outbox,
        *,
        origin: str,
        clock: Clock,
        jitter: Callable[[], float],
        deadline_s: float = DEADLINE_S,
        look_s: float = _LOOK_S,
    ) -> None:
        self._channels = channels
        self._outbox = outbox
        self._origin = origin
        self._clock = clock
        self._jitter = jitter
        self._deadline_s = deadline_s
        self._look_s = look_s
        self._incoming: deque[tuple[tuple[Notice, ...], Pending]] = deque()
        self._arrived = asyncio.Event()
        self._insisted: set[str] = set()
        self._wakes = {channel.name: asyncio.Event() for channel in channels}
        self._new = asyncio.Event()
        self._memory: dict[str, OrderedDict[str, _Direct]] = {channel.name: OrderedDict() for channel in channels}
        # By notice: the channels that took it, and how many attempts that needed.
        self._taken: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._closed: dict[str, str] = {}  # channel -> why
        # On the loop: told `channel, result`, how every channel is doing, and `channel, why` of one that is dead.
        self.on_result: Callable[[str, str], None] | None = None
        self.on_standings: Callable[[Mapping[str, Standing]], None] | None = None
        self.on_dead: Callable[[str, str], None] | None = None

    # --- 1. where a notice goes -----------------------------------------------------------------------------------

    def noticed(self, notices: tuple[Notice, ...], pending: Pending) -> None:
        """Take what rides with a record that is not durable yet. Returns at once."""
        for notice in notices:
            _log.warning("%s (%s, %s): %s", notice.kind, notice.severity, notice.notice_id, notice.summary)
        self._incoming.append((notices, pending))
        self._arrived.set()

    def insist(self, notice: Notice) -> None:
        """Have this notice delivered even if its record fails: what it tells of happened all the same."""
        self._insisted.add(notice.notice_id)

    def send_now(self, notice: Notice) -> None:
        """Deliver a notice from memory."""
        now = self._clock.monotonic()
        for channel in self._channels:
            if channel.wants(notice) and channel.name not in self._closed:
                memory = self._memory[channel.name]
                memory[notice.notice_id] = _Direct(notice=notice, due=now, since=now)
                while len(memory) > _MOST_IN_MEMORY:
                    memory.popitem(last=False)
                self._wakes[channel.name].set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._fan_out())
            tasks.create_task(self._measure())
            for channel in self._channels:
                tasks.create_task(self._serve(channel), name=f"notices to {channel.name}")

    async def close(self) -> None:
        """Close every receiver's connections."""
        for channel in self._channels:
            await channel.receiver.close()

    async def _follow(self) -> None:
        """See where each record went."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._incoming:
                notices, pending = self._incoming.popleft()
                insisted = {notice.notice_id for notice in notices} & self._insisted
                self._insisted -= insisted
                try:
                    settled = await pending.settled()
                except RecordingFailed:
                    for notice in notices:
                        if notice.notice_id in insisted:
                            self.send_now(notice)
                    continue
                if not settled.applied:
                    continue
                if settled.in_journal:
                    for notice in notices:
                        self.send_now(notice)
                else:
                    self._new.set()

    # --- 2. from memory to the outbox -----------------------------------------------------------------------------

    async def _fan_out(self) -> None:
        readable = True
        while True:
            handed: dict[str, dict[str, _Direct]] = {}
            try:
                for notice_id in await self._outbox.fan_out(self._origin, functools.partial(self._route, handed)):
                    handed.pop(notice_id, None)
                    self._taken.pop(notice_id, None)
                    for wake in self._wakes.values():
                        wake.set()
                readable = True
            except StoreUnreachable as error:
                if readable:
                    _log.warning("the outbox cannot be read: %s", error)
                readable = False
            finally:
                # What was not handed over after all is still this process's own.
                for notice_id, items in handed.items():
                    for name, item in items.items():
                        self._memory[name][notice_id] = item
            await _wait(self._new, self._look_s)

    def _route(
        self, handed: dict[str, dict[str, _Direct]], notice: Notice, closed: Mapping[str, str]
    ) -> tuple[Placed, ...] | None:
        wanting = [channel for channel in self._channels if channel.wants(notice)]
        mine = {channel.name: self._memory[channel.name].get(notice.notice_id) for channel in wanting}
        if any(item is not None and item.under_way for item in mine.values()):
            return None  # its answer is a moment away
        taken = self._taken.get(notice.notice_id, {})
        placed = []
        for channel in wanting:
            name, item = channel.name, mine[channel.name]
            if name in taken:
                placed.append(Placed(channel=name, attempts=taken[name], delivered=True))
            elif closed.get(name) != channel.address and name not in self._closed:
                placed.append(Placed(channel=name, attempts=0 if item is None else item.attempts))
            if item is not None:
                handed.setdefault(notice.notice_id, {})[name] = self._memory[name].pop(notice.notice_id)
        return tuple(placed)

    async def _measure(self) -> None:
        pruned = self._clock.monotonic()
        while True:
            with contextlib.suppress(StoreUnreachable):
                standings = await self._outbox.standings()
                if self.on_standings is not None:
                    self.on_standings(standings)
                if self._clock.monotonic() - pruned >= _PRUNE_S:
                    pruned = self._clock.monotonic()
                    await self._outbox.prune()
            await asyncio.sleep(_MEASURE_S)

    # --- 3. to a receiver -----------------------------------------------------------------------------------------

    async def _serve(self, channel: Channel) -> None:
        """Deliver to one channel until it is gone for good."""
        wake = self._wakes[channel.name]
        while True:
            wake.clear()
            if channel.name in self._closed:
                if await self._close(channel):
                    return
            elif direct := self._due(channel.name):
                async with asyncio.TaskGroup() as tasks:
                    for item in direct:
                        tasks.create_task(self._deliver_direct(channel, item))
                continue
            elif leased := await self._lease(channel):
                async with asyncio.TaskGroup() as tasks:
                    for delivery in leased:
                        tasks.create_task(self._deliver_leased(channel, delivery))
                continue
            await _wait(wake, self._look_s)

    def _due(self, name: str) -> list[_Direct]:
        """Return what memory has for a channel now: of one dedupe key only the first, so that an ending comes last."""
        now = self._clock.monotonic()
        keys: set[str] = set()
        found: list[_Direct] = []
        for item in self._memory[name].values():
            if item.notice.dedupe_key in keys:
                continue
            keys.add(item.notice.dedupe_key)
            if item.due <= now and len(found) < AT_ONCE:
                found.append(item)
        return found

    async def _lease(self, channel: Channel) -> tuple[Delivery, ...]:
        try:
            return await self._outbox.lease(channel.name, limit=AT_ONCE, lease_s=LEASE_S)
        except StoreUnreachable:
            return ()

    async def _deliver_direct(self, channel: Channel, item: _Direct) -> None:
        item.under_way = True
        item.attempts += 1
        answer = await self._hand_over(channel, item.notice)
        item.under_way = False
        memory, notice_id = self._memory[channel.name], item.notice.notice_id
        if isinstance(answer, Taken):
            memory.pop(notice_id, None)
            self._remember(notice_id, channel.name, item.attempts)
            self._result(channel, "delivered")
            return
        now = self._clock.monotonic()
        wait_s = self._pause(answer, item.attempts, now - item.since)
        if wait_s is None:
            memory.pop(notice_id, None)
            self._dead(channel, answer)
        else:
            item.due = now + wait_s
            self._result(channel, "failed")

    async def _deliver_leased(self, channel: Channel, delivery: Delivery) -> None:
        try:
            if channel.name in self._taken.get(delivery.notice.notice_id, {}):
                await self._outbox.delivered(delivery)  # the answer came, and its note was lost
                return
            answer = await self._hand_over(channel, delivery.notice)
            if isinstance(answer, Taken):
                self._remember(delivery.notice.notice_id, channel.name, delivery.attempts)
                self._result(channel, "delivered")
                await self._outbox.delivered(delivery)
                self._taken.pop(delivery.notice.notice_id, None)
                return
            wait_s = self._pause(answer, delivery.attempts, delivery.age_s)
            if wait_s is not None:
                self._result(channel, "failed")
                await self._outbox.postpone(delivery, pause_s=wait_s, why=answer.why)
            else:
                await self._outbox.give_up(delivery, why=answer.why)
                self._dead(channel, answer)
        except StoreUnreachable as error:
            _log.info("the outcome of %s on %s is not noted: %s", delivery.notice.notice_id, channel.name, error)

    async def _hand_over(self, channel: Channel, notice: Notice) -> Taken | Undelivered:
        answer = await hand_over(channel, notice, self._clock.now(), deadline_s=self._deadline_s)
        if isinstance(answer, Undelivered):
            _log.warning("the channel %s did not take %s: %s", channel.name, notice.notice_id, answer.why)
        return answer

    def _pause(self, answer: Undelivered, attempts: int, age_s: float) -> float | None:
        return pause_s(
            answer.retry,
            attempts=attempts,
            age_s=age_s,
            jitter=self._jitter(),
            retry_after_s=answer.retry_after_s,
        )

    def _remember(self, notice_id: str, name: str, attempts: int) -> None:
        self._taken.setdefault(notice_id, {})[name] = attempts
        while len(self._taken) > _MOST_IN_MEMORY:
            self._taken.popitem(last=False)

    def _dead(self, channel: Channel, answer: Undelivered) -> None:
        _log.error("the channel %s is dead: %s", channel.name, answer.why)
        self._result(channel, "dead")
        if answer.retry is Retry.NEVER:
            self._closed[channel.name] = answer.why
            self._memory[channel.name].clear()
        if self.on_dead is not None:
            self.on_dead(channel.name, answer.why)

    async def _close(self, channel: Channel) -> bool:
        """Note that a channel is closed; return whether that is stored."""
        try:
            await self._outbox.close_channel(channel.name, address=channel.address, why=self._closed[channel.name])
        except StoreUnreachable:
            return False
        return True

    def _result(self, channel: Channel, result: str) -> None:
        if self.on_result is not None:
            self.on_result(channel.name, result)


async def hand_over(
    channel: Channel, notice: Notice, now: datetime, *, deadline_s: float = DEADLINE_S
) -> Taken | Undelivered:
    """Hand one notice over within the deadline. Whatever a receiver raises, and silence, is a failure."""
    call = asyncio.ensure_future(channel.receiver.send(notice, now))
    try:
        await asyncio.wait({call}, timeout=deadline_s)
    finally:
        if not call.done():
            call.cancel()
            call.add_done_callback(_look_away)
    if not call.done() or call.cancelled():
        return Undelivered("no answer in time", Retry.SOON)
    error = call.exception()
    if error is None:
        return call.result()
    return error if isinstance(error, Undelivered) else Undelivered(type(error).__name__, Retry.SOON)


async def _wait(event: asyncio.Event, limit_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()
    event.clear()


def _look_away(call: asyncio.Future[Taken]) -> None:
    if not call.cancelled():
        call.exception()
