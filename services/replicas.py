"""What the processes tell each other through the store: which boundaries are open, and how live traffic fares.

A worker's own boundaries may all be closed while an API process on another machine cannot reach its signer. So every
process writes what it sees, every second and at every transition, and four times a second while agents submit to it. A
worker drains only while no fresh report names a boundary. Who cannot read the reports does not drain.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from intent_queue.pace import Live, LiveWord
from services.breaker import State
from services.ports import StoreUnreachable
from services.postgres.reports import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.boundary import BoundaryState
    from services.metrics import Metrics
    from services.ports import Clock
    from services.postgres.reports import PostgresReports

LOOK_EVERY_S: Final = 0.25
READ_EVERY_S: Final = 0.25
#: A view that could not be refreshed for this long is none.
STALE_S: Final = 2.0
#: Live traffic is slow when more than one decision in so many was, and two at least, of those of the last second.
SLOW_SHARE: Final = 50
_MIN_SLOW: Final = 2
_LOOKS: Final = 4  # in a second

_log = logging.getLogger(__name__)


class Reporter:
    """Writes one process's reports."""

    def __init__(
        self,
        store: PostgresReports,
        *,
        process: str,
        boundaries: Callable[[], Sequence[BoundaryState]],
        live: LiveTraffic,
    ) -> None:
        self._store = store
        self._process = process
        self._boundaries = boundaries
        self._live = live
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Write again soon: a boundary changed its state."""
        self._changed.set()

    async def run(self) -> None:
        """Write until cancelled, then take the report back."""
        try:
            while True:
                await self._write()
                await self._until_news()
        finally:
            try:
                await self._store.forget(self._process)
            except StoreUnreachable as error:
                _log.info("the report was left to grow old: %s", error)

    async def _until_news(self) -> None:
        """Return when a boundary changed its state, after each look while agents submit, and after a second."""
        for _ in range(_LOOKS):
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._changed.wait()
            except TimeoutError:
                before = self._live.fares
                self._live.turn()
                if (before, self._live.fares) != (Live.NONE, Live.NONE):
                    return
            else:
                self._changed.clear()
                return

    async def _write(self) -> None:
        open_ones = frozenset(state.name for state in self._boundaries() if state.state is not State.CLOSED)
        try:
            await self._store.put(Report(process=self._process, not_closed=open_ones, live=self._live.fares))
        except StoreUnreachable as error:
            _log.debug("the boundaries could not be reported: %s", error)


class LiveTraffic:
    """How the live decisions of the last second fared. `turn` four times a second."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counted = deque([(0, 0)], maxlen=_LOOKS + 1)
        self.fares = Live.NONE

    def turn(self) -> None:
        """Look at the second that has passed."""
        self._counted.append((self._metrics.timed, self._metrics.slow))
        timed, slow = (now - then for now, then in zip(self._counted[-1], self._counted[0], strict=True))
        self.fares = Live.QUICK if timed else Live.NONE
        if slow >= _MIN_SLOW and slow * SLOW_SHARE > timed:
            self.fares = Live.SLOW


class Replicas:
    """A worker's view of all fresh reports, its own included."""

    def __init__(self, store: PostgresReports, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._read_at = float("-inf")
        self._reports: Sequence[Report] = ()
        self._reads = 0
        self._clear = False

    def clear(self) -> bool:
        """Return whether the reports are known, and none names a boundary that is not closed."""
        return self._clear and self._clock.monotonic() - self._read_at < STALE_S

    def live(self) -> LiveWord:
        """Return how live traffic fared at the last reading, for the process where it fared worst."""
        told = {report.live for report in self._reports}
        fares = next((live for live in (Live.SLOW, Live.QUICK) if live in told), Live.NONE)
        return LiveWord(fares=fares, number=self._reads)

    async def read(self) -> None:
        """Read the reports once. While the store is away the last view grows old."""
        asked_at = self._clock.monotonic()
        try:
            self._reports = await self._store.fresh()
        except StoreUnreachable as error:
            _log.debug("the reports of the boundaries could not be read: %s", error)
            return
        self._read_at = asked_at
        self._reads += 1
        found = sorted({f"{name} ({report.process})" for report in self._reports for name in report.not_closed})
        if self._clear is bool(found):
            _log.info("the drain %s", f"stops for: {', '.join(found)}" if found else "may go on")
        self._clear = not found

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(READ_EVERY_S)
