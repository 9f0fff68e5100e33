"""A drain worker with a real recorder, to be killed and stopped: `python drain_process.py DSN DIRECTORY NAME`.

It records a denial for each intent, fenced by its lease, and prints a line before it does. Leases are short, and now
and then it dawdles for longer than one lasts.
"""

from __future__ import annotations

import asyncio
import random
import sys
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from intent_queue.drain import Drain, Result
from intent_queue.pace import Pace
from intent_queue.store import QueueStore
from intent_queue.worker import run
from services.ports import Entry, MoveIntent
from services.postgres.sink import PostgresSink
from services.recording.disk import DirectoryLocked
from services.recording.journal import Journal
from services.recording.lane import Lane
from services.system import SystemClock, SystemIds

LEASE_S = 2.0
SLOW_S = 0.3
DAWDLES = 0.002
POOL = 5


class ShortLeases(QueueStore):
    async def claim(self, limit, worker, lease_s=LEASE_S):
        return await super().claim(limit, worker, lease_s)


class RecordingDecider:
    def __init__(self, lane):
        self._lane = lane

    async def authorize(self, item):
        print(item.intent_id, flush=True)  # noqa: T201 - the killer reads it
        await asyncio.sleep(2 * LEASE_S if random.random() < DAWDLES else random.uniform(0, SLOW_S))
        at = datetime.now(UTC)
        effect = MoveIntent(
            intent_id=item.intent_id,
            expect_version=item.version,
            status="denied",
            reason_code="POLICY_DENIED",
            envelope={},
            decided_at=at,
            epoch=item.epoch,
        )
        members = {"intent_id": item.intent_id, "status": "denied"}
        pending = self._lane.append(
            Entry(kind="decision", at=at, members=members, effect=effect, journal_may_release=True)
        )
        return Result.FINISHED if (await pending.settled()).applied else Result.LOST

    async def expire(self, item):
        raise NotImplementedError


async def started(dsn, directory, name):
    """Start as a supervisor would: again while another worker takes over what this one's last life left behind."""
    while True:
        journal = Journal(Path(directory) / name, max_bytes=1 << 22)
        lane = Lane(PostgresSink(dsn), journal, SystemClock(), SystemIds(), instance=name)
        try:
            await lane.start()
        except DirectoryLocked:
            await asyncio.sleep(0.1)
        else:
            return lane


async def main(dsn, directory, name):
    lane = await started(dsn, directory, name)
    async with asyncpg.create_pool(dsn, min_size=1, max_size=POOL) as pool:
        drain = Drain(ShortLeases(pool), RecordingDecider(lane), SystemClock(), Pace(), lambda: True, worker=name)
        await run(None, drain.tick, tick_interval_s=0.05, stop=asyncio.Event())


asyncio.run(main(*sys.argv[1:]))
