"""The store's heartbeat: whether evaluation may be attempted at all."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.postgres.pool import ReadPool

_log = logging.getLogger(__name__)


class Heartbeat:
    """Asks the store every `interval_s` for a sign of life; no answer within `deadline_s` is none. Source: design 5."""

    def __init__(
        self,
        pool: ReadPool,
        *,
        on_beat: Callable[[StoreUnreachable | None], None],
        interval_s: float = 0.5,
        deadline_s: float = 1.0,
    ) -> None:
        self._pool = pool
        self._on_beat = on_beat
        self._interval_s = interval_s
        self._deadline_s = deadline_s
        self._beating = False

    def check(self) -> None:
        """Return while the store is reachable. Raises: StoreUnreachable."""
        if not self._beating:
            raise StoreUnreachable("the store's heartbeat is lost")

    async def beat(self) -> None:
        """Ask once. Raises: StoreUnreachable."""
        try:
            async with asyncio.timeout(self._deadline_s), self._pool.connection() as connection:
                if await connection.fetchval("SELECT 1") != 1:
                    raise StoreUnreachable("the store answered wrongly")
        except TimeoutError as error:
            raise StoreUnreachable("the store did not answer in time") from error

    async def run(self) -> None:
        """Beat until cancelled, and tell of every beat: None for a good one, else what was wrong."""
        while True:
            missed: StoreUnreachable | None = None
            try:
                await self.beat()
            except StoreUnreachable as error:
                missed = error
                if self._beating:
                    _log.warning("the store's heartbeat is lost: %s", error)
            self._beating = missed is None
            self._pool.heard(alive=self._beating)
            self._on_beat(missed)
            await asyncio.sleep(self._interval_s)
