"""What it costs to tell waiters of changed intents: NOTIFY, one query for all waiters, or one for all changes.

    python -m benchmarks.wakeups DATABASE_URL      # a scratch database; everything is made in a schema and dropped

Writers commit as lanes do: one transaction for a batch of rows. Results: docs/adr, "Waiters follow one feed".
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WRITERS = 8
SECONDS = 5.0
ROWS = 50_000
WAITERS = 5_000
CHANGES_PER_TICK = 100
TICKS = 200

_SCHEMA = """
DROP SCHEMA IF EXISTS wakeups CASCADE;
CREATE SCHEMA wakeups;
SET search_path = wakeups;
CREATE TABLE intents (intent_id text PRIMARY KEY, version int NOT NULL, status text NOT NULL, envelope jsonb NOT NULL);
CREATE TABLE events (xid xid8 NOT NULL DEFAULT pg_current_xact_id(), id bigint GENERATED ALWAYS AS IDENTITY,
                     intent_id text NOT NULL, envelope jsonb NOT NULL, PRIMARY KEY (xid, id));
"""
_FILL = """
INSERT INTO wakeups.intents
SELECT 'int_' || lpad(n::text, 26, '0'), 1, 'queued', jsonb_build_object('detail', repeat('x', 600))
  FROM generate_series(1, $1::int) AS n
"""
_MOVE = "UPDATE wakeups.intents SET version = version + 1 WHERE intent_id = $1"
_EVENT = """
INSERT INTO wakeups.events (intent_id, envelope) SELECT intent_id, envelope FROM wakeups.intents WHERE intent_id = $1
"""
_ALL_WAITERS = "SELECT intent_id, version FROM wakeups.intents WHERE intent_id = ANY($1) AND status <> 'queued'"
_ALL_CHANGES = """
SELECT e.xid::text, e.id, e.intent_id, e.envelope, e.xid < pg_snapshot_xmin(pg_current_snapshot()) AS settled
  FROM wakeups.events AS e WHERE (e.xid, e.id) > ($1::text::xid8, $2) ORDER BY e.xid, e.id LIMIT 1000
"""
_LATEST = "SELECT e.xid::text, e.id FROM wakeups.events AS e ORDER BY e.xid DESC, e.id DESC LIMIT $1"


async def main(url: str) -> None:
    """Measure and print."""
    admin = await asyncpg.connect(url)
    await admin.execute(_SCHEMA)
    await admin.execute(_FILL, ROWS)
    await admin.execute("VACUUM ANALYZE wakeups.intents")

    async def plain(connection: asyncpg.Connection, name: str) -> None:
        await connection.execute(_MOVE, name)

    async def notifying(connection: asyncpg.Connection, name: str) -> None:
        await connection.execute(_MOVE, name)
        await connection.execute("SELECT pg_notify('intents', $1)", name)

    async def with_event(connection: asyncpg.Connection, name: str) -> None:
        await connection.execute(_MOVE, name)
        await connection.execute(_EVENT, name)

    for what, move in (
        ("no wake-up", plain),
        ("NOTIFY in the transaction", notifying),
        ("a row of events", with_event),
    ):
        await _write(url, what, move)

    names = [f"int_{n:026d}" for n in range(1, WAITERS + 1)]
    await _read("one query for 5,000 waiters", lambda: admin.fetch(_ALL_WAITERS, names))
    await _read("one query for changes, none", lambda: admin.fetch(_ALL_CHANGES, str(2**62), 0))
    rows = await admin.fetch(_LATEST, CHANGES_PER_TICK + 1)
    xid, number = rows[-1]["xid"], rows[-1]["id"]
    await _read(f"one query for changes, {CHANGES_PER_TICK}", lambda: admin.fetch(_ALL_CHANGES, xid, number))
    await admin.execute("DROP SCHEMA wakeups CASCADE")
    await admin.close()


async def _write(url: str, what: str, move: Callable[[asyncpg.Connection, str], Awaitable[None]]) -> None:
    listener = await asyncpg.connect(url)
    await listener.add_listener("intents", lambda *_: None)
    took: list[float] = []
    until = time.perf_counter() + SECONDS

    async def writer(number: int) -> None:
        connection = await asyncpg.connect(url)
        n = number
        while time.perf_counter() < until:
            n = n % ROWS + WRITERS
            started = time.perf_counter()
            async with connection.transaction():
                await move(connection, f"int_{n:026d}")
            took.append(time.perf_counter() - started)
        await connection.close()

    await asyncio.gather(*(writer(number) for number in range(1, WRITERS + 1)))
    await listener.close()
    _print(what, took, f"{len(took) / SECONDS:8.0f} commits/s")


async def _read(what: str, ask: Callable[[], Awaitable[list[asyncpg.Record]]]) -> None:
    took = []
    for _ in range(TICKS):
        started = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - started)
    _print(what, took)


def _print(what: str, took: list[float], more: str = "") -> None:
    took.sort()
    p50, p99 = statistics.median(took), took[int(len(took) * 0.99)]
    print(f"{what:30} p50 {p50 * 1000:7.2f} ms   p99 {p99 * 1000:7.2f} ms  {more}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
