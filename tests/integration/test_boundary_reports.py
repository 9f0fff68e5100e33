"""What processes tell each other through PostgreSQL, and who holds a snapshot of it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import asyncpg
import pytest
from integration.queue_rows import Watch

from intent_queue.pace import Live, LiveWord
from services.boundary import BoundaryState
from services.breaker import State
from services.metrics import SLOW_S, Metrics
from services.postgres.pool import ReadPool
from services.postgres.reports import Holder, PostgresReports, Report
from services.replicas import LiveTraffic, Replicas, Reporter
from services.snapshot_watch import SnapshotWatch

pytestmark = pytest.mark.integration
pytest_plugins = ["integration.queue_servers"]


@pytest.fixture
async def reports(queue_database):
    pool = ReadPool(queue_database.dsn)
    await pool.start()
    yield PostgresReports(pool)
    await pool.close()


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def replicas(reports, watch):
    return Replicas(reports, watch)


def said(process, *not_closed, live=Live.NONE):
    return Report(process=process, not_closed=frozenset(not_closed), live=live)


async def until(holds):
    async with asyncio.timeout(30):
        while not await holds():  # noqa: ASYNC110 - only the database knows
            await asyncio.sleep(0.01)


async def test_nothing_is_clear_before_it_was_read_and_nothing_but_what_was_read_lately(replicas, watch):
    assert not replicas.clear()
    await replicas.read()
    assert replicas.clear()
    watch.elapsed_s += 2
    assert not replicas.clear()


async def test_one_process_that_sees_a_boundary_open_stops_all(reports, replicas):
    await reports.put(said("api_1", "token"))
    await replicas.read()
    assert not replicas.clear()

    await reports.put(said("api_1"))
    await replicas.read()
    assert replicas.clear()


async def test_live_traffic_fares_as_where_it_fares_worst_and_each_reading_is_one_word(reports, replicas):
    assert replicas.live() == LiveWord(fares=Live.NONE, number=0)
    words = []
    for first, second in [
        (Live.NONE, Live.NONE),
        (Live.QUICK, Live.NONE),
        (Live.QUICK, Live.SLOW),
        (Live.NONE, Live.SLOW),
        (Live.NONE, Live.QUICK),
    ]:
        await reports.put(said("api_1", live=first))
        await reports.put(said("api_2", live=second))
        await replicas.read()
        words.append(replicas.live())
        assert replicas.live() == words[-1], "asking again is not another word"

    assert [word.fares for word in words] == [Live.NONE, Live.QUICK, Live.SLOW, Live.SLOW, Live.QUICK]
    assert len({word.number for word in words}) == len(words)


async def test_the_log_says_in_a_line_what_stops_the_drain_and_that_it_goes_on(reports, replicas, caplog):
    caplog.set_level("INFO", logger="services.replicas")
    await replicas.read()
    await reports.put(said("api_1", "token"))
    await replicas.read()
    await reports.put(said("api_1"))
    await replicas.read()

    said_of_it = [record.getMessage() for record in caplog.records if record.name == "services.replicas"]
    assert said_of_it[-2:] == ["the drain stops for: token (api_1)", "the drain may go on"]


async def test_a_process_that_fell_silent_stops_nobody(reports, replicas, queue_pool):
    await reports.put(said("api_1", "token"))
    await queue_pool.execute("UPDATE boundary_reports SET reported_at = reported_at - interval '5 seconds'")
    await replicas.read()
    assert replicas.clear()


async def test_who_cannot_read_the_reports_is_not_clear(reports, replicas, watch, queue_pool):
    await replicas.read()
    await queue_pool.execute("DROP TABLE boundary_reports")
    watch.elapsed_s += 2
    await replicas.read()
    assert not replicas.clear()


async def test_a_transition_is_reported_at_once_and_a_process_that_ends_takes_its_report_back(reports, queue_pool):
    states = [State.CLOSED]
    reporter = Reporter(
        reports,
        process="api_1",
        boundaries=lambda: [BoundaryState(name="token", state=states[-1], last_error=None)],
        live=LiveTraffic(Metrics()),
    )
    running = asyncio.create_task(reporter.run())
    try:
        await until(lambda: seen(reports, [said("api_1")]))
        for state in (State.OPEN, State.HALF_OPEN, State.FORCED_OPEN):
            states.append(state)
            reporter.changed()
            await until(lambda: seen(reports, [said("api_1", "token")]))
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert await reports.fresh() == []


async def seen(reports, expected):
    return list(await reports.fresh()) == expected


async def test_live_traffic_is_reported_at_once_and_again_while_it_goes_on(reports, queue_pool):
    metrics = Metrics()
    reporter = Reporter(reports, process="api_1", boundaries=list, live=LiveTraffic(metrics))
    running = asyncio.create_task(reporter.run())
    written = "SELECT reported_at FROM boundary_reports"
    try:
        await until(lambda: seen(reports, [said("api_1")]))
        metrics.decided_in(0.001)
        await until(lambda: seen(reports, [said("api_1", live=Live.QUICK)]))
        first = await queue_pool.fetchval(written)
        for _ in range(2):
            metrics.decided_in(1.0)
        await until(lambda: seen(reports, [said("api_1", live=Live.SLOW)]))
        assert await queue_pool.fetchval(written) > first
        await until(lambda: seen(reports, [said("api_1")]))
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


class Second:
    """Decisions of live traffic, and how they fared a quarter of a second later."""

    def __init__(self):
        self.metrics = Metrics()
        self.live = LiveTraffic(self.metrics)

    def quarter(self, *took_s):
        for seconds in took_s:
            self.metrics.decided_in(seconds)
        self.live.turn()
        return self.live.fares


QUICKLY, SLOWLY = SLOW_S, SLOW_S * 1.01


def test_live_traffic_is_slow_while_more_than_a_fiftieth_of_the_last_second_was():
    second = Second()
    assert second.quarter() is Live.NONE
    assert second.quarter(SLOWLY) is Live.QUICK, "one is too few to tell"
    assert second.quarter(*[QUICKLY] * 97, SLOWLY) is Live.SLOW
    second = Second()
    assert second.quarter(*[QUICKLY] * 98, SLOWLY, SLOWLY) is Live.QUICK, "a fiftieth is not more than a fiftieth"


def test_live_traffic_of_more_than_a_second_ago_is_none():
    second = Second()
    assert second.quarter(*[SLOWLY] * 10) is Live.SLOW
    assert [second.quarter() for _ in range(4)] == [Live.SLOW, Live.SLOW, Live.SLOW, Live.NONE]


# --- snapshots --------------------------------------------------------------------------------------------------------


@pytest.fixture
def snapshots(reports, watch):
    return SnapshotWatch(reports, watch, Metrics())


async def test_a_snapshot_held_for_a_minute_raises_the_alarm_once(reports, watch, snapshots, queue_database, caplog):
    """The server's clock cannot be moved, so what it says is added to: the rule is that of the watch."""
    assert await snapshots.look() == 0
    holder = await asyncpg.connect(queue_database.dsn, server_settings={"application_name": "a forgotten psql"})
    try:
        await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await holder.fetchval("SELECT count(*) FROM queue_entries")
        (found,) = await reports.holders()
        assert (found.kind, found.name) == ("session", "a forgotten psql")
        assert found.held_s is not None
        assert 0 < await snapshots.look() < 60
        assert caplog.records == []

        aged = SnapshotWatch(Aged(reports, by_s=60), watch, Metrics())
        for _ in range(2):
            assert await aged.look() > 60
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "a forgotten psql" in caplog.text
    finally:
        await holder.close()
    assert await snapshots.look() == 0


