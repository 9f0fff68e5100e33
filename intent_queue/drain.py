"""The drain: gives waiting intents to the decider, a bounded slice at a time.

One tick:

1. Give back what an earlier tick could not, because the database was away, and what a claim in doubt may have leased.
   First, so that no attempt is counted.
2. Take back leases that ran out; the fifth time an intent is parked. Not right after the database was away, or another
   worker led: whoever lost touch with it gives back first.
3. Expire what is overdue. It needs only the log, so it does not wait for the gate, and comes before deciding: an
   intent whose time is up is never evaluated.
4. If the gate is open, claim a small batch and decide it, as many at once as the pace allows. While nobody submits, the
   next batch is claimed when the one before is half decided, for at most a second: nothing waits for the last of a
   batch. Beside live traffic a tick is one batch, and the pace grows only on word that live traffic took it well.
5. Stop at the first sign of trouble: a decision that could not be made, or the gate closing. What was not decided
   goes back without counting an attempt; what was tried waits a little, so that an intent which alone cannot be
   decided does not stop the line for ever. An intent that alone must wait (its agent's limit) is no trouble: it goes
   back uncounted until then, and the others go on.

Nothing here writes an outcome; the decider does, fenced by the lease's epoch. Source: design 7.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol, assert_never

from intent_queue.pace import Live, LiveWord, Pace
from intent_queue.states import State
from intent_queue.store import LEASE_S, QueueUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from intent_queue.item import ClaimedItem
    from intent_queue.store import QueueStore

BATCH_PER_WINDOW: Final = 4
EXPIRE_LIMIT: Final = 100
# An item is started only while most of its lease is left, so that a decision does not outlive it.
START_WITHIN_S: Final = LEASE_S / 3
# A decision slower than this says that live traffic needs the room.
SLOW_S: Final = 1.0
MAX_BACKOFF_S: Final = 60.0
# A claim whose commit was in doubt may yet be committed, by a backend that was stopped meanwhile.
DOUBT_S: Final = 20 * LEASE_S
# How long whoever held leases through an outage has to give them back uncounted.
GRACE_S: Final = 5.0
# How long an intent that could not be decided lets others go first.
DEFER_S: Final = 5.0
# While live traffic is slow it pauses between ticks for as long as the tick took, and for this long at least.
YIELD_S: Final = 0.02
# How long a tick goes on claiming: leadership, lost leases and overdue intents are looked at between ticks.
FEED_S: Final = 1.0
# How many decisions begin in one turn of the event loop: between turns a commit is sent or answered.
BEGIN_PER_TURN: Final = 4


class Result(StrEnum):
    """What the decider did with an item."""

    FINISHED = "finished"  # an outcome, or a late allow, is recorded
    NOT_DECIDED = "not_decided"  # a dependency is in trouble: nothing is recorded
    LOST = "lost"  # the lease or the version moved on: somebody else settles it


@dataclass(frozen=True, slots=True, kw_only=True)
class Postponed:
    """The decider recorded nothing: no dependency is in trouble, and this intent alone must wait until then.

    It never waits beyond its own expiry.
    """

    until: datetime


class PoisonIntent(Exception):
    """This intent alone cannot be processed. The decider translates whatever it met into this."""


class Decider(Protocol):
    """Settles a leased intent, naming its epoch and version. Concurrent calls are for different intents.

    Any exception but PoisonIntent is a programming error: it ends the tick, and the lease runs out.
    """

    async def authorize(self, item: ClaimedItem) -> Result | Postponed:
        """Evaluate from the start and record the outcome. Raises: PoisonIntent."""
        ...

    async def expire(self, item: ClaimedItem) -> Result:
        """Record EXPIRED without evaluating. Raises: PoisonIntent."""
        ...


class Clock(Protocol):
    """Time, twice: for people and for deadlines."""

    def now(self) -> datetime:
        """Return the time of day, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never move backwards."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TickReport:
    """What one tick did. `more` asks for the next at once; `parked` are the intents an operator must look at."""

    claimed: int = 0  # leased to be decided
    due: int = 0  # leased to be expired
    finished: int = 0
    lost: int = 0
    poisoned: int = 0
    given_back: int = 0  # without counting an attempt
    postponed: int = 0  # given back until their own time
    reclaimed: int = 0  # leases that had run out
    parked: tuple[str, ...] = ()
    stopped: bool = False  # by trouble or a closed gate
    unavailable: bool = False  # the queue's own database
    led: bool = True  # False where another worker drains
    more: bool = False
    pause_s: float = 0.0  # to be kept before the next tick, whatever it has to do


