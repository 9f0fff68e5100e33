"""The queue's promises under fire: every intent has one final outcome, whoever dies, stalls or comes back late."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from pathlib import Path

import pytest
from integration.queue_processes import ROOT, die_with_parent
from integration.queue_rows import OUTCOMES, Row, SqlDecider, Watch, outcomes, put

from intent_queue.drain import Drain
from intent_queue.pace import Pace
from intent_queue.store import QueueStore
from intent_queue.wake import Waker
from intent_queue.worker import run

pytest_plugins = ["integration.queue_servers"]
pytestmark = [pytest.mark.integration, pytest.mark.chaos]

PATIENCE_S = 240
STALL_S = 3.0  # beyond a lease of the processes
SCRIPT = Path(__file__).with_name("drain_process.py")

LEFT = "SELECT count(*) FROM queue_entries"
#: What an operator does with an intent whose workers were killed five times.
REQUEUE = "UPDATE queue_entries SET state = 'waiting', attempts = 0 WHERE state = 'parked'"


class Workers:
    """Processes that drain side by side, without a leader."""

    def __init__(self, dsn, directory):
        self._dsn = dsn
        self._directory = directory
        self._processes = {}

    async def start(self, name):
        self._processes[name] = await asyncio.create_subprocess_exec(
            sys.executable,
            SCRIPT,
            self._dsn,
            self._directory,
            name,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}", "PATH": ""},
            preexec_fn=die_with_parent,
        )

    async def work(self, name, decisions):
        """Return once a worker has begun so many decisions, or can begin no more."""
        for _ in range(decisions):
            async with asyncio.timeout(PATIENCE_S):
                await self._processes[name].stdout.readline()

    async def kill(self, name):
        self._processes[name].kill()
        await self._processes[name].wait()

    async def stall(self, name):
        self._processes[name].send_signal(signal.SIGSTOP)
        await asyncio.sleep(STALL_S)  # how long the stall lasts
        self._processes[name].send_signal(signal.SIGCONT)

    async def read_on(self):
        """Keep the pipes empty."""
        await asyncio.gather(*(process.stdout.read() for process in self._processes.values()))

    async def end(self):
        for process in self._processes.values():
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                await process.wait()


@pytest.mark.parametrize(
    ("intents", "workers", "kills", "stalls"),
    [
        pytest.param(400, 3, 4, 1, id="short"),
        pytest.param(8_000, 4, 25, 5, id="long", marks=pytest.mark.chaos_long),
    ],
)
async def test_every_intent_has_one_final_outcome_whoever_is_killed_or_stalls(
    queue_pool, queue_database, tmp_path, intents, workers, kills, stalls
):
    names = [f"int_{n:05}" for n in range(intents)]
    await put(
        queue_pool, *(Row(name, lane=n % 4, agent=f"agent-{n % 7}", expires_in_s=3600) for n, name in enumerate(names))
    )
    chance = random.Random(11)
    running = Workers(queue_database.dsn, tmp_path)
    faults = ["kill"] * kills + ["stall"] * stalls
    chance.shuffle(faults)
    caught = 0
    try:
        for number in range(workers):
            await running.start(f"w{number}")
        share = intents // (10 * len(faults))
        for turn, fault in enumerate(faults):
            name = f"w{turn % workers}"
            await running.work(name, chance.randrange(max(1, share // 2), share + 2))
            if fault == "stall":
                await running.stall(name)
                continue
            await running.kill(name)
            leased = "SELECT count(*) FROM queue_entries WHERE state = 'leased' AND leased_by = $1"
            caught += await queue_pool.fetchval(leased, name)
            await running.start(name)
        assert await queue_pool.fetchval(LEFT) > 0, "the faults came too late to meet anything"
        reading = asyncio.create_task(running.read_on())
        async with asyncio.timeout(PATIENCE_S):
            while await queue_pool.fetchval(LEFT):
                await queue_pool.execute(REQUEUE)
                await asyncio.sleep(0.1)
    finally:
        await running.end()
    await reading

    assert caught > 0
    assert await queue_pool.fetchval("SELECT count(*) FROM intents WHERE status = 'denied'") == intents
    assert await standing_decisions(queue_pool) == names


async def standing_decisions(pool):
    """Return whose decisions stand in the log, once each; a decision that came too late has its void."""
    records = [json.loads(bytes(row["body"])) for row in await pool.fetch("SELECT body FROM audit_records")]
    voided = {
        (record["void"].get("stream", record["stream"]), record["void"]["seq"])
        for record in records
        if "void" in record
    }
    # What was refused, and whose void a SIGKILL prevented, is known by the table that the next start reads.
    voided |= {(row["stream"], row["seq"]) for row in await pool.fetch("SELECT stream, seq FROM refused_effects")}
    return sorted(
        record["intent_id"]
        for record in records
        if record["kind"] == "decision" and (record["stream"], record["seq"]) not in voided
    )


@pytest.mark.chaos_long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
async def test_a_broker_away_for_twenty_seconds_of_a_drain_loses_nothing(queue_broker, queue_pool, how):
    """The ticker takes over within five seconds and gives back: then wake-ups count again."""
    await queue_pool.execute(OUTCOMES)
    names = [f"int_{n:05}" for n in range(4_000)]
    await put(queue_pool, *(Row(name, expires_in_s=3600) for name in names))
    decider = SqlDecider(queue_pool)
    decider.before = lambda _item: asyncio.sleep(0.04)
    drain = Drain(QueueStore(queue_pool), decider, Watch(), Pace(), lambda: True, worker="w1")
    waker = Waker(queue_broker.url, spacing_s=0, cooldown_s=0)
    stop, idle_ticks = asyncio.Event(), asyncio.Event()

    async def tick():
        report = await drain.tick()
        if not report.more:
            idle_ticks.set()
        return report

    async def settled(at_least, within_s):
        async with asyncio.timeout(within_s):
            while await queue_pool.fetchval("SELECT count(*) FROM outcomes") < at_least:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run(queue_broker.url, tick, stop=stop))
        await waker.wake()
        await settled(400, 60)
        queue_broker.send(how)
        before = await queue_pool.fetchval("SELECT count(*) FROM outcomes")
        await settled(before + 1, 5)
        assert not await waker.wake()
        await asyncio.sleep(20)  # how long the broker is away
        if how is signal.SIGKILL:
            queue_broker.start()
        else:
            queue_broker.send(signal.SIGCONT)
        await settled(len(names), 120)
        # It gave back: a tick follows a wake-up at once, again and again, not only the interval.
        async with asyncio.timeout(30):
            for _ in range(10):
                idle_ticks.clear()
                while not await waker.wake():  # noqa: ASYNC110 - the broker is only just back
                    await asyncio.sleep(0.1)
                await idle_ticks.wait()
        stop.set()
    await waker.close()

    assert await outcomes(queue_pool) == [(name, "denied") for name in names]
