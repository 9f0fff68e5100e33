"""What one durable commit costs: a single-row INSERT, one after the other on one connection.

The promise on latency rests on "commit p99 at most 2 ms"; this says whether the machine keeps it.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

import asyncpg

from benchmarks.floor import INSERT, TABLE
from benchmarks.percentiles import Distribution

if TYPE_CHECKING:
    from collections.abc import Mapping

_COMMITS: Final = 2000
_WARM_UP: Final = 200
_BODY: Final = b"x" * 1024


async def probe(database_url: str) -> tuple[Distribution, Mapping[str, str]]:
    """Return the distribution, and the server's version and settings that it depends on."""
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        await connection.execute(TABLE)
        insert = await connection.prepare(INSERT)
        took_ns: list[int] = []
        for _ in range(_WARM_UP + _COMMITS):
            row = "row_" + secrets.token_hex(13)
            began_ns = time.perf_counter_ns()
            await insert.fetch(row, _BODY)
            took_ns.append(time.perf_counter_ns() - began_ns)
        settings = {
            name: str(await connection.fetchval(f"SHOW {name}"))
            for name in ("server_version", "fsync", "synchronous_commit", "wal_sync_method", "full_page_writes")
        }
    finally:
        await connection.close(timeout=5)
    return Distribution.of(took_ns[_WARM_UP:]), settings
