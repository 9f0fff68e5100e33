"""A drain worker of its own process, to be killed: `python queue_worker_process.py DSN NAME`.

Prints a line for each intent it is about to settle, so that the killer can strike in the middle.
"""

from __future__ import annotations

import asyncio
import random
import sys
from datetime import UTC, datetime

import asyncpg
from queue_rows import settle

from intent_queue.drain import Drain
from intent_queue.pace import Pace
from intent_queue.store import QueueStore
from intent_queue.worker import run


class Now:
    def now(self):
        return datetime.now(UTC)

    def monotonic(self):
        return asyncio.get_running_loop().time()


class TalkingDecider:
    def __init__(self, pool):
        self._pool = pool

    async def authorize(self, item):
        print(item.intent_id, flush=True)  # noqa: T201 - the killer reads it
        await asyncio.sleep(random.uniform(0, 0.02))
        return await settle(self._pool, item, "denied")

    async def expire(self, item):
        return await settle(self._pool, item, "expired")


async def main(dsn, name):
    async with asyncpg.create_pool(dsn, min_size=1, max_size=5) as pool:
        drain = Drain(QueueStore(pool), TalkingDecider(pool), Now(), Pace(), lambda: True, worker=name)
        await run(None, drain.tick, tick_interval_s=0.05, stop=asyncio.Event())


asyncio.run(main(*sys.argv[1:]))
