"""Which worker drains: the one whose connection holds an advisory lock.

Two leaders for a moment would be harmless, leases keep them apart; one is kinder to a recovering dependency. The lock
lives exactly as long as its connection, so the connection is its own, never from a pool, and not behind a pooler that
shares sessions.

A leader that stands still keeps its connection, and the lock with it. Whoever else asks ends the connection of one that
has said nothing for `SILENT_S`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import asyncpg

from intent_queue.driver import UNREACHABLE

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_log = logging.getLogger(__name__)

LOCK_KEY: Final = int.from_bytes(b"hf_queue")  # in PostgreSQL's bigint range, the same for every worker

#: A leader asks once a second, and after a tick, which is over within about a third of a lease.
SILENT_S: Final = 20.0

_END_SILENT: Final = """
SELECT pg_terminate_backend(a.pid)
  FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND a.datname = current_database()
   AND l.database = a.datid AND l.classid = $1::bigint::oid AND l.objid = $2::bigint::oid
   AND a.state_change < clock_timestamp() - make_interval(secs => $3)
"""

# A leader that vanished without a word frees the lock after about this: 5 + 3 x 2 seconds.
_KEEPALIVE: Final = {
    "application_name": "holdfast-queue-leader",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}


class Leader:
    """Stands for leadership on one connection to `dsn`. Not for concurrent use."""

    def __init__(self, dsn: str, *, key: int = LOCK_KEY, deadline_s: float = 1.0, silent_s: float = SILENT_S) -> None:
        self._dsn = dsn
        self._key = key
        self._deadline_s = deadline_s
        self._silent_s = silent_s
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._leads = False

    async def leads(self) -> bool:
        """Tell whether this worker leads now; ask before every tick. False for any doubt, never raises for one."""
        try:
            connection = await self._connected()
            if self._leads:
                await connection.fetchval("SELECT 1", timeout=self._deadline_s)
            else:
                got = await connection.fetchval("SELECT pg_try_advisory_lock($1)", self._key, timeout=self._deadline_s)
                self._leads = got is True
                if not self._leads:
                    await self._end_silent(connection)
        except UNREACHABLE:
            self._drop()
        return self._leads

    async def _end_silent(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """End the connection of a leader that stands still; the next to ask leads. What it has leased is fenced."""
        high, low = self._key >> 32, self._key & 0xFFFFFFFF
        ended = await connection.fetch(_END_SILENT, high, low, self._silent_s, timeout=self._deadline_s)
        if ended:
            _log.warning("the worker that leads said nothing for %.0f s and leads no more", self._silent_s)

    def resign(self) -> None:
        """Drop the connection, and with it the lock."""
        self._drop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resign()

    async def _connected(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is not None and self._connection.is_closed():
            self._drop()
        if self._connection is None:
            self._connection = await asyncpg.connect(
                self._dsn, timeout=self._deadline_s, server_settings=dict(_KEEPALIVE)
            )
        return self._connection

    def _drop(self) -> None:
        self._leads = False
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
