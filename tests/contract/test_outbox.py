"""What the delivery of notices may expect of the outbox: the same of PostgreSQL and of the one in memory."""

from __future__ import annotations

from dataclasses import replace

import asyncpg
import pytest
from fakes.notices import MemoryOutbox
from fakes.recording_entries import Stream, notice
from integration.recording_postgres import Postgres

from services.notices.notice import Kind
from services.notices.outbox import Placed
from services.ports import StoreUnreachable
from services.postgres.notices import PostgresOutbox
from services.postgres.pool import ReadPool
from services.postgres.sink import PostgresSink
from services.recording.effects import encode_all

BOTH = (Placed(channel="ops"), Placed(channel="pager"))


class Memory:
    """The outbox in memory, from behind."""

    def __init__(self) -> None:
        self.outbox = MemoryOutbox()

    async def put(self, *notices, origin="api") -> None:
        for one in notices:
            self.outbox.put(one, origin)

    async def later(self, seconds) -> None:
        self.outbox.now += seconds

    async def go_away(self) -> None:
        self.outbox.up = False

    async def close(self) -> None:
        pass


class Real:
    """PostgreSQL, from behind: notices come with records, and time passes by moving what is stored into the past."""

    def __init__(self, url: str, pool: ReadPool) -> None:
        self.outbox = PostgresOutbox(pool)
        self._url = url
        self._pool = pool
        self._stream = Stream()

    async def put(self, *notices, origin="api") -> None:
        sink = PostgresSink(self._url)
        await sink.connect("me")
        await sink.commit_batch(self._stream.batch(encode_all(None, notices, origin=origin)))
        await sink.close()

    async def later(self, seconds) -> None:
        connection = await asyncpg.connect(self._url)
        await connection.execute(
            f"UPDATE notices SET stored_at = stored_at - interval '{seconds} s',"
            f" fanned_out_at = fanned_out_at - interval '{seconds} s'"
        )
        await connection.execute(
            f"UPDATE notice_deliveries SET due_at = due_at - interval '{seconds} s',"
            f" lease_until = lease_until - interval '{seconds} s'"
        )
        await connection.close()

    async def rewrite(self, one, column, value) -> None:
        connection = await asyncpg.connect(self._url)
        await connection.execute(f"UPDATE notices SET {column} = $1 WHERE notice_id = $2", value, one.notice_id)
        await connection.close()

    async def go_away(self) -> None:
        await self._pool.close()

    async def close(self) -> None:
        await self._pool.close()


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
async def behind(request):
    if request.param == "memory":
        yield Memory()
        return
    url = await request.getfixturevalue("postgres").database()
    pool = ReadPool(url)
    await pool.start()
    real = Real(url, pool)
    yield real
    await real.close()


@pytest.fixture
def outbox(behind):
    return behind.outbox


def to_both(notice, closed):
    return BOTH


def other(n, **changes):
    """Return a notice of a thing of its own."""
    return replace(notice(n), dedupe_key=f"key:{n}", **changes)


async def ids(outbox, channel="ops", *, limit=10, lease_s=60.0):
    return [one.notice.notice_id for one in await outbox.lease(channel, limit=limit, lease_s=lease_s)]


async def test_a_notice_is_given_to_each_channel_once(behind, outbox):
    await behind.put(notice())
    assert await ids(outbox) == []
    assert await outbox.fan_out("api", to_both) == (notice().notice_id,)
    assert await outbox.fan_out("api", to_both) == ()
    (delivery,) = await outbox.lease("ops", limit=10, lease_s=60)
    assert delivery.notice == notice()
    assert delivery.attempts == 1
    assert await ids(outbox) == [], "nobody else sends what is under way"
    assert await ids(outbox, "pager") == [notice().notice_id], "and one channel does not wait for another"


async def test_a_notice_that_is_left_for_later_comes_again(behind, outbox):
    await behind.put(notice())
    assert await outbox.fan_out("api", lambda notice, closed: None) == ()
    assert await outbox.fan_out("api", to_both) == (notice().notice_id,)


async def test_a_notice_belongs_to_the_process_it_comes_from_until_that_is_gone(behind, outbox):
    await behind.put(notice(1), origin="api")
    assert await outbox.fan_out("worker", to_both) == ()
    await behind.later(31)
    assert await outbox.fan_out("worker", to_both) == (notice(1).notice_id,)


async def test_what_was_delivered_from_memory_is_not_sent_again(behind, outbox):
    await behind.put(notice())
    places = (Placed(channel="ops", attempts=2, delivered=True), Placed(channel="pager", attempts=3))
    await outbox.fan_out("api", lambda notice, closed: places)
    assert await ids(outbox) == []
    (delivery,) = await outbox.lease("pager", limit=10, lease_s=60)
    assert delivery.attempts == 4


