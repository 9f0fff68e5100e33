"""What the risk may expect of the memory of agents: the same of one process alone and of several over Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from holdfast.intent import Intent, Resource
from holdfast.reasons import Cause, ReasonCode
from integration.queue_servers import Valkey
from redis.asyncio import Redis
from world import FakeClock, World

from services.activity import MAX_FAMILIAR, RecentActivity
from services.authorizer import MovedOn
from services.decision.risk import Signals
from services.decision.verdict import Allow, ApprovalNeeded, Deny, Hold, Unavailable
from services.shared_activity import SharedActivity

pytestmark = pytest.mark.integration

ALLOW = Allow(determining=("p",))
DENY = Deny(reason_code=ReasonCode.POLICY_DENIED, detail="no")
HOLD = Hold(needed=(ApprovalNeeded(rule="r", role="finance", count=1),), detail="ask", determining=("r",))
UNDECIDED = Unavailable(
    reason_code=ReasonCode.EVALUATION_UNAVAILABLE, cause=Cause.STORE_UNREACHABLE, detail="not decided"
)
INTENT = Intent(action="kb.search", resource=Resource(type="kb", id="handbook"))


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def valkey():
    directory = Path(tempfile.mkdtemp(prefix="hfa"))
    server = Valkey(directory)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def replica(valkey, clock):
    """Start a process's memory on the shared store; each is another process."""
    started = []

    def start():
        started.append(SharedActivity(valkey.url, clock=clock, process=f"api-{len(started)}"))
        return started[-1]

    yield start
    for activity in started:
        await activity.close()


@pytest.fixture(params=["memory", "shared"])
def activity(request):
    return RecentActivity() if request.param == "memory" else request.getfixturevalue("replica")()


async def signals(activity, clock, intent=INTENT, agent="bot"):
    await activity.recall(agent)
    return activity.signals(agent, intent, clock.now())


# --- both -------------------------------------------------------------------------------------------------------------


async def test_an_agent_nobody_has_seen_is_novel_and_quiet(activity, clock):
    assert await signals(activity, clock) == Signals(recent_denials=0, velocity=0, novel=True)


async def test_what_was_allowed_is_familiar_and_counted(activity, clock):
    activity.note("bot", INTENT, clock.now(), ALLOW)

    assert await signals(activity, clock) == Signals(recent_denials=0, velocity=1, novel=False)
    assert await signals(activity, clock, agent="another") == Signals(novel=True)


@pytest.mark.parametrize("verdict", [DENY, HOLD, UNDECIDED], ids=["deny", "hold", "undecided"])
async def test_only_an_allow_makes_familiar(activity, clock, verdict):
    """Otherwise an agent could make itself familiar by asking for what it does not get."""
    for _ in range(3):
        activity.note("bot", INTENT, clock.now(), verdict)

    assert (await signals(activity, clock)).novel


@pytest.mark.parametrize(
    "other",
    [
        replace(INTENT, action="kb.delete"),
        replace(INTENT, resource=Resource(type="wiki", id="handbook")),
        replace(INTENT, resource=Resource(type="kb", id="payroll")),
        replace(INTENT, action="kb", resource=Resource(type="search.kb", id="handbook")),
    ],
)
async def test_another_action_or_another_resource_is_novel(activity, clock, other):
    activity.note("bot", INTENT, clock.now(), ALLOW)

    assert (await signals(activity, clock, other)).novel


async def test_an_action_and_a_resource_are_familiar_apart(activity, clock):
    for action, resource in (("kb.search", "payroll"), ("kb.delete", "handbook")):
        activity.note("bot", Intent(action=action, resource=Resource(type="kb", id=resource)), clock.now(), ALLOW)

    assert not (await signals(activity, clock)).novel


async def test_denials_count_for_ten_minutes_and_calls_for_one(activity, clock):
    for verdict in (DENY, DENY, ALLOW, HOLD, UNDECIDED):
        activity.note("bot", INTENT, clock.now(), verdict)
    assert await signals(activity, clock) == Signals(recent_denials=2, velocity=5, novel=False)

    clock.advance(61)
    assert await signals(activity, clock) == Signals(recent_denials=2, velocity=0, novel=False)
    clock.advance(540)
    assert await signals(activity, clock) == Signals(recent_denials=0, velocity=0, novel=False)


