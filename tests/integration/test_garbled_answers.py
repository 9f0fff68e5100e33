"""An answer of PostgreSQL that nobody can read is none, and what asks it next is not misled by it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from chaos.matrix import Fault, Step
from chaos.proxy import Harm, Protocol, Proxy
from integration.queue_rows import Row, put

from intent_queue.leader import Leader
from intent_queue.store import QueueStore, QueueUnavailable
from services.ports import StoreUnreachable
from services.postgres.pool import ReadPool

pytestmark = pytest.mark.integration
pytest_plugins = ["integration.queue_servers"]

QUESTIONS = ("SELECT 1", "SELECT now()", "SELECT 'text', $1::int", "SELECT array[1, 2]", "SELECT '{}'::jsonb")
GARBLING = Harm(fault=Fault.CORRUPT, step=Step.EVALUATE, hold_s=0)


@pytest.fixture
async def proxy(queue_database, tmp_path):
    place = Path(parse_qs(urlsplit(queue_database.dsn).query)["host"][0]) / ".s.PGSQL.5432"
    proxy = Proxy(Protocol.POSTGRESQL, place)
    await proxy.listen(tmp_path / ".s.PGSQL.5432")
    yield proxy
    proxy.close()


@pytest.fixture
def garbled_dsn(queue_database, proxy, tmp_path):
    return queue_database.dsn.partition("?")[0] + f"?host={tmp_path}"


@pytest.fixture
async def pool(garbled_dsn):
    pool = ReadPool(garbled_dsn, size=2)
    await pool.start()
    yield pool
    await pool.close()


async def ask(pool, question):
    async with pool.connection() as connection:
        arguments = (7,) if "$1" in question else ()
        return [tuple(row) for row in await connection.fetch(question, *arguments)]


@pytest.mark.parametrize("known", [True, False], ids=["on a statement that is prepared", "on a new statement"])
@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_garbled_answer_is_none_and_the_next_one_is_understood(pool, proxy, question, known):
    before = await ask(pool, question if known else "SELECT 2")

    proxy.harm(GARBLING)
    for _ in range(3):
        with pytest.raises(StoreUnreachable):
            await ask(pool, question)
    await proxy.heal()

    after = await ask(pool, question)
    assert len(after) == 1
    assert not known or question == "SELECT now()" or after == before


async def test_the_queue_and_its_leader_take_it_for_none_too(pool, proxy, garbled_dsn, queue_pool):
    await put(queue_pool, Row("a"))
    store = QueueStore(pool.pool)
    assert (await store.depths()).total == 1
    async with Leader(garbled_dsn) as leader:
        assert await leader.leads()

        proxy.harm(GARBLING)
        with pytest.raises(QueueUnavailable):
            await store.depths()
        assert not await leader.leads()
        await proxy.heal()

        assert (await store.depths()).total == 1
        assert await leader.leads()
