"""The log as PostgreSQL has it, read in one snapshot for whoever verifies or exports it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import asyncpg
from holdfast.audit.chain import verify_stream
from holdfast.audit.log import judge_log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from holdfast.audit.chain import Sealed
    from holdfast.audit.log import LogReport
    from holdfast.audit.record import Receipt

_CHUNK: Final = 2_000
_STREAMS: Final = "SELECT DISTINCT stream FROM audit_records ORDER BY stream"
_RECORDS: Final = "SELECT seq, body, seal FROM audit_records WHERE stream = $1 AND seq > $2 ORDER BY seq LIMIT $3"


class LogSnapshot:
    """One consistent look at every stream; the service may go on writing."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def streams(self) -> list[str]:
        """Return the stream ids, oldest first."""
        return [row["stream"] for row in await self._connection.fetch(_STREAMS)]

    async def chunk(self, stream: str, after: int) -> list[tuple[int, bytes, bytes | None]]:
        """Return the next records behind `after`: sequence, exact bytes, seal."""
        rows = await self._connection.fetch(_RECORDS, stream, after, _CHUNK)
        return [(row["seq"], row["body"], row["seal"]) for row in rows]

    async def verify(
        self, *, anchors: Sequence[Receipt], require_anchor: bool, on_stream: Callable[[str], None]
    ) -> LogReport:
        """Verify the whole log. `on_stream` is told of each stream before it is read."""
        loop = asyncio.get_running_loop()
        reports = []
        for stream in await self.streams():
            on_stream(stream)
            records = self._records(stream, loop)
            reports.append(await asyncio.to_thread(verify_stream, records, anchors=anchors))
        return judge_log(reports, anchors=anchors, require_anchor=require_anchor)

    def _records(self, stream: str, loop: asyncio.AbstractEventLoop) -> Iterator[Sealed]:
        """Yield a stream's records to a thread that verifies, while `loop` reads them."""
        after = -1
        while chunk := asyncio.run_coroutine_threadsafe(self.chunk(stream, after), loop).result():
            for seq, body, seal in chunk:
                yield body, seal
                after = seq


@asynccontextmanager
async def log_snapshot(dsn: str) -> AsyncIterator[LogSnapshot]:
    """Open a read-only snapshot. Raises: OSError and asyncpg's errors when the database is not there."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield LogSnapshot(connection)
    finally:
        await connection.close(timeout=5)
