"""Deliveries ride with the change they tell of, and are leased by one worker at a time."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from fakes.recording_entries import Stream, move_intent, open_intent, waiting_intent
from integration.recording_postgres import Postgres

from services.postgres.pool import ReadPool
from services.postgres.sink import PostgresSink
from services.postgres.webhooks import PostgresDeliveries, PostgresWebhookKeys

pytestmark = pytest.mark.integration

CALLING = b'{"action":"x","callback_url":"https://hooks.test/x","resource":{"id":"1","type":"t"}}'


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture
async def url(postgres):
    return await postgres.database()


@pytest.fixture
async def pool(url):
    made = ReadPool(url)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
def deliveries(pool):
    return PostgresDeliveries(pool)


@pytest.fixture
async def write(url):
    sink, stream = PostgresSink(url), Stream()
    await sink.connect("me")

    async def write(*effects) -> frozenset[int]:
        return await sink.commit_batch(stream.batch(*effects))

    yield write
    await sink.close()


@pytest.fixture
async def admin(url):
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def owed(write, count: int = 1, agent: str = "bot") -> list[str]:
    """Have intents that name a receiver parked and denied, and return their ids."""
    names = [f"int_{agent}_{n}" for n in range(count)]
    await write(*(waiting_intent(name, agent=agent, submission=CALLING) for name in names))
    await write(*(move_intent(name, status="denied", reason_code="POLICY_DENIED") for name in names))
    return names


async def test_a_change_of_status_is_owed_to_the_receiver_that_the_submission_names_and_to_no_other(deliveries, write):
    await write(
        waiting_intent("int_1", submission=CALLING),
        waiting_intent("int_2"),
        open_intent("int_3", status="denied", submission=CALLING),
    )
    assert await deliveries.claim(spared=()) is None
    await write(move_intent("int_1", status="held", reason_code="APPROVAL_REQUIRED", queue_state="held"))
    await write(move_intent("int_2", status="denied", reason_code="POLICY_DENIED"))

    delivery = await deliveries.claim(spared=())

    assert (delivery.intent_id, delivery.status, delivery.version, delivery.attempts) == ("int_1", "held", 2, 1)
    assert delivery.url() == "https://hooks.test/x"
    assert await deliveries.claim(spared=()) is None


async def test_a_change_that_was_refused_is_owed_to_nobody(deliveries, write):
    await write(waiting_intent("int_1", submission=CALLING))
    assert await write(move_intent("int_1", expect_version=9, status="denied")) == {0}
    assert await deliveries.owed() == (0, 0.0)


async def test_a_leased_delivery_comes_back_when_its_worker_does_not_and_the_old_lease_settles_nothing(
    deliveries, write, admin
):
    await owed(write)
    first = await deliveries.claim(spared=())
    assert await deliveries.claim(spared=()) is None
    await admin.execute("UPDATE webhook_deliveries SET due_at = now()")

    second = await deliveries.claim(spared=())
    await deliveries.done(first)
    await deliveries.postpone(first, 0)

    assert (second.attempts, second.epoch) == (2, first.epoch + 1)
    assert (await deliveries.owed())[0] == 1
    assert await deliveries.claim(spared=()) is None
    await deliveries.done(second)
    assert (await deliveries.owed())[0] == 0


async def test_a_postponed_delivery_is_due_later(deliveries, write):
    await owed(write)
    await deliveries.postpone(await deliveries.claim(spared=()), 3600)
    assert await deliveries.claim(spared=()) is None
    assert (await deliveries.owed())[0] == 1


async def test_an_agent_that_is_spared_leaves_room_for_the_others(deliveries, write):
    await owed(write, 3, agent="slow")
    await owed(write, 1, agent="quick")
    assert (await deliveries.claim(spared=["slow"])).agent == "quick"
    assert await deliveries.claim(spared=["slow", "quick"]) is None


async def test_of_many_workers_each_delivery_goes_to_one(deliveries, write):
    names = await owed(write, 60)

    async def work() -> list[str]:
        taken = []
        while (delivery := await deliveries.claim(spared=())) is not None:
            taken.append(delivery.intent_id)
        return taken

    taken = [name for names in await asyncio.gather(*(work() for _ in range(8))) for name in names]

    assert sorted(taken) == sorted(names)


async def test_a_receiver_that_is_gone_is_owed_nothing_of_that_intent_any_more(deliveries, write):
    await owed(write, 2)
    await deliveries.gone("int_bot_0")
    assert (await deliveries.owed())[0] == 1


async def test_a_change_after_the_receiver_said_that_it_is_gone_is_known_to_be_for_nobody(deliveries, write):
    await write(waiting_intent("int_1", submission=CALLING))
    await write(move_intent("int_1", status="held", reason_code="APPROVAL_REQUIRED", queue_state="held"))
    held = await deliveries.claim(spared=())
    await deliveries.gone("int_1")
    await deliveries.gone("int_1")  # two workers may hear it
    await write(move_intent("int_1", expect_version=2, status="denied", reason_code="POLICY_DENIED"))

    denied = await deliveries.claim(spared=())

    assert (held.receiver_is_gone, denied.receiver_is_gone) == (False, True)
    await deliveries.done(denied)
    assert (await deliveries.owed())[0] == 0


async def test_keys_are_published_once_and_fade_when_nobody_signs_with_them(pool, admin):
    keys = PostgresWebhookKeys(pool)
    old, new = b"o" * 32, b"n" * 32
    assert not await keys.is_published(old)
    await keys.publish(old)
    await admin.execute("UPDATE webhook_keys SET published_at = now() - interval '9 days'")
    await keys.publish(new)
    assert await keys.published() == [new, old]
    await admin.execute("UPDATE webhook_keys SET last_used_at = now() - interval '3 days' WHERE public_key = $1", old)
    assert await keys.published() == [new]
    await keys.publish(old)
    assert await keys.published() == [new, old]
