"""A store that is silent holds nobody up: once its heartbeat is lost, no caller waits for it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from integration.recording_postgres import Postgres

from intent_queue.store import QueueStore
from services.ports import StoreUnreachable
from services.postgres.credentials import CredentialDirectory
from services.postgres.heartbeat import Heartbeat
from services.postgres.intents import PostgresIntents
from services.postgres.pool import ReadPool
from services.system import SystemClock

pytestmark = pytest.mark.integration


class Silent:
    """A server that takes connections and never says a word."""

    def __init__(self) -> None:
        self.met = 0

    async def meet(self, reader, writer):
        self.met += 1
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()


async def heard(heartbeat, beats, wanted):
    """Let it beat until it says so."""
    beating = asyncio.create_task(heartbeat.run())
    async with asyncio.timeout(30):
        while not beats or (beats[-1] is None) is not wanted:  # noqa: ASYNC110 - a heartbeat sets no event
            await asyncio.sleep(0.01)
    beating.cancel()


async def test_whose_heartbeat_is_lost_is_asked_nothing_that_a_caller_waits_for(tmp_path):
    """Every answer of an outage would take a second longer, for as long as it lasts."""
    silent, beats = Silent(), []
    server = await asyncio.start_server(silent.meet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = ReadPool(f"postgresql://nobody@127.0.0.1:{port}/none?sslmode=disable")
    intents = PostgresIntents(pool, QueueStore(pool.pool))
    await pool.start()
    try:
        await heard(Heartbeat(pool, on_beat=beats.append, deadline_s=0.2, interval_s=0.01), beats, wanted=False)
        met = silent.met
        for read in (
            intents.get("int_1"),
            intents.by_key("alpha", "key"),
            intents.waiting_for("alpha", "sha-256:…"),
            intents.position("int_1"),
            CredentialDirectory(pool, tmp_path / "credentials", clock=SystemClock()).find("00"),
        ):
            with pytest.raises(StoreUnreachable, match="heartbeat"):
                await read
        assert met > 0
        assert silent.met == met
    finally:
        pool.pool.terminate()
        server.close()


async def test_reads_go_on_with_the_first_heartbeat_that_is_heard_again():
    postgres, beats = Postgres(), []
    pool = ReadPool(await postgres.database())
    await pool.start()
    try:
        pool.heard(alive=False)
        await heard(Heartbeat(pool, on_beat=beats.append, interval_s=0.01), beats, wanted=True)
        async with pool.connection(prompt=True) as connection:
            assert await connection.fetchval("SELECT 7") == 7
    finally:
        await pool.close()
        postgres.stop()
