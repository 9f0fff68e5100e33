"""Who gets which share of the queue and of the processors: agents, processes, live traffic."""

from __future__ import annotations

import pytest
from queue_rows import OUTCOMES, Row, SqlDecider, Watch, put

from intent_queue import census
from intent_queue.bounds import Bounds
from intent_queue.drain import Drain
from intent_queue.pace import Pace
from intent_queue.store import QueueStore

pytest_plugins = ["queue_servers"]
pytestmark = pytest.mark.integration


@pytest.fixture
def store(queue_pool):
    return QueueStore(queue_pool)


@pytest.fixture
async def decider(queue_pool):
    await queue_pool.execute(OUTCOMES)
    return SqlDecider(queue_pool)


@pytest.fixture
def watch():
    return Watch()


def ids(items):
    return [item.intent_id for item in items]


async def test_one_noisy_agent_does_not_starve_the_others_of_its_lane(store, queue_pool):
    """Two thousand queued before them; each of nine others is served in the first claim, and all twice in two."""
    noise = [Row(f"int_n{n:04}", agent="noisy", age_s=700 - n / 10) for n in range(2000)]
    quiet = [Row(f"int_q{n}_{m}", agent=f"quiet-{n}", age_s=1) for n in range(9) for m in range(2)]
    await put(queue_pool, *noise, *quiet)

    first, second = await store.claim(40, "w1"), await store.claim(40, "w1")

    assert {item.agent for item in first} == {"noisy", *(row.agent for row in quiet)}
    assert {row.intent_id for row in quiet} <= {*ids(first), *ids(second)}


async def test_a_turn_puts_no_lane_before_a_better_one(store, queue_pool):
    better = [Row(f"int_b{n}", agent="busy", lane=1, age_s=10) for n in range(30)]
    await put(queue_pool, *better, Row("int_z", agent="other", lane=3, age_s=5))

    assert "int_z" not in ids(await store.claim(30, "w1"))


async def test_several_processes_exceed_a_bound_only_by_what_they_let_in_between_two_counts(store, queue_pool):
    """How exact QUEUE_FULL is: at most once the bound for each process, and not one more after a count."""
    processes = [Bounds() for _ in range(3)]
    for bounds in processes:
        await census.count(bounds, store)
    stored = 0
    for round_ in range(3):
        for name, bounds in enumerate(processes):
            while not bounds.full("agent-1", max_per_agent=10, max_total=1000):
                bounds.parked("agent-1", 2)
                intent_id = f"int_{round_}{name}{stored:03}"
                await put(queue_pool, Row(intent_id))
                bounds.waits("agent-1", 2, intent_id)
                stored += 1
        assert stored == 30
        for bounds in processes:
            await census.count(bounds, store)

    assert await store.count_for("agent-1") == 30


async def test_after_an_outage_the_pace_starts_over(decider, watch, queue_pool):
    open_ = [True]
    drain = Drain(QueueStore(queue_pool), decider, watch, Pace(), lambda: open_[0], worker="w1")
    await put(queue_pool, *(Row(f"int_{n:03}") for n in range(200)))
    while drain.pace == Pace():
        await drain.tick()
    open_[0] = False
    await drain.tick()

    assert drain.pace == Pace()


async def test_the_drain_yields_while_live_traffic_is_slow(decider, watch, queue_pool):
    await put(queue_pool, *(Row(f"int_{n:03}") for n in range(400)))
    slow = [True] * 4 + [False]
    drain = Drain(
        QueueStore(queue_pool), decider, watch, Pace(window=20), lambda: True, worker="w1", yields=lambda: slow.pop(0)
    )

    reports = [await drain.tick() for _ in range(5)]

    assert [report.claimed for report in reports] == [48, 32, 20, 12, 12]
    assert [report.pause_s > 0 for report in reports] == [True, True, True, True, False]
