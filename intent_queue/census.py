"""Keeps `Bounds` fresh: counts the table about once a second."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

from intent_queue.store import QueueUnavailable

if TYPE_CHECKING:
    from intent_queue.bounds import Bounds
    from intent_queue.store import QueueStore

# Counting takes at most this share of a connection: a long queue is counted less often.
SHARE: Final = 0.05


async def count(bounds: Bounds, store: QueueStore) -> bool:
    """Count once; False if the database was away, and the old snapshot stands."""
    bounds.refreshing()
    try:
        depth = await store.depths()
    except QueueUnavailable:
        return False
    bounds.refreshed(depth)
    return True


async def keep_counting(bounds: Bounds, store: QueueStore, *, stop: asyncio.Event, interval_s: float = 1.0) -> None:
    """Count until `stop` is set."""
    while not stop.is_set():
        started = time.monotonic()
        await count(bounds, store)
        pause_s = max(interval_s, (time.monotonic() - started) / SHARE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await stop.wait()