class Drain:
    """Drains the queue slice by slice. One tick at a time; `tick` must not be called concurrently.

    `gate` is True only while deciding may be tried: the boundaries have been closed long enough, and nobody stops us.
    `live` returns the last that was heard of live traffic, which goes first.
    """

    def __init__(
        self,
        store: QueueStore,
        decider: Decider,
        clock: Clock,
        pace: Pace,
        gate: Callable[[], bool],
        *,
        worker: str,
        live: Callable[[], LiveWord] = LiveWord,
    ) -> None:
        self._store = store
        self._decider = decider
        self._clock = clock
        self._pace = pace
        self._gate = gate
        self._worker = worker
        self._live = live
        self._heard = 0  # the last word that counted
        self._owed: list[ClaimedItem] = []
        self._owed_deferred: list[ClaimedItem] = []
        self._owed_until: dict[datetime, list[ClaimedItem]] = {}
        self._in_doubt_until = float("-inf")
        self._reclaim_from = float("-inf")

    @property
    def pace(self) -> Pace:
        """How much it does at once now."""
        return self._pace

    async def tick(self) -> TickReport:
        """Do one bounded slice and report it. Never raises for a dependency that is away."""
        report, began = TickReport(), self._clock.monotonic()
        try:
            await self._settle_up()
            if self._clock.monotonic() >= self._reclaim_from:
                reclaimed = await self._store.reclaim_expired_leases()
                report = replace(report, reclaimed=reclaimed.returned, parked=tuple(reclaimed.parked))

            grows = self._hear()
            due = await self._leased(self._store.expired(EXPIRE_LIMIT, self._worker))
            report = await self._work(report, self._slice(due, self._decider.expire, _always, grows=grows))
            report = replace(report, due=len(due), more=len(due) == EXPIRE_LIMIT and not report.stopped)
            if report.stopped:
                return report
            if not self._gate():
                # Whatever comes back is fragile: start over slowly.
                self._pace = Pace()
                return replace(report, stopped=True)

            fares = self._live().fares
            limit = self._pace.window * BATCH_PER_WINDOW
            batch = await self._claim(limit)
            work = self._slice(batch, self._decider.authorize, self._gate, grows=grows)
            work.more = len(batch) == limit
            report = await self._work(report, work, feed=work.more and fares is Live.NONE)
            more = not report.stopped and (report.more or work.more)
            pause_s = max(YIELD_S, self._clock.monotonic() - began) if fares is Live.SLOW else 0.0
            return replace(report, claimed=work.claimed, more=more, pause_s=pause_s)
        except QueueUnavailable:
            self._be_patient()
            return replace(report, stopped=True, unavailable=True, more=False)

    async def stand_by(self) -> None:
        """Give back what is owed while another worker leads, which would count an attempt. Never raises for an outage.

        Not concurrently with `tick`.
        """
        self._be_patient()
        with contextlib.suppress(QueueUnavailable):
            await self._settle_up()

    def _be_patient(self) -> None:
        self._reclaim_from = self._clock.monotonic() + GRACE_S

    def _hear(self) -> bool:
        """Cut the pace on word that live traffic is slow; return whether good decisions may quicken it.

        Beside live traffic one tick for each word does: how it took the others nobody has said yet.
        """
        word = self._live()
        fresh, self._heard = word.number != self._heard, word.number
        if fresh and word.fares is Live.SLOW:
            self._pace = self._pace.beside_slow_live_traffic()
        return word.fares is Live.NONE or (fresh and word.fares is Live.QUICK)

    async def _claim(self, limit: int) -> list[ClaimedItem]:
        return await self._leased(self._store.claim(limit, self._worker))

    async def _leased(self, claim: Awaitable[list[ClaimedItem]]) -> list[ClaimedItem]:
        try:
            return await claim
        except QueueUnavailable:
            # Leased or not, nobody knows; and if so, nobody will decide them.
            self._in_doubt_until = self._clock.monotonic() + DOUBT_S
            raise

    async def _settle_up(self) -> None:
        """Give back everything that this worker holds, or may hold. Between ticks it decides nothing."""
        await self._give_back()
        if self._clock.monotonic() < self._in_doubt_until:
            await self._store.abandon(self._worker)

    def _slice(
        self,
        items: Sequence[ClaimedItem],
        settle: Callable[[ClaimedItem], Awaitable[Result | Postponed]],
        gate: Callable[[], bool],
        *,
        grows: bool,
    ) -> _Slice:
        return _Slice(items, settle, gate, self._clock, self._pace, grows=grows)

    async def _work(self, report: TickReport, work: _Slice, *, feed: bool = False) -> TickReport:
        """Settle a slice; give back what was not decided. With `feed` more is claimed meanwhile."""
        try:
            await work.run(self._claim_next if feed else None)
        except BaseException:
            # Cancelled, or a decider's programming error: the others must not pay for it with an attempt.
            self._owe(work)
            with contextlib.suppress(QueueUnavailable):
                await self._give_back()
            raise
        self._pace = work.pace.after_trouble() if work.trouble else work.pace
        self._owe(work)
        report = replace(
            report,
            finished=report.finished + work.finished,
            lost=report.lost + work.lost,
            poisoned=report.poisoned + len(work.poisoned),
            given_back=report.given_back + len(work.undecided) + len(work.unstarted),
            postponed=report.postponed + len(work.postponed),
            stopped=work.stopped,
        )
        try:
            if work.unavailable is not None:
                raise work.unavailable
            await self._give_back()
            parked = [item.intent_id for item in work.poisoned if await self._count_attempt(item) is State.PARKED]
        except QueueUnavailable:
            self._be_patient()
            return replace(report, stopped=True, unavailable=True)
        return replace(report, parked=(*report.parked, *parked))

    async def _claim_next(self, limit: int) -> list[ClaimedItem]:
        """Return the next batch; nothing once somebody submits, so that the tick ends."""
        return await self._claim(limit) if self._live().fares is Live.NONE else []

    async def _give_back(self) -> None:
        """Give back what is owed. While the database is away it stays owed, and the lease's epoch keeps it harmless."""
        await self._store.give_back(self._owed)
        self._owed.clear()
        await self._store.give_back(self._owed_deferred, self._clock.now() + timedelta(seconds=DEFER_S))
        self._owed_deferred.clear()
        for until in sorted(self._owed_until):
            await self._store.give_back(self._owed_until[until], until)
            del self._owed_until[until]

    def _owe(self, work: _Slice) -> None:
        self._owed += [*work.interrupted, *work.unstarted]
        self._owed_deferred += work.undecided
        for item, until in work.postponed:
            self._owed_until.setdefault(min(until, item.expires_at), []).append(item)

    async def _count_attempt(self, item: ClaimedItem) -> State | None:
        backoff = timedelta(seconds=min(2.0 ** min(item.attempts, 10), MAX_BACKOFF_S))
        return await self._store.release(item.intent_id, item.epoch, self._clock.now() + backoff, count_attempt=True)


