"""The read pool, and the one translation of what a database driver raises."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import asyncpg

from intent_queue.driver import UNREACHABLE
from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUERY_TIMEOUT_S: Final = 1.0


async def _keep(connection: object) -> None:
    """Leave a connection as it is: nothing here changes a session, and a reset costs a round trip each time."""


class ReadPool:
    """Connections for reads. None is opened before it is needed: a service can start while the database is away."""

    def __init__(self, dsn: str, *, size: int = 8) -> None:
        self.pool = asyncpg.create_pool(
            dsn,
            min_size=0,
            max_size=size,
            command_timeout=QUERY_TIMEOUT_S,
            timeout=QUERY_TIMEOUT_S,
            max_inactive_connection_lifetime=60,
            reset=_keep,
        )
        self._silent = False

    async def start(self) -> None:
        """Make the pool usable. Connects to nothing."""
        await self.pool

    def heard(self, *, alive: bool) -> None:
        """Take over what the heartbeat found: while the store is silent no caller waits for it."""
        self._silent = not alive

    def check(self) -> None:
        """Return unless the store is silent. Raises: StoreUnreachable."""
        if self._silent:
            raise StoreUnreachable("the store's heartbeat is lost")

    @contextlib.asynccontextmanager
    async def connection(
        self, *, prompt: bool = False
    ) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        """Lend a connection. With `prompt`, for a read that a caller waits for, not while the heartbeat is lost.

        Raises: StoreUnreachable for whatever goes wrong with the server, here or inside.
        """
        if prompt:
            self.check()
        try:
            async with self.pool.acquire(timeout=QUERY_TIMEOUT_S) as connection:
                try:
                    yield connection
                except (*UNREACHABLE, StoreUnreachable) as error:
                    # Prepared statements outlive their errors: what was garbled once must not be asked again.
                    if not isinstance(error, asyncpg.PostgresError):
                        connection.terminate()
                    raise
        except UNREACHABLE as error:
            raise StoreUnreachable(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close every connection, politely if the server listens."""
        try:
            async with asyncio.timeout(QUERY_TIMEOUT_S):
                await self.pool.close()
        except UNREACHABLE:
            self.pool.terminate()
