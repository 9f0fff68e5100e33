"""Who gets which share of the queue and of the processors: agents, processes, live traffic."""

from __future__ import annotations

import pytest
from queue_rows import OUTCOMES, Row, SqlDecider, Watch, put

from intent_queue import census
from intent_queue.bounds import Bounds
from intent_queue.drain import BATCH_PER_WINDOW, Drain
from intent_queue.pace import Live, LiveWord, Pace
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


class Told:
    """What is heard of live traffic."""

    def __init__(self, fares=Live.NONE):
        self.word = LiveWord(fares=fares, number=1)

    def __call__(self):
        return self.word

    def again(self, fares):
        self.word = LiveWord(fares=fares, number=self.word.number + 1)


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def drain(queue_pool, decider, watch, told):
    return Drain(QueueStore(queue_pool), decider, watch, Pace(window=20), lambda: True, worker="w1", live=told)


async def test_the_drain_yields_while_live_traffic_is_slow(drain, told, queue_pool):
    """The pace is cut once for each word, however many ticks it stands for."""
    await put(queue_pool, *(Row(f"int_{n:03}") for n in range(400)))
    reports = []
    for fares in (Live.SLOW, Live.SLOW, Live.SLOW, Live.QUICK):
        told.again(fares)
        reports += [await drain.tick(), await drain.tick()]

    assert [report.claimed for report in reports] == [48, 48, 28, 28, 16, 16, 16, 16]
    assert [report.pause_s > 0 for report in reports] == [True] * 6 + [False] * 2


async def test_while_live_traffic_is_slow_at_least_half_of_the_time_is_its_own(drain, told, decider, watch, queue_pool):
    await put(queue_pool, *(Row(f"int_{n:03}") for n in range(40)))
    told.again(Live.SLOW)

    async def dawdle(_item):
        watch.elapsed_s += 0.01

    decider.before = dawdle
    report = await drain.tick()

    assert report.pause_s == pytest.approx(0.01 * report.finished)


async def test_beside_live_traffic_one_tick_for_each_word_quickens_the_pace(drain, told, queue_pool):
    """How live traffic took the other ticks nobody has said yet."""
    await put(queue_pool, *(Row(f"int_{n:03}") for n in range(400)))
    told.again(Live.QUICK)
    await drain.tick()
    quickened = drain.pace
    assert quickened.window > 20

    await drain.tick()
    assert drain.pace == quickened

    told.again(Live.QUICK)
    await drain.tick()
    assert drain.pace.window > quickened.window


async def test_beside_live_traffic_a_tick_is_one_batch_and_alone_it_goes_on(drain, told, queue_pool):
    await put(queue_pool, *(Row(f"int_{n:03}") for n in range(400)))
    told.again(Live.QUICK)
    assert (await drain.tick()).claimed == 20 * BATCH_PER_WINDOW

    told.again(Live.NONE)
    report = await drain.tick()
    assert (report.claimed, report.finished, report.more) == (320, 320, False)


async def test_a_tick_that_goes_on_claims_no_more_once_somebody_submits(drain, told, decider, queue_pool):
    await put(queue_pool, *(Row(f"int_{n:03}") for n in range(400)))

    async def submit(_item):
        told.again(Live.QUICK)

    decider.before = submit
    report = await drain.tick()

    assert report.claimed == report.finished == 20 * BATCH_PER_WINDOW