class _Slice:
    """One slice's items and what became of them. Runners take from it until it is empty or stopped.

    With `grows` each good decision quickens the pace at once. `more` says that the queue holds more than was claimed.
    """

    def __init__(
        self,
        items: Sequence[ClaimedItem],
        settle: Callable[[ClaimedItem], Awaitable[Result | Postponed]],
        gate: Callable[[], bool],
        clock: Clock,
        pace: Pace,
        *,
        grows: bool,
    ) -> None:
        self.unstarted = deque(items)
        self._settle = settle
        self._gate = gate
        self._clock = clock
        self._began = clock.monotonic()
        self.pace = pace
        self._grows = grows
        self._runners = 0
        self._group: asyncio.TaskGroup | None = None
        self._begun_in_turn = 0
        self._feeding = False
        self._fed = asyncio.Event()
        self._runs_low = asyncio.Event()
        self.claimed = len(items)
        self.more = False
        self.undecided: list[ClaimedItem] = []
        self.interrupted: list[ClaimedItem] = []
        self.poisoned: list[ClaimedItem] = []
        self.postponed: list[tuple[ClaimedItem, datetime]] = []
        self.finished = 0
        self.lost = 0
        self.stopped = False
        self.trouble = False
        self.unavailable: QueueUnavailable | None = None

    async def run(self, claim: Callable[[int], Awaitable[list[ClaimedItem]]] | None) -> None:
        """Settle the items, and what `claim` adds to them."""
        async with asyncio.TaskGroup() as self._group:
            if claim is not None:
                self._feeding = True
                self._group.create_task(self._feed(claim))
            for _ in range(min(self.pace.window, len(self.unstarted))):
                self._add_runner(self._group)

    # --- what feeds it --------------------------------------------------------------------------------------------

    async def _feed(self, claim: Callable[[int], Awaitable[list[ClaimedItem]]]) -> None:
        """Claim the next batch when half of one is left, until there is no more or the slice has lasted `FEED_S`."""
        try:
            while self.more and not self.stopped and self._clock.monotonic() < self._began + FEED_S:
                limit = self.pace.window * BATCH_PER_WINDOW
                if len(self.unstarted) * 2 > limit:
                    self._runs_low.clear()
                    await self._runs_low.wait()
                    continue
                await self._take_in(claim, limit)
        except QueueUnavailable as error:
            self.unavailable = error
            self._stop()
        finally:
            self._feeding = False
            self._fed.set()

    async def _take_in(self, claim: Callable[[int], Awaitable[list[ClaimedItem]]], limit: int) -> None:
        claiming = asyncio.ensure_future(claim(limit))
        try:
            await asyncio.shield(claiming)
        finally:
            # Seen through, whatever ends the slice meanwhile: what is leased is settled or given back.
            await asyncio.wait({claiming})
            if not claiming.cancelled() and claiming.exception() is None:
                batch = claiming.result()
                self.unstarted.extend(batch)
                self.claimed += len(batch)
                self.more = len(batch) == limit
                self._fed.set()

    # --- what takes from it ---------------------------------------------------------------------------------------

    def _add_runner(self, group: asyncio.TaskGroup) -> None:
        self._runners += 1
        group.create_task(self._settle_items())

    async def _settle_items(self) -> None:
        while (item := await self._next()) is not None:
            started = self._clock.monotonic()
            try:
                result = await self._settle(item)
            except PoisonIntent:
                self.poisoned.append(item)
                continue
            except asyncio.CancelledError:
                self.interrupted.append(item)
                raise
            self._note(item, result, took_s=self._clock.monotonic() - started)

    async def _next(self) -> ClaimedItem | None:
        """Return what to begin now; None at the end."""
        while True:
            if self._begun_in_turn >= BEGIN_PER_TURN:
                # All at once would leave the database idle while they are decided, and us while it stores them.
                await asyncio.sleep(0)
            elif not self.unstarted and self._feeding and not self.stopped:
                self._fed.clear()
                await self._fed.wait()
            elif not self.unstarted or not self._may_start():
                return None
            else:
                break
        if self._begun_in_turn == 0:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._begun_in_turn += 1
        self._runs_low.set()
        return self.unstarted.popleft()

    def _next_turn(self) -> None:
        self._begun_in_turn = 0

    def _may_start(self) -> bool:
        if not self._gate() or self._clock.monotonic() >= self._began + START_WITHIN_S:
            self._stop()
        return not self.stopped

    def _stop(self) -> None:
        self.stopped = True
        self._fed.set()
        self._runs_low.set()

    def _note(self, item: ClaimedItem, result: Result | Postponed, took_s: float) -> None:
        match result:
            case Postponed(until=until):
                self.postponed.append((item, until))
            case Result.FINISHED:
                self.finished += 1
            case Result.LOST:
                self.lost += 1
            case Result.NOT_DECIDED:
                self.undecided.append(item)
                self.trouble = True
                self._stop()
                return
            case _:
                assert_never(result)
        if took_s > SLOW_S:
            self.trouble = True
        elif self._grows:
            self.pace = self.pace.after_good()
            if self._runners < self.pace.window and self._feeding and self._group is not None:
                self._add_runner(self._group)


def _always() -> bool:
    return True
