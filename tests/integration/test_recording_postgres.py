"""The lane on a real PostgreSQL whose processes are stopped, terminated and killed under load."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal

import asyncpg
import pytest
from fakes.recording_entries import AT, consumption, open_intent, verify, verify_succession, waiting_intent
from integration.recording_postgres import Postgres

from services.ports import Entry, RecordingFailed
from services.postgres.sink import PostgresSink
from services.recording.journal import Journal
from services.recording.lane import Lane, LaneSettings, Mode
from services.system import SystemClock, SystemIds

pytestmark = pytest.mark.integration

SETTINGS = LaneSettings(hedge_s=0.25, commit_deadline_s=0.5, reconnect_first_s=0.02, reconnect_last_s=0.1)


@pytest.fixture(scope="module")
def server():
    postgres = Postgres()
    yield postgres
    postgres.stop()


@pytest.fixture
async def url(server):
    if server.process.poll() is not None:
        server.start()
    return await server.database()


@pytest.fixture
async def lane(url, tmp_path):
    lane = _lane(url, tmp_path / "journal" / "a")
    await lane.start()
    yield lane
    await lane.stop()


def _lane(url, directory, instance="a") -> Lane:
    sink = PostgresSink(url, connect_timeout_s=1.0, fence_timeout_s=0.5)
    return Lane(sink, Journal(directory), SystemClock(), SystemIds(), instance=instance, settings=SETTINGS)


def allow(n) -> Entry:
    return Entry(kind="decision", at=AT, members={"n": n}, effect=open_intent(f"int_{n}", jti=f"jti_{n}"))


def denial(n) -> Entry:
    effect = waiting_intent(f"int_{n}")
    return Entry(kind="decision", at=AT, members={"n": n}, effect=effect, journal_may_release=True)


async def _log(url) -> list:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT stream, hash, body, seal FROM audit_records ORDER BY stream, seq")
    finally:
        await connection.close()
    streams = [
        [(row["hash"], row["body"], row["seal"]) for row in stored]
        for _, stored in itertools.groupby(rows, key=lambda row: row["stream"])
    ]
    verify_succession(streams)
    return [found for stored in streams for found in verify(stored)]


async def _until(condition, limit_s=60) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - the lane runs on its own
            await asyncio.sleep(0.005)


class Load:
    """Callers that never stop asking, and what each was told."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.acknowledged = []
        self.refused = []
        self._numbers = itertools.count()
        self._going = True
        self._task: asyncio.Task | None = None

    async def __aenter__(self):
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_):
        self._going = False
        await self._task

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(self._ask())

    async def _ask(self) -> None:
        while self._going:
            n = next(self._numbers)
            entry = allow(n) if n % 2 else denial(n)
            try:
                pending = self.lane.append(entry)
            except RecordingFailed:
                await asyncio.sleep(0.002)
                continue
            try:
                settled = await pending.settled()
            except RecordingFailed:
                self.refused.append(pending)
            else:
                assert settled.applied
                assert not settled.in_journal or entry.journal_may_release
                self.acknowledged.append((n, settled))

    async def more(self, count: int) -> None:
        target = len(self.acknowledged) + count
        await _until(lambda: len(self.acknowledged) >= target)


async def _check(url, load: Load) -> None:
    log = await _log(url)
    receipts = [found.receipt for found in log]
    assert len(set(receipts)) == len(receipts)
    assert {settled.receipt for _, settled in load.acknowledged} <= set(receipts)
    voids = {found.members["void"]["hash"]: found.members["why"] for found in log if found.kind == "decision.void"}
    for pending in load.refused:
        assert pending.receipt in receipts
        assert voids[pending.receipt.hash] == "not_released"
    assert len(voids) == len(load.refused)
    connection = await asyncpg.connect(url)
    try:
        stored = {row[0] for row in await connection.fetch("SELECT intent_id FROM intents")}
        assert await connection.fetchval("SELECT count(*) FROM refused_effects") == 0
    finally:
        await connection.close()
    assert {f"int_{n}" for n, _ in load.acknowledged} <= stored


async def _backend(url) -> int:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(
            "SELECT pid FROM pg_stat_activity"
            " WHERE application_name LIKE 'holdfast-lane-%' AND datname = current_database()"
        )
    finally:
        await connection.close()


async def test_under_load_everything_reaches_the_database_in_order(url, lane):
    async with Load(lane) as load:
        await load.more(500)
    assert not load.refused
    await _check(url, load)


async def test_a_terminated_connection_under_load_loses_nothing(url, lane):
    async with Load(lane) as load:
        for _ in range(3):
            await load.more(100)
            connection = await asyncpg.connect(url)
            await connection.fetchval("SELECT pg_terminate_backend($1)", await _backend(url))
            await connection.close()
            await _until(lambda: lane.counters.in_doubt)
            await _until(lambda: lane.mode is Mode.DATABASE)
            await load.more(100)
    await _check(url, load)


async def test_a_stopped_backend_is_waited_out_and_loses_nothing(url, lane):
    """A stopped backend keeps its locks and might commit when it goes on: nothing is drained before it is gone."""
    async with Load(lane) as load:
        await load.more(100)
        pid = await _backend(url)
        os.kill(pid, signal.SIGSTOP)
        try:
            await _until(lambda: lane.mode is Mode.JOURNAL)
            await load.more(300)
            assert lane.mode is Mode.JOURNAL, "the fence waits for the stopped backend"
        finally:
            os.kill(pid, signal.SIGCONT)
        await _until(lambda: lane.mode is Mode.DATABASE)
        await load.more(100)
    await _check(url, load)