async def test_a_lease_that_ran_out_is_taken_again(behind, outbox):
    await behind.put(notice())
    await outbox.fan_out("api", to_both)
    assert await ids(outbox, lease_s=30.0) == [notice().notice_id]
    await behind.later(31)
    (delivery,) = await outbox.lease("ops", limit=10, lease_s=60)
    assert delivery.attempts == 2
    assert delivery.age_s >= 31


async def test_what_one_key_stands_for_is_told_in_order(behind, outbox):
    """An ending that overtakes its beginning leaves a receiver with an alarm for ever."""
    ending = replace(notice(2), kind=Kind.INCIDENT_RESOLVED)
    await behind.put(notice(1), ending, other(3))
    await outbox.fan_out("api", to_both)
    first, third = await outbox.lease("ops", limit=10, lease_s=60)
    assert (first.notice, third.notice) == (notice(1), other(3))
    await outbox.postpone(first, pause_s=600, why="HTTP 500")
    assert await ids(outbox) == []
    await behind.later(601)
    (first,) = [one for one in await outbox.lease("ops", limit=10, lease_s=60) if one.notice == notice(1)]
    await outbox.delivered(first)
    assert ending.notice_id in await ids(outbox)


async def test_what_was_given_up_stands_in_nobodys_way(behind, outbox):
    await behind.put(notice(1), notice(2))
    await outbox.fan_out("api", to_both)
    (first,) = await outbox.lease("ops", limit=10, lease_s=60)
    await outbox.give_up(first, why="HTTP 400")
    assert await ids(outbox) == [notice(2).notice_id]
    standings = await outbox.standings()
    assert (standings["ops"].due, standings["ops"].dead) == (1, 1)
    assert (standings["pager"].due, standings["pager"].dead) == (2, 0)


async def test_a_lease_is_bounded(behind, outbox):
    await behind.put(*(other(n) for n in range(6)))
    await outbox.fan_out("api", to_both)
    assert len(await ids(outbox, limit=4)) == 4
    assert len(await ids(outbox, limit=4)) == 2


async def test_a_closed_channel_gives_up_what_was_on_its_way_and_is_known_by_its_address(behind, outbox):
    await behind.put(other(1))
    await outbox.fan_out("api", to_both)
    await outbox.close_channel("ops", address="ab" * 32, why="HTTP 410")
    assert await ids(outbox) == []
    await behind.put(other(2))
    seen = []
    await outbox.fan_out("api", lambda notice, closed: seen.append(closed) or ())
    assert seen == [{"ops": "ab" * 32}]


async def test_an_incident_without_its_end_is_found_by_whoever_comes_after(behind, outbox):
    ended = replace(notice(2), dedupe_key="incident:api:audit", details={"boundary": "audit"})
    end = replace(ended, notice_id=notice(3).notice_id, kind=Kind.INCIDENT_RESOLVED)
    await behind.put(notice(1), ended, end)
    (left,) = await outbox.unresolved("api")
    assert (left.dedupe_key, left.boundary) == (notice(1).dedupe_key, "evaluation")
    assert await outbox.unresolved("worker") == ()


async def test_a_notice_that_this_version_does_not_know_is_left_to_the_one_that_does(behind, outbox):
    """While an upgrade is under way, processes of both versions look into one outbox."""
    if not isinstance(behind, Real):
        pytest.skip("what is in memory is made by this version")
    await behind.put(notice(1), other(2))
    await behind.rewrite(notice(1), "kind", "planet.aligned")
    assert await outbox.fan_out("api", to_both) == (other(2).notice_id,)
    await behind.rewrite(other(2), "kind", "planet.aligned")
    assert await ids(outbox) == []


async def test_a_stored_notice_that_cannot_be_read_stands_in_nobodys_way(behind, outbox):
    if not isinstance(behind, Real):
        pytest.skip("what is in memory can be read")
    await behind.put(notice(1), other(2))
    await behind.rewrite(notice(1), "summary", "two\nlines")
    assert await outbox.fan_out("api", to_both) == (notice(1).notice_id, other(2).notice_id)
    assert await ids(outbox) == [other(2).notice_id]


async def test_pruning_keeps_what_is_on_its_way(behind, outbox):
    await behind.put(notice())
    await outbox.fan_out("api", to_both)
    await behind.later(40 * 86_400)
    await outbox.prune()
    assert await ids(outbox) == [notice().notice_id]


async def test_a_store_that_is_away_says_so(behind, outbox):
    await behind.go_away()
    with pytest.raises(StoreUnreachable):
        await outbox.fan_out("api", to_both)
    with pytest.raises(StoreUnreachable):
        await outbox.lease("ops", limit=1, lease_s=1)
