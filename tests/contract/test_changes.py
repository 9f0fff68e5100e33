"""What may be expected of the feed of changes, of PostgreSQL's own order above all."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest
from fakes.recording_entries import AT, Stream, move_intent, open_intent, queue_row, waiting_intent
from integration.recording_postgres import Postgres

from services.changes import Position
from services.ports import StoreUnreachable
from services.postgres import changes
from services.postgres.changes import LIMIT, PostgresChanges
from services.postgres.pool import ReadPool
from services.postgres.sink import PostgresSink

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture
async def url(postgres):
    return await postgres.database()


@pytest.fixture
async def feed(url):
    pool = ReadPool(url)
    await pool.start()
    yield PostgresChanges(pool)
    await pool.close()


@pytest.fixture
async def write(url):
    sink, stream = PostgresSink(url), Stream()
    await sink.connect("me")

    async def write(*effects) -> frozenset[int]:
        return await sink.commit_batch(stream.batch(*effects))

    yield write
    await sink.close()


async def seen(feed, position) -> list[tuple[str, str, int]]:
    page = await feed.after(position)
    return [(change.intent_id, change.status, change.version) for change in page.settled]


async def test_an_intent_that_waits_has_an_event_for_every_change_and_one_that_was_answered_has_none(feed, write):
    start = await feed.head()
    await write(waiting_intent("int_1"), open_intent("int_2", status="granted"), open_intent("int_3", status="denied"))
    until = AT + timedelta(seconds=120)
    await write(move_intent(status="claimable", reason_code="ALLOWED", claim_by=until, queue_state="claimable"))

    page = await feed.after(start)

    assert [(c.intent_id, c.status, c.version) for c in page.settled] == [
        ("int_1", "queued", 1),
        ("int_1", "claimable", 2),
    ]
    assert page.settled[1].envelope()["queue"]["expires_at"] == "2026-11-20T12:02:00.123Z"
    assert await seen(feed, page.next) == []


async def test_a_refused_move_is_no_event(feed, write):
    await write(waiting_intent("int_1"))
    start = (await feed.after(await feed.head())).next

    assert await write(move_intent(expect_version=7)) == {0}

    assert await seen(feed, start) == []


async def test_a_change_that_commits_late_is_read_in_its_place_and_never_skipped(feed, write, url):
    """The trap of `id > last`: a row with a smaller number appears after a larger one was read."""
    start = await feed.head()
    late = await asyncpg.connect(url)
    transaction = late.transaction()
    await transaction.start()
    await late.execute(
        "INSERT INTO intent_events (agent, intent_id, version, status, envelope) VALUES ('bot', 'int_0', 1, 'x', '{}')"
    )
    await write(waiting_intent("int_1"))

    page = await feed.after(start)
    assert page.settled == []
    assert [change.intent_id for change in page.early] == ["int_1"]
    assert await feed.missed(start, agent="bot", intent_id=None) is not None
    assert (await feed.missed(start, agent="bot", intent_id=None)).settled == []

    await transaction.commit()
    assert [name for name, _, _ in await seen(feed, page.next)] == ["int_0", "int_1"]
    missed = await feed.missed(start, agent="bot", intent_id=None)
    assert [change.intent_id for change in missed.settled] == ["int_0", "int_1"]
    await late.close()


async def test_pages_follow_each_other_without_a_gap(feed, write):
    start = await feed.head()
    for first in range(0, LIMIT + 200, 300):
        names = [f"int_{n:05d}" for n in range(first, first + 300)]
        await write(*(waiting_intent(name, queue=queue_row()) for name in names))

    page = await feed.after(start)
    rest = await feed.after(page.next)

    assert (len(page.settled), page.more) == (LIMIT, True)
    assert not rest.more
    names = [change.intent_id for change in (*page.settled, *rest.settled)]
    assert names == sorted(set(names))
    assert len(names) == 1_200


async def test_a_reader_resumes_its_own_agents_events_alone(feed, write):
    start = await feed.head()
    await write(waiting_intent("int_1"), waiting_intent("int_2", agent="cat"), waiting_intent("int_3"))
    [first, *_] = (await feed.after(start)).settled

    missed = await feed.missed(first.position, agent="bot", intent_id=None)
    of_one = await feed.missed(start, agent="bot", intent_id="int_3")
    foreign = await feed.missed(start, agent="bot", intent_id="int_2")

    assert [change.intent_id for change in missed.settled] == ["int_3"]
    assert [change.intent_id for change in of_one.settled] == ["int_3"]
    assert foreign.settled == []


async def test_old_events_go_and_who_saw_less_is_told(feed, write, url):
    before = await feed.head()
    await write(waiting_intent("int_1"), waiting_intent("int_2"))
    last = (await feed.after(before)).settled[-1].position
    admin = await asyncpg.connect(url)
    await admin.execute("UPDATE intent_events SET at = at - interval '73 hours' WHERE intent_id <> 'int_3'")
    await write(waiting_intent("int_3"))

    assert await feed.remove_old() == 2

    assert await feed.missed(before, agent="bot", intent_id=None) is None
    resumed = await feed.missed(last, agent="bot", intent_id=None)
    assert [change.intent_id for change in resumed.settled] == ["int_3"]
    assert await feed.remove_old() == 0
    await admin.close()


async def test_a_position_of_another_database_is_not_believed(feed):
    assert await feed.missed(Position(2**60, 0), agent="bot", intent_id=None) is None


async def test_events_of_another_cluster_are_removed(feed, write, url):
    """A restored dump carries transaction ids of the cluster it came from; they would block the order for ever."""
    admin = await asyncpg.connect(url)
    await admin.execute(
        "INSERT INTO intent_events (xid, agent, intent_id, version, status, envelope) "
        "VALUES ('9000000000', 'bot', 'int_9', 1, 'queued', '{}')"
    )
    await admin.execute("UPDATE intent_events_removed SET xid = '9000000000'")
    await feed.remove_old()

    assert await admin.fetchval("SELECT count(*) FROM intent_events") == 0
    start = await feed.head()
    await write(waiting_intent("int_1"))
    assert len((await feed.missed(start, agent="bot", intent_id=None)).settled) == 1
    await admin.close()


async def test_what_is_decided_is_told_from_what_is_not(feed, write):
    await write(waiting_intent("int_1"), waiting_intent("int_2"), open_intent("int_3", jti="jti_3"))
    await write(move_intent(status="denied", reason_code="POLICY_DENIED"))

    found = await feed.decided(["int_1", "int_2", "int_3", "int_4"])

    assert {(change.intent_id, change.status) for change in found} == {("int_1", "denied"), ("int_3", "granted")}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_feed_that_is_away_says_so(feed):
    feed._pool.pool.terminate()
    for question in (feed.head(), feed.after(Position(0, 0)), feed.decided(["int_1"]), feed.remove_old()):
        with pytest.raises(StoreUnreachable):
            await question


async def test_every_look_uses_an_index(feed, write, url):
    await write(waiting_intent("int_1"))
    admin = await asyncpg.connect(url)
    await admin.execute(
        "INSERT INTO intent_events (xid, agent, intent_id, version, status, envelope) "
        "SELECT (1 + n / 10)::text::xid8, 'a' || n % 50, 'int_' || n, 1, 'queued', '{}' "
        "FROM generate_series(1, 20000) n"
    )
    await admin.execute("ANALYZE intent_events")
    for sql, arguments in (
        (changes._AFTER, "'500', 0, 1000"),
        (changes._OF_AGENT, "'a7', '500', 0, 1000"),
        (changes._OF_INTENT, "'a7', '500', 0, 1000, 'int_7'"),
    ):
        kinds = "text, bigint, int" if "'a7'" not in arguments else "text, text, bigint, int"
        kinds += ", text" if "int_7" in arguments else ""
        await admin.execute("DEALLOCATE ALL")
        await admin.execute(f"PREPARE q ({kinds}) AS {sql}")
        plan = "\n".join(row[0] for row in await admin.fetch(f"EXPLAIN EXECUTE q ({arguments})"))
        assert "Seq Scan on intent_events" not in plan, plan
    await admin.close()
