"""The drain: gives waiting intents to the decider, a bounded slice at a time.

One tick:

1. Give back what an earlier tick could not, because the database was away, and what a claim in doubt may have leased.
   First, so that no attempt is counted.
2. Take back leases that ran out; the fifth time an intent is parked. Not right after the database was away, or another
   worker led: whoever lost touch with it gives back first.
3. Expire what is overdue. It needs only the log, so it does not wait for the gate, and comes before deciding: an
   intent whose time is up is never evaluated.
4. If the gate is open, claim a small batch and decide it, as many at once as the pace allows.
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

from intent_queue.pace import Pace
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
# How long it pauses between ticks while live traffic is slow.
YIELD_S: Final = 0.1


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
    `yields` is True while live traffic needs the room.
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
        yields: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._decider = decider
        self._clock = clock
        self._pace = pace
        self._gate = gate
        self._worker = worker
        self._yields = yields
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
        report = TickReport()
        try:
            await self._settle_up()
            if self._clock.monotonic() >= self._reclaim_from:
                reclaimed = await self._store.reclaim_expired_leases()
                report = replace(report, reclaimed=reclaimed.returned, parked=tuple(reclaimed.parked))

            due = await self._leased(self._store.expired(EXPIRE_LIMIT, self._worker))
            report = await self._work(report, due, self._decider.expire, gate=_always)
            report = replace(report, due=len(due), more=len(due) == EXPIRE_LIMIT and not report.stopped)
            if report.stopped:
                return report
            if not self._gate():
                # Whatever comes back is fragile: start over slowly.
                self._pace = Pace()
                return replace(report, stopped=True)
            if self._yields():
                self._pace = self._pace.after_trouble()
                report = replace(report, pause_s=YIELD_S)

            limit = self._pace.window * BATCH_PER_WINDOW
            batch = await self._leased(self._store.claim(limit, self._worker))
            report = await self._work(report, batch, self._decider.authorize, gate=self._gate)
            more = not report.stopped and (report.more or len(batch) == limit)
            return replace(report, claimed=len(batch), more=more)
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

    async def _work(
        self,
        report: TickReport,
        items: Sequence[ClaimedItem],
        settle: Callable[[ClaimedItem], Awaitable[Result | Postponed]],
        gate: Callable[[], bool],
    ) -> TickReport:
        """Settle `items`, as many at once as the pace allows; give back what was not decided."""
        work = _Slice(items, settle, gate, self._clock)
        try:
            async with asyncio.TaskGroup() as runners:
                for _ in range(min(self._pace.window, len(items))):
                    runners.create_task(work.run())
        except BaseException:
            # Cancelled, or a decider's programming error: the others must not pay for it with an attempt.
            self._owe(work)
            with contextlib.suppress(QueueUnavailable):
                await self._give_back()
            raise
        for _ in range(work.good):
            self._pace = self._pace.after_good()
        if work.trouble:
            self._pace = self._pace.after_trouble()
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
            await self._give_back()
            parked = [item.intent_id for item in work.poisoned if await self._count_attempt(item) is State.PARKED]
        except QueueUnavailable:
            self._be_patient()
            return replace(report, stopped=True, unavailable=True)
        return replace(report, parked=(*report.parked, *parked))

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
    """One slice's items and what became of them. Runners take from it until it is empty or stopped."""

    def __init__(
        self,
        items: Sequence[ClaimedItem],
        settle: Callable[[ClaimedItem], Awaitable[Result | Postponed]],
        gate: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self.unstarted = deque(items)
        self._settle = settle
        self._gate = gate
        self._clock = clock
        self._start_by = clock.monotonic() + START_WITHIN_S
        self.undecided: list[ClaimedItem] = []
        self.interrupted: list[ClaimedItem] = []
        self.poisoned: list[ClaimedItem] = []
        self.postponed: list[tuple[ClaimedItem, datetime]] = []
        self.finished = 0
        self.good = 0
        self.lost = 0
        self.stopped = False
        self.trouble = False

    async def run(self) -> None:
        while self.unstarted and self._may_start():
            item = self.unstarted.popleft()
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

    def _may_start(self) -> bool:
        if not self._gate() or self._clock.monotonic() >= self._start_by:
            self.stopped = True
        return not self.stopped

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
                self.stopped = self.trouble = True
                return
            case _:
                assert_never(result)
        if took_s > SLOW_S:
            self.trouble = True
        else:
            self.good += 1


def _always() -> bool:
    return True
