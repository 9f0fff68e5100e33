"""Publishes how many reviews are open, and how many of them too long."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from services.decision.review import REVIEWED
from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from services.metrics import Metrics
    from services.ports import Clock
    from services.postgres.reviews import PostgresReviews

_LOOK_EVERY_S: Final = 5.0

_log = logging.getLogger(__name__)


class ReviewWatch:
    """Keeps `holdfast_reviews_open` and `holdfast_reviews_overdue`."""

    def __init__(self, reviews: PostgresReviews, clock: Clock, metrics: Metrics) -> None:
        self._reviews = reviews
        self._clock = clock
        self._metrics = metrics

    async def look(self) -> None:
        """Count once. Raises: StoreUnreachable."""
        counts = await self._reviews.counts(self._clock.now())
        for mode in REVIEWED:
            opened, overdue = counts.get(mode, (0, 0))
            self._metrics.reviews_open.labels(mode.value).set(opened)
            self._metrics.reviews_overdue.labels(mode.value).set(overdue)

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            try:
                await self.look()
            except StoreUnreachable as error:
                _log.debug("nobody knows which reviews are open: %s", error)
            await asyncio.sleep(_LOOK_EVERY_S)
