"""What the processes tell each other through the store: which boundaries are open, and whether live traffic is slow.

A worker's own boundaries may all be closed while an API process on another machine cannot reach its signer. So every
process writes what it sees, every second and at every transition, and a worker drains only while no fresh report names
a boundary. Who cannot read the reports does not drain.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from services.breaker import State
from services.ports import StoreUnreachable
from services.postgres.reports import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.boundary import BoundaryState
    from services.metrics import Metrics
    from services.ports import Clock
    from services.postgres.reports import PostgresReports

REPORT_EVERY_S: Final = 1.0
READ_EVERY_S: Final = 0.25
#: A view that could not be refreshed for this long is none.
STALE_S: Final = 2.0
#: Live traffic is slow when more than one decision in so many took longer than the metric's bucket of that name.
SLOW_LE: Final = "0.025"
SLOW_SHARE: Final = 10
_MIN_DECISIONS: Final = 5

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
                self._changed.clear()
                await self._write()
                try:
                    async with asyncio.timeout(REPORT_EVERY_S):
                        await self._changed.wait()
                except TimeoutError:
                    self._live.turn()
        finally:
            try:
                await self._store.forget(self._process)
            except StoreUnreachable as error:
                _log.info("the report was left to grow old: %s", error)

    async def _write(self) -> None:
        open_ones = frozenset(state.name for state in self._boundaries() if state.state is not State.CLOSED)
        try:
            await self._store.put(Report(process=self._process, not_closed=open_ones, live_slow=self._live.slow))
        except StoreUnreachable as error:
            _log.debug("the boundaries could not be reported: %s", error)


class LiveTraffic:
    """Whether the live decisions of the last second were slow, from the latency histogram. `turn` once a second."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._before = (0.0, 0.0)
        self.slow = False

    def turn(self) -> None:
        """Look at the second that has passed."""
        read = self._metrics.registry.get_sample_value
        total = read("holdfast_decision_seconds_count") or 0.0
        quick = read("holdfast_decision_seconds_bucket", {"le": SLOW_LE}) or 0.0
        count, slow = total - self._before[0], (total - quick) - (self._before[0] - self._before[1])
        self._before = (total, quick)
        self.slow = count >= _MIN_DECISIONS and slow * SLOW_SHARE > count


class Replicas:
    """A worker's view of all fresh reports, its own included."""

    def __init__(self, store: PostgresReports, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._read_at = float("-inf")
        self._reports: Sequence[Report] = ()
        self._clear = False

    def clear(self) -> bool:
        """Return whether the reports are known, and none names a boundary that is not closed."""
        return self._clear and self._clock.monotonic() - self._read_at < STALE_S

    def live_slow(self) -> bool:
        """Return whether any process reports that live traffic is slow."""
        return any(report.live_slow for report in self._reports)

    async def read(self) -> None:
        """Read the reports once. While the store is away the last view grows old."""
        asked_at = self._clock.monotonic()
        try:
            self._reports = await self._store.fresh()
        except StoreUnreachable as error:
            _log.debug("the reports of the boundaries could not be read: %s", error)
            return
        self._read_at = asked_at
        found = sorted({f"{name} ({report.process})" for report in self._reports for name in report.not_closed})
        if self._clear is bool(found):
            _log.info("the drain %s", f"stops for: {', '.join(found)}" if found else "may go on")
        self._clear = not found

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(READ_EVERY_S)
