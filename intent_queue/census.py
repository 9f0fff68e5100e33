"""Keeps `Bounds` fresh by counting the table. The service calls it about once a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intent_queue.store import QueueUnavailable

if TYPE_CHECKING:
    from intent_queue.bounds import Bounds
    from intent_queue.store import QueueStore


async def count(bounds: Bounds, store: QueueStore) -> bool:
    """Count once; False if the database was away, and the old snapshot stands."""
    bounds.refreshing()
    try:
        depth = await store.depths()
    except QueueUnavailable:
        return False
    bounds.refreshed(depth)
    return True
