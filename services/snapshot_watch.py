"""Raises the alarm when somebody holds a database snapshot for long: the hot table of the queue bloats meanwhile.

Every settled intent leaves a dead row behind, and no vacuum may remove one that an old snapshot could still see. At a
thousand settlements a second an hour of an idle transaction is millions of dead index entries in front of every claim.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from services.metrics import Metrics
    from services.ports import Clock
    from services.postgres.reports import Holder, PostgresReports

HELD_S: Final = 60.0
_LOOK_EVERY_S: Final = 5.0

_log = logging.getLogger(__name__)


class SnapshotWatch:
    """Publishes `holdfast_oldest_snapshot_seconds`, and logs who holds one for longer than `HELD_S`, once each."""

    def __init__(self, store: PostgresReports, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        # Slots and standbys do not say since when: counted from when their horizon was first seen where it is.
        self._first_seen: dict[tuple[str, str], tuple[str, float]] = {}
        self._told: set[tuple[str, str]] = set()

    async def look(self) -> float:
        """Look once, and return for how long the oldest snapshot has been held. Raises: StoreUnreachable."""
        holders = await self._store.holders()
        ages = {(holder.kind, holder.name): self._held_s(holder) for holder in holders}
        self._first_seen = {key: seen for key, seen in self._first_seen.items() if key in ages}
        oldest_s = max(ages.values(), default=0.0)
        self._metrics.oldest_snapshot_seconds.set(oldest_s)
        held = {key for key, age_s in ages.items() if age_s > HELD_S}
        for kind, name in sorted(held - self._told):
            _log.error(
                "a %s (%s) has held a snapshot for %.0f s: the queue's table cannot be cleaned meanwhile",
                kind,
                name,
                ages[kind, name],
            )
        self._told = held
        return oldest_s

    def _held_s(self, holder: Holder) -> float:
        if holder.held_s is not None:
            return holder.held_s
        key, now = (holder.kind, holder.name), self._clock.monotonic()
        horizon, since = self._first_seen.get(key, (holder.horizon, now))
        if holder.horizon != horizon:
            since = now
        self._first_seen[key] = (holder.horizon, since)
        return now - since

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except StoreUnreachable as error:
                _log.debug("nobody knows who holds a snapshot: %s", error)
            await asyncio.sleep(_LOOK_EVERY_S)
