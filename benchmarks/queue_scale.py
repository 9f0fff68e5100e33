"""What the queue's queries cost with a million rows waiting, beside the same with ten thousand. Medians, in ms.

On the PostgreSQL of `holdfast up` (fsync on, one machine), with its API and worker stopped: the queries alone. The rows
are written by SQL, in three lanes, by many agents. What is claimed is given back, so that every round finds as many.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
from rich.console import Console
from rich.table import Table

from benchmarks import queue_rows, stage
from benchmarks.processes import RunFailed
from intent_queue.item import Filters
from intent_queue.store import QueueStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

_SUBMISSION: Final = b'{"action":"kb.search"}'
_EMPTY: Final = "TRUNCATE queue_entries, intents CASCADE"
_MIDDLE: Final = "SELECT max(intent_id) FROM (SELECT intent_id FROM queue_entries ORDER BY intent_id LIMIT $1) AS half"


async def measure(database_url: str, rows: int, *, agents: int, rounds: int) -> Mapping[str, float]:
    """Return the median of each operation in milliseconds, with `rows` waiting. Empties the queue first."""
    async with asyncpg.create_pool(database_url, min_size=1, max_size=2) as pool:
        connection = await asyncpg.connect(database_url)
        try:
            await connection.execute(_EMPTY)
            await queue_rows.fill(connection, rows, agents=agents, agent_prefix="agent-", submission=_SUBMISSION)
            await connection.execute("VACUUM queue_entries", timeout=600)
            middle = str(await connection.fetchval(_MIDDLE, rows // 2))
        finally:
            await connection.close()
        store = QueueStore(pool, deadline_s=60)
        medians: dict[str, float] = {}
        for limit in (100, 16):
            took: list[float] = []
            for _ in range(rounds):
                began = time.perf_counter()
                items = await store.claim(limit, "benchmark")
                took.append(time.perf_counter() - began)
                if len(items) != limit:
                    raise RunFailed(f"claimed {len(items)} of {limit}")
                await store.give_back(items)
            medians[f"claim {limit}"] = statistics.median(took)
        first = await store.page(limit=100)
        operations: Mapping[str, Callable[[], Awaitable[object]]] = {
            "expired, none due": lambda: store.expired(100, "benchmark"),
            "first page of 100": lambda: store.page(limit=100),
            "next page of 100": lambda: store.page(after=first.after, limit=100),
            "page of one category": lambda: store.page(limit=100, filters=Filters(category="cat-007")),
            "page of one agent": lambda: store.page(limit=100, filters=Filters(agent="agent-007")),
            "position, in the middle": lambda: store.position(middle),
            "count of one agent": lambda: store.count_for("agent-007"),
            "same action": lambda: store.find_duplicate("agent-007", "sha-256:7"),
            "count everything": store.depths,
        }
        for name, operation in operations.items():
            took = []
            for _ in range(rounds if name != "count everything" else 5):
                began = time.perf_counter()
                await operation()
                took.append(time.perf_counter() - began)
            medians[name] = statistics.median(took)
    return {name: 1000 * seconds for name, seconds in medians.items()}


@contextlib.asynccontextmanager
async def _database(directory: Path) -> AsyncIterator[str]:
    async with stage.raised(directory, stage.shipped_policies()) as on:
        stopped = [on.pids[name] for name in ("api", "worker")]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield on.database_url
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)


async def _run(arguments: argparse.Namespace, console: Console) -> None:
    with tempfile.TemporaryDirectory(prefix="holdfast-scale-") as directory:
        async with _database(Path(directory)) as database_url:
            few = await measure(database_url, arguments.few, agents=arguments.agents, rounds=arguments.rounds)
            many = await measure(database_url, arguments.rows, agents=arguments.agents, rounds=arguments.rounds)
    table = Table("operation", f"{arguments.few} rows, ms", f"{arguments.rows} rows, ms", "ratio")
    for name, ms in many.items():
        table.add_row(name, f"{few[name]:.2f}", f"{ms:.2f}", f"{ms / few[name]:.1f}")
    console.print(table)


def main() -> int:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue_scale", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    console = Console(highlight=False, width=100)
    try:
        asyncio.run(_run(arguments, console))
    except RunFailed as error:
        console.print(f"benchmarks: {error}", markup=False)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
