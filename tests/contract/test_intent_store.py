"""What may be expected of the stores of intents and tokens: the same of PostgreSQL and of the one in memory."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from fakes.recording import MemoryDatabase, MemorySink
from fakes.recording_entries import AT, ISS, Stream, consume, move_intent, open_intent, queue_row, waiting_intent
from fakes.stores import MemoryIntents
from integration.recording_postgres import Postgres

from intent_queue.store import QueueStore
from services.ports import Consumed, StoreUnreachable, TokenState
from services.postgres.intents import PostgresIntents
from services.postgres.pool import ReadPool
from services.postgres.sink import PostgresSink


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.stop()


@asynccontextmanager
async def in_memory():
    database = MemoryDatabase()
    sink = MemorySink(database)
    await sink.connect("me")

    def leave() -> None:
        database.up = False

    yield sink, MemoryIntents(database), leave


@asynccontextmanager
async def in_postgres(url):
    sink, pool = PostgresSink(url), ReadPool(url)
    await sink.connect("me")
    await pool.start()

    def leave() -> None:
        pool.pool.terminate()

    yield sink, PostgresIntents(pool, QueueStore(pool.pool)), leave
    await sink.close()
    pool.pool.terminate()


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
async def world(request):
    if request.param == "memory":
        async with in_memory() as parts:
            yield parts
        return
    async with in_postgres(await request.getfixturevalue("postgres").database()) as parts:
        yield parts


@pytest.fixture
def store(world):
    return world[1]


@pytest.fixture
def write(world):
    stream = Stream()

    async def write(*effects) -> frozenset[int]:
        return await world[0].commit_batch(stream.batch(*effects))

    return write


async def test_an_empty_store_knows_nothing(store):
    assert await store.get("int_1") is None
    assert await store.by_key("bot", "k") is None
    assert await store.position("int_1") is None
    assert await store.state(ISS, "int_1", "jti_1") is TokenState.UNKNOWN
    assert await store.consumed(ISS, "jti_1") is None


async def test_an_intent_is_read_back_as_it_was_stored(store, write):
    await write(open_intent(jti="jti_1", idempotency_key="k"))

    stored = await store.get("int_1")

    assert (stored.intent_id, stored.agent, stored.idempotency_key) == ("int_1", "bot", "k")
    assert (stored.status, stored.reason_code, stored.version) == ("granted", "ALLOWED", 1)
    assert (stored.request_digest, stored.submission) == ("ab" * 32, b'{"action":"x"}')
    assert (stored.envelope, stored.claims) == ({"risk": 1.5}, {"iss": ISS, "jti": "jti_1"})
    assert (stored.created_at, stored.claim_by) == (AT, None)
    assert (stored.consumed, stored.revoked) == (False, False)


async def test_a_key_is_its_agents_own(store, write):
    await write(open_intent("int_1", idempotency_key="k"), open_intent("int_2", agent="cat", idempotency_key="k"))

    assert (await store.by_key("bot", "k")).intent_id == "int_1"
    assert (await store.by_key("cat", "k")).intent_id == "int_2"
    assert await store.by_key("dog", "k") is None
    assert await store.by_key("bot", "other") is None


async def test_a_move_is_read_back_with_its_version_and_its_time_to_claim(store, write):
    await write(waiting_intent())
    until = AT + timedelta(seconds=120)
    await write(move_intent(status="claimable", reason_code="ALLOWED", claim_by=until, queue_state="claimable"))

    stored = await store.get("int_1")

    assert (stored.status, stored.version, stored.claim_by) == ("claimable", 2, until)


async def test_places_in_line_follow_lane_then_rank_and_only_what_waits_has_one(store, write):
    early, late = queue_row(), queue_row()
    await write(
        waiting_intent("int_1", queue=late),
        waiting_intent("int_2", queue=queue_row("held")),
        waiting_intent("int_3", queue=early),
        open_intent("int_4"),
    )

    assert [await store.position(f"int_{n}") for n in (1, 2, 3, 4)] == [1, None, 2, None]


async def test_a_granted_token_is_fresh_until_it_is_consumed(store, write):
    await write(open_intent(jti="jti_1"))
    assert await store.state(ISS, "int_1", "jti_1") is TokenState.FRESH

    await write(consume())

    assert await store.state(ISS, "int_1", "jti_1") is TokenState.CONSUMED
    assert await store.consumed(ISS, "jti_1") == Consumed(executor="pay", intent_id="int_1", agent="bot")
    assert (await store.get("int_1")).consumed


async def test_after_one_token_of_an_intent_is_consumed_every_other_counts_as_consumed(store, write):
    await write(open_intent(jti="jti_1"))
    await write(consume())

    assert await store.state(ISS, "int_1", "jti_2") is TokenState.CONSUMED


async def test_a_token_of_another_issuer_intent_or_id_is_unknown(store, write):
    await write(open_intent(jti="jti_1"))

    assert await store.state(ISS, "int_1", "jti_2") is TokenState.UNKNOWN
    assert await store.state(ISS, "int_2", "jti_1") is TokenState.UNKNOWN
    await write(consume())
    assert await store.state("https://other.test", "int_1", "jti_1") is not TokenState.CONSUMED
    assert await store.consumed("https://other.test", "jti_1") is None


async def test_a_token_that_was_replaced_before_its_release_is_revoked(store, write):
    await write(open_intent(jti="jti_1"))
    await write(waiting_intent(over_jti="jti_1"))

    assert await store.state(ISS, "int_1", "jti_1") is TokenState.REVOKED
    stored = await store.get("int_1")
    assert (stored.status, stored.claims, stored.revoked) == ("queued", None, False)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_store_that_is_away_says_so_instead_of_nothing(world):
    _, store, leave = world
    leave()

    for question in (
        store.get("int_1"),
        store.by_key("bot", "k"),
        store.position("int_1"),
        store.state(ISS, "int_1", "jti_1"),
        store.consumed(ISS, "jti_1"),
    ):
        with pytest.raises(StoreUnreachable):
            await question
