"""What processes tell each other through PostgreSQL, and who holds a snapshot of it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import asyncpg
import pytest
from integration.queue_rows import Watch

from services.boundary import BoundaryState
from services.breaker import State
from services.metrics import Metrics
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


def said(process, *not_closed, live_slow=False):
    return Report(process=process, not_closed=frozenset(not_closed), live_slow=live_slow)


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
    await reports.put(said("api_2", live_slow=True))
    await replicas.read()
    assert not replicas.clear()
    assert replicas.live_slow()

    await reports.put(said("api_1"))
    await reports.put(said("api_2"))
    await replicas.read()
    assert replicas.clear()
    assert not replicas.live_slow()


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


def test_live_traffic_is_slow_when_a_tenth_of_the_last_second_was():
    metrics = Metrics()
    live = LiveTraffic(metrics)

    def second(*took_s):
        for seconds in took_s:
            metrics.decision_seconds.observe(seconds)
        live.turn()
        return live.slow

    assert not second(*[0.002] * 20)
    assert second(*[0.002] * 8, 0.1, 0.1)
    assert not second(*[0.002] * 20)
    assert not second(0.1, 0.1), "too few to tell"
    assert not second()


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