async def test_no_flood_hides_a_denial_or_grows_the_memory(activity, clock):
    activity.note("bot", INTENT, clock.now(), DENY)
    for number in range(3 * MAX_FAMILIAR):
        flood = Intent(action="kb.search", resource=Resource(type="kb", id=f"page-{number}"))
        activity.note("bot", flood, clock.now(), ALLOW)

    seen = await signals(activity, clock, flood)
    assert (seen.recent_denials, seen.novel) == (1, False)
    assert seen.velocity >= 1_000
    first = Intent(action="kb.search", resource=Resource(type="kb", id="page-0"))
    assert (await signals(activity, clock, first)).novel, "what was pushed out is novel again: that only adds"


# --- shared -----------------------------------------------------------------------------------------------------------


async def test_what_one_process_saw_another_knows(replica, clock):
    one, two = replica(), replica()
    for verdict in (ALLOW, DENY, DENY):
        one.note("bot", INTENT, clock.now(), verdict)
    await one.write()

    assert await signals(two, clock) == Signals(recent_denials=2, velocity=3, novel=False)


async def test_what_is_counted_in_many_places_adds_up_and_nothing_counts_twice(replica, clock):
    processes = [replica() for _ in range(3)]
    for process in processes:
        await process.recall("bot")
        for _ in range(4):
            process.note("bot", INTENT, clock.now(), DENY)
            await process.write()
            await process.write()
    for process in processes:
        await process.read_back()
        await process.read_back()

    assert [await signals(process, clock) for process in processes] == [
        Signals(recent_denials=12, velocity=12, novel=True)
    ] * 3


async def test_a_restart_forgets_nothing(replica, clock, valkey):
    before = replica()
    for verdict in (ALLOW, DENY):
        before.note("bot", INTENT, clock.now(), verdict)
    await before.close()

    after = replica()
    after.note("bot", INTENT, clock.now(), DENY)
    await after.write()

    assert await signals(after, clock) == Signals(recent_denials=2, velocity=3, novel=False)


async def test_an_agent_asked_for_lately_is_read_back_beside_the_decisions(replica, clock):
    one, two = replica(), replica()
    assert (await signals(two, clock)).novel
    one.note("bot", INTENT, clock.now(), ALLOW)
    one.note("bot", INTENT, clock.now(), DENY)
    await one.write()
    assert await signals(two, clock) == Signals(novel=True), "no decision asks again so soon"

    await two.read_back()

    assert await signals(two, clock) == Signals(recent_denials=1, velocity=2, novel=False)


async def test_an_agent_not_heard_of_for_a_while_is_recalled_before_its_decision(replica, clock):
    one, two = replica(), replica()
    await two.recall("bot")
    one.note("bot", INTENT, clock.now(), DENY)
    await one.write()
    clock.advance(16)

    assert (await signals(two, clock)).recent_denials == 1


async def test_the_others_windows_end_too_and_never_early(replica, clock):
    one, two = replica(), replica()
    one.note("bot", INTENT, clock.now(), DENY)
    await one.write()
    clock.advance(60)
    assert await signals(two, clock) == Signals(recent_denials=1, velocity=1, novel=True)

    clock.advance(5)
    assert (await signals(two, clock)).velocity == 0
    clock.advance(535)
    assert (await signals(two, clock)).recent_denials == 1
    clock.advance(60)
    assert (await signals(two, clock)).recent_denials == 0


async def test_concurrent_first_decisions_read_once(replica, clock, valkey):
    one, two = replica(), replica()
    one.note("bot", INTENT, clock.now(), ALLOW)
    await one.write()
    async with contextlib.AsyncExitStack() as stack:
        raw = Redis.from_url(valkey.url)
        stack.push_async_callback(raw.aclose)
        await raw.config_resetstat()

        seen = await asyncio.gather(*(signals(two, clock) for _ in range(50)))

        reads = (await raw.info("commandstats"))["cmdstat_zrangebyscore"]["calls"]
    assert {one.novel for one in seen} == {False}
    assert reads == 2


