"""Wake-ups through a real broker that is killed, stopped and flushed, and workers that are killed."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

import pytest
from queue_processes import ROOT, die_with_parent
from queue_rows import OUTCOMES, Row, SqlDecider, Watch, entries, lapse_leases, make_due, outcomes, put

from intent_queue.drain import Drain, Result, TickReport
from intent_queue.pace import Pace
from intent_queue.store import QueueStore
from intent_queue.wake import JOB_NAME, QUEUE_NAME, Waker, connect
from intent_queue.worker import run

pytest_plugins = ["queue_servers"]
pytestmark = pytest.mark.integration

PATIENCE_S = 20
NEVER_S = 3600.0


class Ticks:
    """A tick that only counts. `reached(n)` waits until it was called that often."""

    def __init__(self, report=None):
        self.count = 0
        self.report = TickReport() if report is None else report
        self._changed = asyncio.Event()

    async def __call__(self):
        self.count += 1
        self._changed.set()
        return self.report

    async def reached(self, count):
        async with asyncio.timeout(PATIENCE_S):
            while self.count < count:
                self._changed.clear()
                await self._changed.wait()


class Running:
    """`run` in the background, stopped at the end."""

    def __init__(self, broker_url, tick, **options):
        self.stop = asyncio.Event()
        self._running = run(broker_url, tick, stop=self.stop, **options)

    async def __aenter__(self):
        self.task = asyncio.create_task(self._running)
        return self

    async def __aexit__(self, *_):
        self.stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await self.task


@pytest.fixture
async def waker(queue_broker):
    waker = Waker(queue_broker.url, spacing_s=0, cooldown_s=0)
    yield waker
    await waker.close()


async def heard(waker, ticks):
    """Wake until a tick follows: the listener may still be on its way back."""
    before = ticks.count
    async with asyncio.timeout(PATIENCE_S):
        while ticks.count == before:
            await waker.wake()
            await asyncio.sleep(0.05)


# --- the loop ---------------------------------------------------------------------------------------------------------


async def test_without_a_broker_the_interval_ticks():
    ticks = Ticks()
    async with Running(None, ticks, tick_interval_s=0.01):
        await ticks.reached(5)


async def test_a_tick_that_has_more_to_do_is_followed_at_once():
    ticks = Ticks(TickReport(more=True))
    async with Running(None, ticks, tick_interval_s=NEVER_S):
        await ticks.reached(50)


async def test_a_tick_with_nothing_more_waits_for_the_interval():
    ticks = Ticks()
    async with Running(None, ticks, tick_interval_s=NEVER_S):
        await ticks.reached(1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert ticks.count == 1


async def test_stopping_ends_the_wait_but_not_the_tick_under_way():
    entered, leave, left = asyncio.Event(), asyncio.Event(), []

    async def tick():
        entered.set()
        await leave.wait()
        left.append(True)
        return TickReport(more=True)

    async with Running(None, tick, tick_interval_s=NEVER_S) as running:
        await entered.wait()
        running.stop.set()
        leave.set()
    assert left == [True]


async def test_a_tick_that_raises_ends_the_worker():
    async def tick():
        raise ZeroDivisionError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        await run(None, tick, stop=asyncio.Event())
    assert caught.group_contains(ZeroDivisionError)


# --- wake-ups ---------------------------------------------------------------------------------------------------------


async def test_a_wake_up_is_followed_by_a_tick(queue_broker, waker):
    ticks = Ticks()
    async with Running(queue_broker.url, ticks, tick_interval_s=NEVER_S):
        await ticks.reached(2)  # one at the start, one when the broker is reached
        for number in range(3, 6):
            assert await waker.wake()
            await ticks.reached(number)


async def test_a_wake_up_sent_before_the_worker_started_is_not_needed(queue_broker, waker):
    assert await waker.wake()
    ticks = Ticks()
    async with Running(queue_broker.url, ticks, tick_interval_s=NEVER_S):
        await ticks.reached(2)


async def test_a_worker_that_does_not_lead_leaves_wake_ups_to_the_one_that_does(queue_broker, waker):
    first, second = Ticks(), Ticks(TickReport(led=False))
    async with (
        Running(queue_broker.url, first, tick_interval_s=NEVER_S),
        Running(queue_broker.url, second, tick_interval_s=NEVER_S) as other,
    ):
        await first.reached(2)
        await second.reached(2)
        for number in range(3, 9):
            assert await waker.wake()
            await first.reached(number)
        assert second.count == 2

        first.report = TickReport(led=False)
        await waker.wake()
        await first.reached(9)
        other.stop.set()
        await other.task
        third = Ticks()
        async with Running(queue_broker.url, third, tick_interval_s=NEVER_S):
            await third.reached(2)
            for number in range(3, 9):
                assert await waker.wake()
                await third.reached(number)
    assert first.count == 9


async def test_wake_ups_are_json_with_fresh_ids_and_leave_nothing_behind(queue_broker, waker):
    redis = connect(queue_broker.url, socket_timeout_s=1)
    await waker.wake()
    await waker.wake()
    jobs = [await redis.get(b"arq:job:" + job_id) for job_id in await redis.zrange(QUEUE_NAME, 0, -1)]
    assert len(jobs) == 2
    assert all(job.startswith(b"{") and JOB_NAME.encode() in job for job in jobs)

    ticks = Ticks()
    async with Running(queue_broker.url, ticks, tick_interval_s=NEVER_S), asyncio.timeout(PATIENCE_S):
        await ticks.reached(2)
        while await redis.keys("arq:*"):  # noqa: ASYNC110 - the broker has no event to wait for
            await asyncio.sleep(0.02)
        assert await redis.zcard(QUEUE_NAME) == 0
    await redis.aclose(close_connection_pool=True)


async def test_a_worker_forgets_wake_ups_that_have_expired(queue_broker):
    redis = connect(queue_broker.url, socket_timeout_s=1)
    await redis.zadd(QUEUE_NAME, {"long-ago": 1.0})
    ticks = Ticks()
    async with Running(queue_broker.url, ticks, tick_interval_s=NEVER_S):
        await ticks.reached(2)
        assert await redis.zcard(QUEUE_NAME) == 0
    await redis.aclose(close_connection_pool=True)


async def test_rubbish_in_the_broker_harms_nobody(queue_broker, waker):
    redis = connect(queue_broker.url, socket_timeout_s=1)
    ticks = Ticks()
    async with Running(queue_broker.url, ticks, tick_interval_s=NEVER_S):
        await ticks.reached(2)
        await redis.set("arq:job:bad", b"\x80\x04not json")
        await redis.set("arq:job:worse", b"[1]")
        await redis.zadd(QUEUE_NAME, {"bad": 1.0, "worse": 1.0, b"\xff\xfe": 1.0})
        await heard(waker, ticks)
        await redis.delete(QUEUE_NAME)
        await heard(waker, ticks)
    await redis.aclose(close_connection_pool=True)


async def test_a_killed_broker_is_found_again_when_it_is_back(queue_broker, waker):
    ticks = Ticks()
    async with Running(queue_broker.url, ticks, tick_interval_s=NEVER_S):
        await ticks.reached(2)
        queue_broker.send(signal.SIGKILL)
        assert not await waker.wake()
        queue_broker.start()
        await heard(waker, ticks)


async def test_a_hung_broker_delays_neither_the_caller_nor_the_ticker(queue_broker, waker):
    ticks = Ticks()
    async with Running(queue_broker.url, ticks, tick_interval_s=0.05):
        await ticks.reached(2)
        queue_broker.send(signal.SIGSTOP)
        try:
            assert not await waker.wake()
            await ticks.reached(ticks.count + 40)  # longer than the worker's own time-out
        finally:
            queue_broker.send(signal.SIGCONT)
    quiet = Ticks()
    async with Running(queue_broker.url, quiet, tick_interval_s=NEVER_S):
        await quiet.reached(2)
        queue_broker.send(signal.SIGSTOP)
        await waker.wake()
        queue_broker.send(signal.SIGCONT)
        await heard(waker, quiet)


async def test_a_broker_that_answers_slowly_does_not_add_its_delays_up(tmp_path):
    """Each answer comes in time, all of them together do not."""

    async def answer(reader, writer):
        while commands := await reader.read(4096):
            await asyncio.sleep(0.1)
            writer.write(b"+OK\r\n" * sum(line.startswith(b"*") for line in commands.splitlines()))
        writer.close()

    waker = Waker(f"unix://{tmp_path}/slow.sock", timeout_s=0.15)
    async with await asyncio.start_unix_server(answer, f"{tmp_path}/slow.sock"):
        assert not await waker.wake()
        await waker.close()


async def test_a_broker_that_hangs_for_ever_is_left_for_its_successor(queue_broker, waker):
    """Its connections stay open and silent; only a time-out ends the wait."""
    ticks = Ticks()
    async with Running(queue_broker.url, ticks, tick_interval_s=NEVER_S):
        await ticks.reached(2)
        queue_broker.send(signal.SIGSTOP)
        with queue_broker.succeeded():
            await heard(waker, ticks)


async def test_a_flushed_broker_still_carries_wake_ups(queue_broker, waker):
    redis = connect(queue_broker.url, socket_timeout_s=1)
    ticks = Ticks()
    async with Running(queue_broker.url, ticks, tick_interval_s=NEVER_S):
        await ticks.reached(2)
        await waker.wake()
        await redis.flushall()
        await heard(waker, ticks)
    await redis.aclose(close_connection_pool=True)


# --- draining through trouble -----------------------------------------------------------------------------------------


async def test_the_ticker_finishes_the_drain_when_the_broker_dies_in_the_middle(queue_broker, queue_pool, waker):
    await queue_pool.execute(OUTCOMES)
    await put(queue_pool, *(Row(f"int_{n:03}") for n in range(120)))
    decider = SqlDecider(queue_pool)
    drain = Drain(QueueStore(queue_pool), decider, Watch(), Pace(), lambda: True, worker="w1")

    async def kill_the_broker_once(_item):
        if len(decider.authorized) == 30:
            queue_broker.send(signal.SIGKILL)
            # The signing or the log went with it: what is in flight cannot be decided now.
            decider.fails = {item.intent_id: Result.NOT_DECIDED for item in decider.authorized[-4:]}
        elif len(decider.authorized) > 34:
            decider.fails = {}

    decider.before = kill_the_broker_once
    ended = asyncio.Event()

    async def tick():
        report = await drain.tick()
        if not report.more and await queue_pool.fetchval("SELECT count(*) FROM queue_entries") == 0:
            ended.set()
        elif report.stopped:
            decider.fails = {}
            await make_due(queue_pool)
        return report

    async with Running(queue_broker.url, tick, tick_interval_s=0.05), asyncio.timeout(PATIENCE_S):
        await waker.wake()
        await ended.wait()

    assert await outcomes(queue_pool) == [(f"int_{n:03}", "denied") for n in range(120)]
    assert len(decider.authorized) > 120
    assert {item.attempts for item in decider.authorized} == {0}


async def test_workers_that_are_killed_lose_no_intent_and_settle_none_twice(queue_pool, queue_database):
    """Four workers, 800 intents, eight SIGKILLs in the middle of decisions: one outcome each."""
    await queue_pool.execute(OUTCOMES)
    names = [f"int_{n:03}" for n in range(800)]
    await put(queue_pool, *(Row(name, lane=n % 4) for n, name in enumerate(names)))
    store = QueueStore(queue_pool)
    script = Path(__file__).with_name("queue_worker_process.py")
    chance = random.Random(3)

    async def start(number):
        return await asyncio.create_subprocess_exec(
            sys.executable,
            script,
            queue_database.dsn,
            f"w{number}",
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}:{script.parent}", "PATH": ""},
            preexec_fn=die_with_parent,
        )

    workers = [await start(number) for number in range(4)]
    kills, interrupted = 0, 0
    try:
        async with asyncio.timeout(60):
            while kills < 8:
                number = kills % 4
                for _ in range(chance.randrange(5, 30)):
                    await workers[number].stdout.readline()
                workers[number].kill()
                await workers[number].wait()
                kills += 1
                interrupted += await queue_pool.fetchval(
                    "SELECT count(*) FROM queue_entries WHERE state = 'leased' AND leased_by = $1", f"w{number}"
                )
                await queue_pool.execute(
                    "UPDATE queue_entries SET lease_until = now() WHERE state = 'leased' AND leased_by = $1",
                    f"w{number}",
                )
                workers[number] = await start(number)
            while await queue_pool.fetchval("SELECT count(*) FROM queue_entries"):
                await store.reclaim_expired_leases()
                await asyncio.sleep(0.05)
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()

    assert interrupted > 0
    assert await outcomes(queue_pool) == [(name, "denied") for name in names]
    await lapse_leases(queue_pool)
    assert await entries(queue_pool) == {}
