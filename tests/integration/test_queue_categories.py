"""What waits can be looked for by its category: stored with it, and kept right when it is judged again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from fakes.recording_entries import move_intent, open_intent, waiting_intent
from integration.recording_postgres import Postgres

from intent_queue.item import Filters
from intent_queue.store import QueueStore
from services.ports import Entry, QueueRow
from services.postgres.pool import ReadPool
from services.provision import open_lane
from services.system import SystemClock

pytestmark = pytest.mark.integration
CLOCK = SystemClock()


@pytest.fixture(scope="module")
def server():
    postgres = Postgres()
    yield postgres
    postgres.stop()


@pytest.fixture
async def queue(server, tmp_path):
    """Return who records effects, and the ids of a category as they are listed."""
    url = await server.database()
    pool = ReadPool(url, size=1)
    await pool.start()
    store = QueueStore(pool.pool)
    async with open_lane(url, tmp_path, name="queue") as lane:

        async def applied(effect) -> bool:
            return (await lane.append(Entry(kind="queue.test", at=CLOCK.now(), effect=effect)).settled()).applied

        async def listed(category: str) -> list[str]:
            return [item.intent_id for item in (await store.page(filters=Filters(category=category))).items]

        yield applied, listed
    await pool.close()


def row(state: str = "waiting") -> QueueRow:
    now = datetime.now(UTC)
    return QueueRow(
        lane=2, rank_at=now, enqueued_at=now, expires_at=now + timedelta(minutes=15), not_before=now, state=state
    )


async def test_what_is_parked_or_held_is_found_by_its_category(queue):
    applied, listed = queue
    assert await applied(waiting_intent("int_1", envelope={"category": "money.move"}))
    assert await applied(waiting_intent("int_2", envelope={"category": "money.move"}, status="held", queue=row("held")))
    assert await applied(waiting_intent("int_3", envelope={"category": "note.read"}))
    assert await applied(waiting_intent("int_4", envelope={"category": None}))
    assert sorted(await listed("money.move")) == ["int_1", "int_2"]
    assert await listed("note.read") == ["int_3"]
    assert await listed("nothing") == []


async def test_what_waits_instead_of_a_token_that_never_left_is_found_too(queue):
    applied, listed = queue
    assert await applied(open_intent("int_1", jti="jti_1"))
    assert await applied(waiting_intent("int_1", over_jti="jti_1", envelope={"category": "money.move"}))
    assert await listed("money.move") == ["int_1"]


async def test_what_is_judged_again_is_found_by_its_new_category_alone(queue):
    applied, listed = queue
    assert await applied(waiting_intent("int_1", envelope={"category": "money.move"}))
    again = {"status": "held", "reason_code": "APPROVAL_REQUIRED", "queue_state": "held"}
    assert await applied(move_intent("int_1", envelope={"category": "money.refund"}, **again))
    assert await listed("money.move") == []
    assert await listed("money.refund") == ["int_1"]