async def test_the_store_keeps_bounded_sets_that_expire(replica, clock, valkey):
    one = replica()
    for number in range(MAX_FAMILIAR + 500):
        one.note("bot", Intent(action="a", resource=Resource(type="kb", id=str(number))), clock.now(), ALLOW)
    await one.write()

    async with contextlib.AsyncExitStack() as stack:
        raw = Redis.from_url(valkey.url, decode_responses=True)
        stack.push_async_callback(raw.aclose)
        assert await raw.zcard("holdfast:activity:{bot}:resources") == MAX_FAMILIAR
        async for key in raw.scan_iter("*"):
            assert 0 < await raw.ttl(key) <= 90 * 86_400


# --- without the store ------------------------------------------------------------------------------------------------


async def test_without_the_store_memory_answers_and_the_unknown_is_novel(replica, clock, valkey):
    one, two = replica(), replica()
    one.note("bot", INTENT, clock.now(), ALLOW)
    valkey.stop()

    await one.write()
    await one.read_back()

    assert await signals(one, clock) == Signals(velocity=1, novel=False)
    assert await signals(two, clock) == Signals(novel=True)


async def test_what_was_noted_meanwhile_is_written_when_the_store_is_back(replica, clock, valkey):
    one, two = replica(), replica()
    valkey.stop()
    for verdict in (ALLOW, DENY):
        one.note("bot", INTENT, clock.now(), verdict)
        await one.write()
    valkey.start()

    await one.write()

    assert await signals(two, clock) == Signals(recent_denials=1, velocity=2, novel=False)


async def test_a_hung_store_holds_one_decision_for_a_moment_and_the_next_not_at_all(replica, clock, valkey):
    one = replica()
    await one.recall("warm")
    valkey.send(signal.SIGSTOP)

    await asyncio.wait_for(one.recall("bot"), 5)
    for agent in ("bot", "another", "a third"):
        recall = one.recall(agent)
        with pytest.raises(StopIteration):
            recall.send(None)  # it returns without having waited for anything

    valkey.send(signal.SIGCONT)
    clock.advance(6)
    await one.recall("bot")
    assert await signals(one, clock) == Signals(novel=True)


async def test_a_damaged_store_is_no_failure(replica, clock, valkey):
    one = replica()
    async with contextlib.AsyncExitStack() as stack:
        raw = Redis.from_url(valkey.url)
        stack.push_async_callback(raw.aclose)
        minute = int(clock.now().timestamp()) // 60
        await raw.hset(
            f"holdfast:activity:{{bot}}:{minute}", mapping={"x:0": "many", "nothing": "3", "y:denials": "-9"}
        )
        await raw.set("holdfast:activity:{worse}:actions", "no set")

    assert await signals(one, clock) == Signals(novel=True)
    clock.advance(6)
    assert await signals(one, clock, agent="worse") == Signals(novel=True)


async def test_what_cannot_be_written_is_bounded(replica, clock, valkey):
    one = replica()
    valkey.stop()
    for number in range(60_000):
        agent = f"bot-{number}"
        one.note(agent, INTENT, clock.now(), ALLOW)

    await one.write()

    assert len(one._unwritten) <= 50_000
    assert len(one._allowed) <= 50_000
    assert len(one._tallies) <= 50_000


# --- in the authorizer ------------------------------------------------------------------------------------------------


async def test_what_the_worker_drained_counts_for_the_api(replica):
    worker, api = replica(), replica()
    world = World(activity=worker)
    with contextlib.suppress(MovedOn):
        await world.authorizer.reconsider(world.waiting_intent(world.refund(cents=600_000)))
    await worker.write()

    clock = FakeClock()
    assert (await signals(api, clock, world.refund(), agent="support")).recent_denials == 1


async def test_denials_anywhere_raise_the_risk_here(replica):
    elsewhere, here = replica(), replica()
    for _ in range(5):
        elsewhere.note("support", World().refund(), FakeClock().now(), DENY)
    await elsewhere.write()

    calm = await World().submit(World().refund())
    wary = await World(activity=here).submit(World().refund())

    assert wary.risk.score == calm.risk.score + 15
    assert "denials" in {factor.name for factor in wary.risk.factors}
