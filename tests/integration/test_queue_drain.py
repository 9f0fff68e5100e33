"""The drain against a real PostgreSQL, with a decider that settles by SQL."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from queue_rows import OUTCOMES, Row, SqlDecider, Watch, entries, lapse_leases, make_due, outcomes, put, settle

from intent_queue.drain import (
    BATCH_PER_WINDOW,
    BEGIN_PER_TURN,
    FEED_S,
    GRACE_S,
    SLOW_S,
    START_WITHIN_S,
    Drain,
    PoisonIntent,
    Postponed,
    Result,
)
from intent_queue.leader import LOCK_KEY, Leader
from intent_queue.pace import START, Pace
from intent_queue.states import MAX_ATTEMPTS
from intent_queue.store import LEASE_S, QueueStore, QueueUnavailable
from intent_queue.worker import led_by

pytest_plugins = ["queue_servers"]
pytestmark = pytest.mark.integration


class Gate:
    """Open until closed."""

    def __init__(self):
        self.open = True

    def __call__(self):
        return self.open


@pytest.fixture
async def decider(queue_pool):
    await queue_pool.execute(OUTCOMES)
    return SqlDecider(queue_pool)


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def drain(queue_pool, decider, watch, gate):
    return Drain(QueueStore(queue_pool), decider, watch, Pace(), gate, worker="w1")


class Doubtful(QueueStore):
    """Loses the answer of its next claim; what became of the claim is for the test to say."""

    lost = None

    async def claim(self, limit, worker, lease_s=LEASE_S):
        return await self._in_doubt("claim", super().claim(limit, worker, lease_s))

    async def expired(self, limit, worker, lease_s=LEASE_S):
        return await self._in_doubt("expired", super().expired(limit, worker, lease_s))

    async def _in_doubt(self, name, call):
        if self.lost == name:
            self.lost = None
            await call
            raise QueueUnavailable("the answer to COMMIT was lost")
        return await call


def numbered(count, **kind):
    return [Row(f"int_{n:03}", **kind) for n in range(count)]


async def test_an_empty_queue_leaves_nothing_to_do(drain):
    report = await drain.tick()

    assert (report.claimed, report.due, report.finished, report.more, report.stopped) == (0, 0, 0, False, False)


async def test_ticks_settle_everything_once_and_ask_for_more_while_there_is_more(drain, queue_pool):
    await put(queue_pool, *numbered(50))

    ticks = [await drain.tick()]
    while ticks[-1].more:
        ticks.append(await drain.tick())

    assert sum(report.finished for report in ticks) == 50
    assert await outcomes(queue_pool) == [(f"int_{n:03}", "denied") for n in range(50)]
    assert await entries(queue_pool) == {}


async def test_no_more_are_decided_at_once_than_the_pace_allows(drain, decider, queue_pool):
    await put(queue_pool, *numbered(40))
    running, most = 0, 0

    async def count(_item):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    decider.before = count

    await drain.tick()

    assert most == START


async def test_the_next_are_claimed_while_the_ones_before_are_decided(drain, decider, queue_pool):
    await put(queue_pool, *numbered(40))
    leased = []

    async def look(_item):
        leased.append(await queue_pool.fetchval("SELECT count(*) FROM queue_entries WHERE state = 'leased'"))

    decider.before = look

    report = await drain.tick()

    assert report.claimed == 40
    assert min(leased[:30]) > 0, "between two batches nothing would be left to decide"


async def test_a_tick_goes_on_for_a_second_and_no_longer(drain, decider, watch, queue_pool):
    """Leadership, lost leases and what is overdue are looked at between ticks."""
    await put(queue_pool, *numbered(200))

    async def dawdle(_item):
        watch.elapsed_s += FEED_S / 20

    decider.before = dawdle

    report = await drain.tick()

    assert report.more
    assert report.claimed == report.finished
    assert START * BATCH_PER_WINDOW < report.claimed < 200


async def test_few_decisions_begin_in_one_turn_of_the_loop(queue_pool, decider, watch, gate):
    """Between the turns a commit is sent or answered; all at once would leave the database idle meanwhile."""
    await put(queue_pool, *numbered(64))
    begun, most, loop = 0, 0, asyncio.get_running_loop()

    async def count(_item):
        nonlocal begun, most
        if begun == 0:
            loop.call_soon(end_the_turn)
        begun += 1
        most = max(most, begun)

    def end_the_turn():
        nonlocal begun
        begun = 0

    decider.before = count
    drain = Drain(QueueStore(queue_pool), decider, watch, Pace(window=64), gate, worker="w1")

    assert (await drain.tick()).finished == 64
    assert most == BEGIN_PER_TURN


async def test_good_decisions_quicken_the_pace_and_slow_ones_calm_it(drain, decider, watch, queue_pool):
    await put(queue_pool, *numbered(32))
    await drain.tick()
    await drain.tick()
    assert drain.pace == Pace(window=START + 1, good=12)

    async def dawdle(_item):
        watch.elapsed_s += SLOW_S * 1.5

    decider.before = dawdle
    await put(queue_pool, Row("int_slow"))
    await drain.tick()
    assert drain.pace == Pace(window=3)


async def test_a_closed_gate_lets_nothing_be_decided_but_time_still_runs_out(drain, decider, gate, queue_pool):
    """An outage of evaluation must not keep intents alive beyond their time."""
    gate.open = False
    await put(queue_pool, Row("int_ready"), Row("int_late", expires_in_s=-1))

    report = await drain.tick()

    assert (report.claimed, report.stopped, report.more) == (0, True, False)
    assert decider.authorized == []
    assert await outcomes(queue_pool) == [("int_late", "expired")]


async def test_an_expiry_that_cannot_be_recorded_stops_the_tick_before_anything_is_claimed(drain, decider, queue_pool):
    await put(queue_pool, Row("int_ready"), Row("int_late", expires_in_s=-1))
    decider.fails["int_late"] = Result.NOT_DECIDED

    report = await drain.tick()

    assert (report.due, report.claimed, report.given_back, report.stopped) == (1, 0, 1, True)
    assert decider.authorized == []


async def test_an_overdue_intent_is_expired_once_and_never_evaluated(drain, decider, queue_pool):
    await put(
        queue_pool,
        Row("int_waiting", expires_in_s=-1),
        Row("int_held", state="held", expires_in_s=-1),
        Row("int_parked", state="parked", expires_in_s=-1),
        Row("int_allowed", state="claimable", claim_in_s=-1),
    )
    other = Drain(QueueStore(queue_pool), decider, Watch(), Pace(), lambda: True, worker="w2")

    reports = await asyncio.gather(drain.tick(), other.tick())
    await drain.tick()

    assert sum(report.finished for report in reports) == 4
    assert decider.authorized == []
    assert await outcomes(queue_pool) == [
        ("int_allowed", "expired"),
        ("int_held", "expired"),
        ("int_parked", "expired"),
        ("int_waiting", "expired"),
    ]


async def test_a_second_outage_stops_the_tick_and_poisons_nothing(drain, decider, queue_pool):
    """Trouble in one decision ends the slice; whatever it had not started goes back as it was."""
    await put(queue_pool, *numbered(40))
    down = 0

    async def break_after_three(item):
        nonlocal down
        if len(decider.authorized) > 3:
            decider.fails[item.intent_id] = Result.NOT_DECIDED
            down += 1
        await asyncio.sleep(0)

    decider.before = break_after_three

    report = await drain.tick()

    assert report.stopped
    assert not report.more
    assert down <= START
    assert report.finished == 3
    assert len(decider.authorized) == report.finished + down
    assert report.given_back == report.claimed - report.finished
    rows = (await entries(queue_pool)).values()
    assert {(row["state"], row["attempts"]) for row in rows} == {("waiting", 0)}
    assert len(rows) == 37
    assert drain.pace == Pace(window=int(START * 0.6))
    assert drain._owed == drain._owed_deferred == []


async def test_outages_without_end_never_park_an_intent(drain, decider, queue_pool):
    await put(queue_pool, *numbered(3))
    decider.fails = {f"int_{n:03}": Result.NOT_DECIDED for n in range(3)}
    for _ in range(3 * MAX_ATTEMPTS):
        assert (await drain.tick()).stopped
        await make_due(queue_pool)
    decider.fails.clear()

    assert (await drain.tick()).finished == 3
    assert drain.pace.window == 1


async def test_an_intent_that_alone_cannot_be_decided_does_not_hold_up_the_line(drain, decider, queue_pool):
    """It is first every time, and would stop every tick."""
    await put(queue_pool, *numbered(9))
    decider.fails["int_000"] = Result.NOT_DECIDED
    ticks = 0
    while len(await outcomes(queue_pool)) < 8:
        await drain.tick()
        ticks += 1
        assert ticks < 9

    left = await entries(queue_pool)
    assert set(left) == {"int_000"}
    assert (left["int_000"]["state"], left["int_000"]["attempts"]) == ("waiting", 0)


async def test_a_gate_that_closes_mid_slice_starts_nothing_more(drain, decider, gate, queue_pool):
    await put(queue_pool, *numbered(16))

    async def close(_item):
        gate.open = False

    decider.before = close

    report = await drain.tick()

    assert (report.claimed, report.finished, report.given_back, report.stopped) == (16, 1, 15, True)
    assert {row["attempts"] for row in (await entries(queue_pool)).values()} == {0}
    assert {row["state"] for row in (await entries(queue_pool)).values()} == {"waiting"}


async def test_nothing_is_started_when_too_little_of_its_lease_is_left(drain, decider, watch, queue_pool):
    """A decision begun late could outlive its lease."""
    await put(queue_pool, *numbered(16))

    async def stall(_item):
        watch.elapsed_s += START_WITHIN_S

    decider.before = stall

    report = await drain.tick()

    assert (report.finished, report.given_back) == (1, 15)


async def test_poison_counts_attempts_with_growing_pauses_and_is_parked_at_the_fifth(drain, decider, queue_pool):
    await put(queue_pool, Row("int_poison"), Row("int_fine"))
    decider.fails["int_poison"] = PoisonIntent
    pauses = []
    for _ in range(MAX_ATTEMPTS):
        report = await drain.tick()
        assert report.poisoned == 1
        pause = await queue_pool.fetchval("SELECT extract(epoch FROM not_before - now()) FROM queue_entries")
        pauses.append(round(pause))
        assert (await drain.tick()).claimed == 0
        await make_due(queue_pool)

    assert pauses == [1, 2, 4, 8, 16]
    assert report.parked == ("int_poison",)
    assert await outcomes(queue_pool) == [("int_fine", "denied")]
    row = (await entries(queue_pool))["int_poison"]
    assert (row["state"], row["attempts"]) == ("parked", MAX_ATTEMPTS)


async def test_a_lease_stalled_beyond_its_end_loses_to_the_next_worker(drain, decider, queue_pool):
    """Two workers decide the same intent; the database lets one outcome stand."""
    await put(queue_pool, Row("int_a"))
    store = QueueStore(queue_pool)

    async def be_overtaken(item):
        decider.before = None
        await lapse_leases(queue_pool)
        await store.reclaim_expired_leases()
        (again,) = await store.claim(1, "w2")
        assert again.epoch == item.epoch + 1
        assert await settle(queue_pool, again, "granted") is Result.FINISHED

    decider.before = be_overtaken

    report = await drain.tick()

    assert (report.lost, report.finished, report.given_back) == (1, 0, 0)
    assert await outcomes(queue_pool) == [("int_a", "granted")]


async def test_a_settled_version_is_lost_even_under_a_good_lease(drain, decider, queue_pool):
    """An operator cancelled it meanwhile."""
    await put(queue_pool, Row("int_a"))

    async def cancel(_item):
        await queue_pool.execute("UPDATE intents SET version = version + 1, status = 'cancelled'")
        await queue_pool.execute("DELETE FROM queue_entries")

    decider.before = cancel

    assert (await drain.tick()).lost == 1
    assert await outcomes(queue_pool) == []


async def test_a_programming_error_ends_the_tick_and_costs_only_its_own_intent_an_attempt(drain, decider, queue_pool):
    await put(queue_pool, *numbered(8))
    decider.fails["int_002"] = ZeroDivisionError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        await drain.tick()

    assert caught.group_contains(ZeroDivisionError)
    left = await entries(queue_pool)
    assert left["int_002"]["state"] == "leased"
    await lapse_leases(queue_pool)
    await QueueStore(queue_pool).reclaim_expired_leases()
    left = await entries(queue_pool)
    assert {name for name, row in left.items() if row["attempts"]} == {"int_002"}


async def test_a_claim_under_way_beside_a_programming_error_is_given_back_too(queue_pool, decider, watch, gate):
    """It is seen through: leases that nobody knows of would each cost an attempt."""
    claiming, answered = asyncio.Event(), asyncio.Event()
    errors = [ZeroDivisionError("a bug")]

    class Slow(QueueStore):
        async def claim(self, limit, worker, lease_s=LEASE_S):
            items = await super().claim(limit, worker, lease_s)
            if decider.authorized:
                claiming.set()
                await answered.wait()
            return items

    async def fail_beside_the_claim(item):
        if item.intent_id < "int_010":
            return
        await claiming.wait()
        if errors:
            asyncio.get_running_loop().call_later(0.02, answered.set)
            raise errors.pop()

    drain = Drain(Slow(queue_pool), decider, watch, Pace(), gate, worker="w1")
    await put(queue_pool, *numbered(60))
    decider.before = fail_beside_the_claim

    with pytest.raises(ExceptionGroup):
        await drain.tick()

    left = [row["state"] for row in (await entries(queue_pool)).values()]
    assert left.count("leased") == 1, "but for the one at fault"


async def test_a_database_lost_while_the_next_are_claimed_costs_no_attempt(queue_pool, decider, watch, gate):
    store = Doubtful(queue_pool)
    drain = Drain(store, decider, watch, Pace(), gate, worker="w1")
    await put(queue_pool, *numbered(40))

    async def lose_the_next(_item):
        store.lost = "claim"
        decider.before = None

    decider.before = lose_the_next
    report = await drain.tick()
    assert (report.unavailable, report.stopped, report.more) == (True, True, False)
    await lapse_leases(queue_pool)
    watch.elapsed_s += GRACE_S

    finished = report.finished
    while (report := await drain.tick()).claimed:
        assert report.reclaimed == 0
        finished += report.finished

    assert finished == 40
    assert {item.attempts for item in decider.authorized} == {0}


async def test_a_cancelled_tick_gives_its_intents_back_without_counting(drain, decider, queue_pool):
    await put(queue_pool, *numbered(16))
    started = asyncio.Event()

    async def hang(_item):
        started.set()
        await asyncio.Event().wait()

    decider.before = hang
    task = asyncio.create_task(drain.tick())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    rows = (await entries(queue_pool)).values()
    assert {(row["state"], row["attempts"]) for row in rows} == {("waiting", 0)}


async def test_a_database_lost_mid_slice_costs_no_attempt(drain, decider, queue_pool):
    """What cannot be given back now is given back first thing, before its lease would count against it."""
    await put(queue_pool, *numbered(6))

    async def lose_the_queue(item):
        first = not decider.fails
        decider.fails[item.intent_id] = Result.NOT_DECIDED
        if first:
            await queue_pool.execute("ALTER TABLE queue_entries RENAME TO away")

    decider.before = lose_the_queue
    report = await drain.tick()
    assert (report.unavailable, report.stopped, report.more) == (True, True, False)
    assert (await drain.tick()).unavailable
    await queue_pool.execute("ALTER TABLE away RENAME TO queue_entries")
    assert {row["state"] for row in (await entries(queue_pool)).values()} == {"leased"}
    await lapse_leases(queue_pool)
    decider.before = None
    decider.fails.clear()

    reports = [await drain.tick()]
    await make_due(queue_pool)
    reports.append(await drain.tick())

    assert sum(report.finished for report in reports) == 6
    assert sum(report.reclaimed for report in reports) == 0
    assert {item.attempts for item in decider.authorized} == {0}


@pytest.mark.parametrize(("lost", "kind"), [("claim", {}), ("expired", {"expires_in_s": -1})])
async def test_a_claim_whose_commit_was_in_doubt_costs_no_attempt(queue_pool, decider, watch, gate, lost, kind):
    store = Doubtful(queue_pool)
    drain = Drain(store, decider, watch, Pace(), gate, worker="w1")
    await put(queue_pool, *numbered(6, **kind), Row("int_other", state="leased", attempts=1))
    await queue_pool.execute("UPDATE queue_entries SET leased_by = 'w2' WHERE intent_id = 'int_other'")
    store.lost = lost
    assert (await drain.tick()).unavailable
    assert [row["state"] for row in (await entries(queue_pool)).values()].count("leased") == 7
    await lapse_leases(queue_pool, *(f"int_{n:03}" for n in range(6)))

    report = await drain.tick()

    assert (report.finished, report.reclaimed) == (6, 0)
    assert {item.attempts for item in (*decider.authorized, *decider.expired)} == {0}
    assert (await entries(queue_pool))["int_other"]["state"] == "leased", "another worker's lease is its own"


async def test_a_claim_that_is_committed_long_after_it_was_given_up_costs_no_attempt(queue_pool, decider, watch, gate):
    """As by a backend that was stopped in its COMMIT and goes on later."""
    store = Doubtful(queue_pool)
    drain = Drain(store, decider, watch, Pace(), gate, worker="w1")
    store.lost = "claim"
    assert (await drain.tick()).unavailable
    await put(queue_pool, *numbered(3))
    watch.elapsed_s += 60
    assert len(await store.claim(3, "w1")) == 3
    await lapse_leases(queue_pool)

    report = await drain.tick()

    assert (report.finished, report.reclaimed) == (3, 0)
    assert {item.attempts for item in decider.authorized} == {0}


async def test_after_an_outage_whoever_held_leases_gives_them_back_before_they_are_counted(
    queue_pool, decider, watch, gate
):
    """The lock went with its connection: another worker leads now, and does not punish intents for the outage."""
    other = SqlDecider(queue_pool)
    here, there = (
        Drain(QueueStore(queue_pool), one, watch, Pace(), gate, worker=name)
        for name, one in (("w1", decider), ("w2", other))
    )
    await put(queue_pool, *numbered(3))
    await there.stand_by()

    async def lose_the_queue(item):
        decider.fails[item.intent_id] = Result.NOT_DECIDED
        if len(decider.fails) == 1:
            await queue_pool.execute("ALTER TABLE queue_entries RENAME TO away")

    decider.before = lose_the_queue
    assert (await here.tick()).unavailable
    await here.stand_by()  # still away
    await queue_pool.execute("ALTER TABLE away RENAME TO queue_entries")
    await lapse_leases(queue_pool)

    assert (await there.tick()).reclaimed == 0
    await here.stand_by()
    await make_due(queue_pool)
    watch.elapsed_s += GRACE_S
    report = await there.tick()

    assert (report.finished, report.reclaimed) == (3, 0)
    assert {item.attempts for item in other.authorized} == {0}


async def test_a_worker_that_died_is_counted_once_the_grace_is_over(queue_pool, decider, watch, gate):
    drain = Drain(QueueStore(queue_pool), decider, watch, Pace(), gate, worker="w1")
    await put(queue_pool, Row("int_a", state="leased"))
    await lapse_leases(queue_pool)
    await drain.stand_by()
    assert (await drain.tick()).reclaimed == 0
    watch.elapsed_s += GRACE_S
    assert (await drain.tick()).reclaimed == 1


# --- leadership -------------------------------------------------------------------------------------------------------


async def test_one_worker_leads_and_the_next_takes_over_when_its_connection_goes(queue_database):
    async with Leader(queue_database.dsn) as first, Leader(queue_database.dsn) as second:
        assert await first.leads()
        assert await first.leads()
        assert not await second.leads()

        first.resign()
        while not await second.leads():
            pass

        assert not await first.leads()


async def test_a_leader_whose_connection_was_cut_has_lost_the_lock(queue_database):
    async with Leader(queue_database.dsn) as first, Leader(queue_database.dsn) as second:
        assert await first.leads()
        await queue_database.end_sessions()
        while not await second.leads():
            pass

        assert not await first.leads()


async def test_a_leader_that_stands_still_is_followed_by_another_and_one_that_speaks_is_not(queue_database):
    async with (
        Leader(queue_database.dsn) as first,
        Leader(queue_database.dsn, silent_s=0.0) as impatient,
        Leader(queue_database.dsn, silent_s=3600.0) as patient,
        Leader(queue_database.dsn, key=LOCK_KEY + 1) as elsewhere,
    ):
        assert await elsewhere.leads()
        assert await first.leads()
        assert not await patient.leads()
        assert await first.leads()

        assert not await impatient.leads()
        async with asyncio.timeout(10):
            while not await impatient.leads():
                pass

        assert not await first.leads()
        assert await elsewhere.leads()


async def test_a_leader_whose_connection_hangs_does_not_lead(queue_database):
    """The lock is still held somewhere; nobody may rely on it."""
    watcher = await asyncpg.connect(queue_database.dsn)
    async with Leader(queue_database.dsn, deadline_s=0.2) as leader:
        assert await leader.leads()
        backend = await watcher.fetchval("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted")
        os.kill(backend, signal.SIGSTOP)
        try:
            assert not await leader.leads()
            assert not await leader.leads()
        finally:
            os.kill(backend, signal.SIGCONT)
        async with asyncio.timeout(10):
            while not await leader.leads():
                pass
    await watcher.close()


async def test_nobody_leads_while_the_database_cannot_be_reached(queue_database):
    async with Leader(queue_database.dsn.replace("?host=/", "?host=/nowhere/")) as leader:
        assert not await leader.leads()


async def test_only_the_leader_drains(drain, decider, queue_pool, queue_database):
    await put(queue_pool, Row("int_a"))
    async with Leader(queue_database.dsn) as first, Leader(queue_database.dsn) as second:
        assert await first.leads()
        tick = led_by(second, drain.tick, drain.stand_by)

        idle = await tick()
        assert (idle.led, idle.claimed, idle.more) == (False, 0, False)
        assert decider.authorized == []

        first.resign()
        while not (report := await tick()).led:
            pass
        assert report.finished == 1


async def test_the_lock_key_is_one_that_postgresql_accepts(queue_database):
    connection = await asyncpg.connect(queue_database.dsn)
    async with Leader(queue_database.dsn) as leader:
        assert await leader.leads()
        held = await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted")
    await connection.close()
    assert held == 1


# --- postponed --------------------------------------------------------------------------------------------------------


async def test_a_postponed_intent_waits_uncounted_until_its_time_and_stops_nobody(drain, decider, queue_pool):
    await put(queue_pool, *numbered(6))
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1)
    decider.fails = {f"int_{n:03}": Postponed(until=until) for n in (0, 2, 4)}

    report = await drain.tick()

    assert (report.finished, report.postponed, report.given_back, report.stopped) == (3, 3, 0, False)
    left = await entries(queue_pool)
    assert sorted(left) == ["int_000", "int_002", "int_004"]
    assert {(row["state"], row["attempts"], row["not_before"]) for row in left.values()} == {("waiting", 0, until)}
    assert (await drain.tick()).claimed == 0, "it is not due before then"


async def test_a_postponed_intent_still_expires(drain, decider, queue_pool):
    await put(queue_pool, Row("int_000", expires_in_s=30))
    decider.fails = {"int_000": Postponed(until=datetime.now(UTC) + timedelta(hours=1))}
    assert (await drain.tick()).postponed == 1
    row = (await entries(queue_pool))["int_000"]
    assert row["not_before"] == row["expires_at"], "not later: it is due to expire then"
    await queue_pool.execute("UPDATE queue_entries SET expires_at = now(), not_before = now()")

    assert (await drain.tick()).due == 1
    assert [item.intent_id for item in decider.expired] == ["int_000"]


async def test_what_was_postponed_is_given_back_once_the_database_is_there_again(drain, decider, queue_pool, watch):
    await put(queue_pool, *numbered(2))
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1)
    decider.fails = {"int_000": Postponed(until=until), "int_001": Postponed(until=until + timedelta(seconds=5))}
    store, real = drain._store, drain._store.give_back

    async def away(*_):
        raise QueueUnavailable("gone")

    store.give_back = away
    assert (await drain.tick()).unavailable
    store.give_back = real

    await drain.tick()

    left = await entries(queue_pool)
    assert [(row["state"], row["attempts"]) for row in left.values()] == [("waiting", 0)] * 2
    assert sorted(row["not_before"] for row in left.values()) == [until, until + timedelta(seconds=5)]