async def test_a_killed_server_that_comes_back_loses_nothing(url, lane, server):
    async with Load(lane) as load:
        await load.more(200)
        await asyncio.to_thread(server.kill)
        await _until(lambda: lane.mode is Mode.JOURNAL)
        await load.more(200)
        await asyncio.to_thread(server.start)
        await _until(lambda: lane.mode is Mode.DATABASE)
        await load.more(200)
    assert any(settled.in_journal for _, settled in load.acknowledged)
    await _check(url, load)


async def test_a_restart_while_nothing_is_recorded_costs_no_decision(url, lane, server):
    assert (await lane.append(allow(1)).settled()).applied
    await asyncio.to_thread(server.kill)
    await _until(lambda: lane.mode is Mode.JOURNAL)
    await asyncio.to_thread(server.start)
    await _until(lambda: lane.mode is Mode.DATABASE)
    assert (await lane.append(allow(2)).settled()).applied
    assert lane.counters.in_doubt == 0


async def test_a_service_that_crashes_in_an_outage_loses_nothing(url, server, tmp_path):
    where = tmp_path / "journal" / "a"
    first = _lane(url, where)
    await first.start()
    async with Load(first) as load:
        await load.more(100)
        await asyncio.to_thread(server.kill)
        await _until(lambda: first.mode is Mode.JOURNAL)
        await load.more(100)
    # Gone without a word: no close record, no drain.
    for task in (first._task, first._heartbeat, first._recovery):
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    first._sink.abandon()
    first._journal._unlock()

    second = _lane(url, where)
    await second.start()
    assert second.mode is Mode.JOURNAL
    await asyncio.to_thread(server.start)
    await _until(lambda: second.mode is Mode.DATABASE)
    assert (await second.append(allow(10**6)).settled()).applied
    await second.stop()
    await _check(url, load)


async def test_two_lanes_share_a_database(url, tmp_path):
    lanes = [_lane(url, tmp_path / "journal" / name, name) for name in ("a", "b")]
    for one in lanes:
        await one.start()
    answers = await asyncio.gather(
        *(one.append(allow(n)).settled() for n in range(100) for one in lanes), return_exceptions=True
    )
    assert sum(answer.applied for answer in answers) == 100, "each intent is granted by one of them"
    racing = [one.append(consumption(n)).settled() for n in range(100) for one in lanes]
    assert sum(answer.applied for answer in await asyncio.gather(*racing)) == 100, "and consumed once"
    for one in lanes:
        await one.stop()
    log = await _log(url)
    assert sum(found.kind == "decision.void" for found in log) == 100
    assert sum(found.kind == "token.void" for found in log) == 100


async def test_a_token_is_either_consumed_or_replaced_but_never_both(url, tmp_path):
    lanes = [_lane(url, tmp_path / "journal" / name, name) for name in ("a", "b")]
    for one in lanes:
        await one.start()
    await asyncio.gather(*(lanes[0].append(allow(n)).settled() for n in range(200)))
    pairs = []
    for n in range(200):
        replaced = Entry(kind="decision", at=AT, effect=waiting_intent(f"int_{n}", over_jti=f"jti_{n}"))
        pairs.append((lanes[n % 2].append(consumption(n)), lanes[(n + 1) % 2].append(replaced)))
    for first, second in pairs:
        assert (await first.settled()).applied is not (await second.settled()).applied
    for one in lanes:
        await one.stop()


async def test_the_log_takes_no_change_from_anybody(url, lane):
    await lane.append(allow(1)).settled()
    connection = await asyncpg.connect(url)
    for statement in (
        "UPDATE audit_records SET body = body",
        "DELETE FROM audit_records",
        "TRUNCATE audit_records CASCADE",
    ):
        with pytest.raises(asyncpg.PostgresError, match="append-only"):
            await connection.execute(statement)
    await connection.close()


async def test_the_writer_role_can_do_its_work_and_cannot_change_the_log(url, tmp_path):
    admin = await asyncpg.connect(url)
    await admin.execute("DROP ROLE IF EXISTS service")
    await admin.execute("CREATE ROLE service LOGIN IN ROLE holdfast_writer")
    lane = _lane(url.replace("holdfast@", "service@"), tmp_path / "journal" / "a")
    await lane.start()
    try:
        assert (await lane.append(allow(1)).settled()).applied
        assert (await lane.append(denial(2)).settled()).applied
        replaced = Entry(kind="decision", at=AT, effect=waiting_intent("int_1", over_jti="jti_1"))
        assert (await lane.append(replaced).settled()).applied
        assert not (await lane.append(allow(1)).settled()).applied
        assert lane.counters.in_doubt == 0
    finally:
        await lane.stop()
    service = await asyncpg.connect(url.replace("holdfast@", "service@"))
    for statement in (
        "UPDATE audit_records SET body = body",
        "DELETE FROM audit_records",
        "TRUNCATE audit_records",
        "DELETE FROM intents",
        "DELETE FROM consumptions",
        "DELETE FROM revoked_tokens",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await service.execute(statement)
    await service.close()
    await admin.close()