class Aged:
    """The same holders, later."""

    def __init__(self, reports, *, by_s):
        self._reports = reports
        self._by_s = by_s

    async def holders(self):
        return [replace(holder, held_s=holder.held_s + self._by_s) for holder in await self._reports.holders()]


async def test_a_replication_slot_that_stands_still_is_counted_from_when_it_was_seen(watch):
    slot = Slot()
    watched = SnapshotWatch(slot, watch, Metrics())

    assert await watched.look() == 0
    watch.elapsed_s += 61
    assert await watched.look() == 61
    slot.horizon = "8"
    assert await watched.look() == 0


class Slot:
    horizon = "7"

    async def holders(self):
        return [Holder(kind="replication slot", name="standby", horizon=self.horizon, held_s=None)]


async def test_the_writers_role_may_ask_who_holds_a_snapshot(queue_pool, queue_database):
    async with queue_database.pool() as pool, pool.acquire() as connection:
        await connection.execute("BEGIN; SELECT count(*) FROM queue_entries")
        async with queue_pool.acquire() as asking:
            await asking.execute("SET ROLE holdfast_writer")
            assert await asking.fetchval("SELECT count(*) FROM snapshot_holders()") >= 0
            await asking.execute(
                "INSERT INTO boundary_reports (process, not_closed, live_slow) VALUES ('a', '{}', false)"
            )
            await asking.execute("RESET ROLE")
        await connection.execute("ROLLBACK")
