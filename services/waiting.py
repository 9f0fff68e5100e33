"""How many wait, from memory: the last count of the queue, plus what this process parked since."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from intent_queue.bounds import Bounds, Depth, Limits
from intent_queue.store import QueueUnavailable
from services.outcome import LANE_NAMES

if TYPE_CHECKING:
    from intent_queue.store import QueueStore
    from services.metrics import Metrics

_log = logging.getLogger(__name__)
_EMPTY = Depth(by_agent={}, by_lane={}, by_state={})


class QueueDepth:
    """The Waiting port over the queue's own bounds."""

    def __init__(self, store: QueueStore, metrics: Metrics, *, interval_s: float = 1.0) -> None:
        self._store = store
        self._metrics = metrics
        self._interval_s = interval_s
        self._depth = _EMPTY
        self._bounds: dict[tuple[int, int], Bounds] = {}
        self._parked_since: dict[int, int] = {}

    def full(self, agent: str, *, max_per_agent: int, max_total: int) -> bool:
        """Return whether another intent of this agent may not be parked."""
        return not self._of(max_per_agent, max_total).has_room(agent)

    def parked(self, agent: str, lane: int) -> int:
        """Count one parked intent and return its approximate 1-based position."""
        for bounds in self._bounds.values():
            bounds.parked(agent)
        self._parked_since[lane] = self._parked_since.get(lane, 0) + 1
        ahead = sum(depth.count for other, depth in self._depth.by_lane.items() if other <= lane)
        return ahead + sum(count for other, count in self._parked_since.items() if other <= lane)

    async def refresh(self) -> None:
        """Count the queue once. While it cannot be read, the last count and what was parked since must do."""
        for bounds in self._bounds.values():
            bounds.refreshing()
        parked_before, self._parked_since = self._parked_since, {}
        try:
            self._depth = await self._store.depths()
        except QueueUnavailable as error:
            for lane, count in parked_before.items():
                self._parked_since[lane] = self._parked_since.get(lane, 0) + count
            _log.debug("the queue could not be counted: %s", error)
            return
        for bounds in self._bounds.values():
            bounds.refreshed(self._depth)
        for lane, depth in self._depth.by_lane.items():
            self._metrics.queue_waiting.labels(LANE_NAMES[lane]).set(depth.count)
        oldest = max((depth.oldest_age_s for depth in self._depth.by_lane.values()), default=0.0)
        self._metrics.queue_oldest_seconds.set(oldest)

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._interval_s)

    def _of(self, max_per_agent: int, max_total: int) -> Bounds:
        bounds = self._bounds.get((max_per_agent, max_total))
        if bounds is None:
            bounds = Bounds(Limits(max_per_agent=max_per_agent, max_total=max_total))
            bounds.refreshed(self._depth)
            self._bounds = {(max_per_agent, max_total): bounds}  # another bundle's limits replace the last one's
        return bounds
