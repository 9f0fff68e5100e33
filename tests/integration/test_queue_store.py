"""The queue's table in a real PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from queue_rows import OUTCOMES, Row, entries, lapse_leases, outcomes, put, settle

from intent_queue import census, order, states
from intent_queue.bounds import Bounds
from intent_queue.drain import Result
from intent_queue.item import Filters
from intent_queue.order import Lane
from intent_queue.states import MAX_ATTEMPTS, Event, Place, State
from intent_queue.store import POSITION_CAP, QueueStore, QueueUnavailable

pytest_plugins = ["queue_servers"]
pytestmark = pytest.mark.integration


@pytest.fixture
def store(queue_pool):
    return QueueStore(queue_pool)


def ids(items):
    return [item.intent_id for item in items]


# --- claiming ---------------------------------------------------------------------------------------------------------


async def test_nothing_is_claimed_from_an_empty_queue(store):
    assert await store.claim(10, "w1") == []
    assert await store.expired(10, "w1") == []


async def test_a_claim_carries_what_a_late_decision_needs(store, queue_pool):
    now = await put(queue_pool, Row("int_a", agent="a", lane=1, boost_s=30, version=4, attempts=2))

    (item,) = await store.claim(10, "w1")

    assert (item.intent_id, item.agent, item.lane, item.attempts) == ("int_a", "a", Lane.CRITICAL, 2)
    assert (item.epoch, item.version, item.submission) == (1, 4, b'{"id":"int_a"}')
    assert item.enqueued_at == now - timedelta(seconds=60)
    assert item.rank_at == now - timedelta(seconds=90)
    assert item.expires_at == now + timedelta(seconds=900)
    assert (item.reason_code, item.leased_from) == ("EVALUATION_UNAVAILABLE", State.WAITING)
    row = (await entries(queue_pool))["int_a"]
    assert (row["state"], row["leased_by"]) == ("leased", "w1")


async def test_a_thousand_mixed_intents_leave_by_lane_and_rank_with_turns_and_the_oldest_in_between(store, queue_pool):
    """Whatever the sizes of the claims, the order is that of claiming one by one."""
    chance = random.Random(7)
    rows = [
        Row(
            f"int_{n:04}",
            agent=chance.choice(["agent-1", "agent-1", "agent-1", "agent-2", "Agent-3"]),
            lane=chance.randrange(4),
            age_s=chance.randrange(10, 800),
            boost_s=chance.choice([0, 0, 30, 60]),
        )
        for n in chance.sample(range(1000), 1000)
    ]
    await put(queue_pool, *rows)
    waiting = {row.intent_id: row for row in rows}
    expected, served = [], {}
    for number in range(1000):
        in_line = sorted(waiting.values(), key=lambda row: (row.lane, -row.age_s - row.boost_s, row.intent_id))
        best = in_line[0]
        if order.slot(number) is order.Slot.OLDEST:
            best = min(in_line, key=lambda row: (-row.age_s, row.intent_id))
        elif order.slot(number) is order.Slot.TURN:
            mine = [row for row in in_line if row.lane == best.lane]
            agents = sorted({row.agent for row in mine})
            turn = next((agent for agent in agents if agent > served.get(best.lane, "")), agents[0])
            best = next(row for row in mine if row.agent == turn)
            served[best.lane] = turn
        expected.append(best.intent_id)
        del waiting[best.intent_id]

    claimed = []
    while batch := await store.claim(chance.randrange(1, 40), "w1"):
        claimed += ids(batch)

    assert claimed == expected


async def test_what_is_deferred_held_parked_or_too_old_is_not_claimed(store, queue_pool):
    await put(
        queue_pool,
        Row("int_deferred", not_before_in_s=60),
        Row("int_overdue", expires_in_s=-1),
        Row("int_held", state="held"),
        Row("int_parked", state="parked"),
        Row("int_claimable", state="claimable", claim_in_s=60),
        Row("int_ready"),
    )

    assert ids(await store.claim(10, "w1")) == ["int_ready"]
    assert await store.claim(10, "w1") == []


async def test_the_slot_of_the_oldest_keeps_to_the_same_rules(store, queue_pool):
    """However old: deferred, overdue or held intents are nobody's turn."""
    await put(
        queue_pool,
        *(Row(f"int_{n}", lane=0, age_s=100 - n) for n in range(9)),
        Row("int_deferred", lane=3, age_s=800, not_before_in_s=60),
        Row("int_overdue", lane=3, age_s=700, expires_in_s=-1),
        Row("int_held", lane=3, age_s=600, state="held"),
        Row("int_oldest", lane=3, age_s=500),
        Row("int_next", lane=1, age_s=400),
    )

    assert ids(await store.claim(10, "w1")) == [*(f"int_{n}" for n in range(9)), "int_oldest"]


async def test_concurrent_claims_share_no_intent_and_miss_none(queue_pool):
    await put(queue_pool, *(Row(f"int_{n:03}") for n in range(200)))
    stores = [QueueStore(queue_pool) for _ in range(8)]

    claimed = []
    while batches := [batch for batch in await asyncio.gather(*(one.claim(9, "w") for one in stores)) if batch]:
        claimed += [intent_id for batch in batches for intent_id in ids(batch)]

    assert sorted(claimed) == [f"int_{n:03}" for n in range(200)]


# --- leases -----------------------------------------------------------------------------------------------------------


async def test_a_lease_that_ran_out_is_lost_to_the_late_worker_and_won_by_the_next(store, queue_pool):
    """The epoch, not the clock, decides who may settle."""
    await queue_pool.execute(OUTCOMES)
    await put(queue_pool, Row("int_a"))
    (late,) = await store.claim(1, "w1")
    await lapse_leases(queue_pool)
    assert (await store.reclaim_expired_leases()).returned == 1
    (fresh,) = await store.claim(1, "w2")

    assert fresh.epoch == late.epoch + 1
    assert await settle(queue_pool, late, "denied") is Result.LOST
    assert await store.release("int_a", late.epoch, count_attempt=True) is None
    assert not await store.extend("int_a", late.epoch)
    assert await store.give_back([late]) == 0
    assert await settle(queue_pool, fresh, "denied") is Result.FINISHED
    assert await outcomes(queue_pool) == [("int_a", "denied")]


async def test_a_lease_that_still_runs_is_not_taken_back(store, queue_pool):
    await put(queue_pool, Row("int_a"))
    await store.claim(1, "w1")

    assert (await store.reclaim_expired_leases()).returned == 0
    assert (await entries(queue_pool))["int_a"]["state"] == "leased"


async def test_the_fifth_lost_lease_parks_an_intent(store, queue_pool):
    await put(queue_pool, Row("int_a"))
    for attempt in range(1, MAX_ATTEMPTS):
        await store.claim(1, "w1")
        await lapse_leases(queue_pool)
        assert (await store.reclaim_expired_leases()).parked == []
        assert (await entries(queue_pool))["int_a"]["attempts"] == attempt

    await store.claim(1, "w1")
    await lapse_leases(queue_pool)

    assert (await store.reclaim_expired_leases()).parked == ["int_a"]
    assert (await entries(queue_pool))["int_a"]["state"] == "parked"
    assert await store.claim(1, "w1") == []


async def test_giving_back_for_an_outage_counts_no_attempt_however_often(store, queue_pool):
    await put(queue_pool, Row("int_a"), Row("int_b"))
    for _ in range(MAX_ATTEMPTS + 1):
        items = await store.claim(2, "w1")
        assert await store.give_back(items) == 2

    assert {row["state"] for row in (await entries(queue_pool)).values()} == {"waiting"}
    assert {row["attempts"] for row in (await entries(queue_pool)).values()} == {0}


async def test_a_release_can_defer_the_next_try(store, queue_pool):
    await put(queue_pool, Row("int_a"))
    (item,) = await store.claim(1, "w1")

    later = datetime.now(UTC) + timedelta(hours=1)
    assert await store.release("int_a", item.epoch, later, count_attempt=True) is State.WAITING

    assert await store.claim(1, "w1") == []
    row = (await entries(queue_pool))["int_a"]
    assert (row["not_before"], row["attempts"], row["lease_until"]) == (later, 1, None)


async def test_a_lease_can_be_extended_only_while_it_runs(store, queue_pool):
    await put(queue_pool, Row("int_a"))
    (item,) = await store.claim(1, "w1", lease_s=5)
    before = (await entries(queue_pool))["int_a"]["lease_until"]

    assert await store.extend("int_a", item.epoch)
    assert (await entries(queue_pool))["int_a"]["lease_until"] > before + timedelta(seconds=20)

    await lapse_leases(queue_pool)
    assert not await store.extend("int_a", item.epoch)


@pytest.mark.parametrize("home", sorted(states.LEASABLE))
@pytest.mark.parametrize("attempts", [0, MAX_ATTEMPTS - 1, MAX_ATTEMPTS])
async def test_the_table_in_sql_is_the_table_of_states(store, queue_pool, home, attempts):
    """Leases start, end and count in SQL exactly as the pure table says."""
    overdue = {"expires_in_s": -1.0, "claim_in_s": -1.0}
    for event, ending in itertools.product((Event.CLAIM, Event.COME_DUE), (Event.GIVE_BACK, Event.FAIL, None)):
        await queue_pool.execute("TRUNCATE queue_entries, intents CASCADE")
        times = overdue if event is Event.COME_DUE else {"claim_in_s": 60.0}
        await put(queue_pool, Row("int_a", state=home, attempts=attempts, **times))
        place = Place(state=home, attempts=attempts)
        lease = store.claim if event is Event.CLAIM else store.expired

        items = await lease(1, "w1")

        assert bool(items) == (event in states.legal(home))
        if not items:
            continue
        place = states.after(place, event)
        assert (items[0].epoch, items[0].leased_from) == (place.epoch, place.leased_from)
        if ending is Event.GIVE_BACK:
            await store.give_back(items)
            place = states.after(place, ending)
        elif ending is Event.FAIL:
            await store.release("int_a", items[0].epoch, count_attempt=True)
            place = states.after(place, ending)
        else:
            await lapse_leases(queue_pool)
            await store.reclaim_expired_leases()
            place = states.after(place, Event.FAIL)
        row = (await entries(queue_pool))["int_a"]
        assert (State(row["state"]), row["attempts"], row["epoch"]) == (place.state, place.attempts, place.epoch)


async def test_the_table_stores_exactly_the_states_that_wait(queue_pool):
    definition = await queue_pool.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'queue_entries_state_check'"
    )

    named = {state for state in State if f"'{state}'" in definition}
    assert named == states.STORED


# --- expiry -----------------------------------------------------------------------------------------------------------


async def test_everything_overdue_comes_up_for_expiry_whatever_it_waits_for(store, queue_pool):
    await put(
        queue_pool,
        Row("int_waiting", expires_in_s=-4),
        Row("int_held", state="held", expires_in_s=-3),
        Row("int_parked", state="parked", expires_in_s=-2),
        Row("int_claimable", state="claimable", claim_in_s=-1),
        Row("int_in_time"),
        Row("int_held_in_time", state="held"),
        Row("int_claimable_in_time", state="claimable", expires_in_s=-1, claim_in_s=60),
    )

    due = await store.expired(10, "w1")

    assert ids(due) == ["int_waiting", "int_held", "int_parked", "int_claimable"]
    assert await store.expired(10, "w2") == []


async def test_expiry_takes_the_most_overdue_first_and_no_more_than_asked(store, queue_pool):
    await put(
        queue_pool,
        Row("int_b", expires_in_s=-2),
        Row("int_a", expires_in_s=-1),
        Row("int_c", state="claimable", claim_in_s=-3),
    )

    assert ids(await store.expired(2, "w1")) == ["int_c", "int_b"]
    assert ids(await store.expired(2, "w1")) == ["int_a"]


async def test_an_expiry_that_was_deferred_waits(store, queue_pool):
    await put(
        queue_pool,
        Row("int_a", expires_in_s=-1, not_before_in_s=60),
        Row("int_b", state="claimable", claim_in_s=-1, not_before_in_s=60),
    )

    assert await store.expired(10, "w1") == []


async def test_concurrent_expiries_share_no_intent_and_miss_none(queue_pool):
    await put(
        queue_pool,
        *(Row(f"int_{n:03}", expires_in_s=-1) for n in range(0, 200, 2)),
        *(Row(f"int_{n:03}", state="claimable", claim_in_s=-1) for n in range(1, 200, 2)),
    )
    stores = [QueueStore(queue_pool) for _ in range(8)]

    due = []
    while batches := [batch for batch in await asyncio.gather(*(one.expired(9, "w") for one in stores)) if batch]:
        due += [intent_id for batch in batches for intent_id in ids(batch)]

    assert sorted(due) == [f"int_{n:03}" for n in range(200)]


async def test_a_late_allow_whose_expiry_failed_is_claimable_again_and_never_decided_anew(store, queue_pool):
    """A lease taken to expire must not turn a late allow, or a hold, into an intent to decide."""
    await put(
        queue_pool,
        Row("int_allowed", state="claimable", claim_in_s=-1),
        Row("int_held", state="held", expires_in_s=-1),
    )
    await store.expired(10, "w1")
    await lapse_leases(queue_pool)
    await store.reclaim_expired_leases()

    rows = await entries(queue_pool)

    assert (rows["int_allowed"]["state"], rows["int_held"]["state"]) == ("claimable", "held")
    assert await store.claim(10, "w1") == []


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_a_position_counts_who_is_ahead_in_line(store, queue_pool):
    await put(
        queue_pool,
        Row("int_c", age_s=10),
        Row("int_a", age_s=20),
        Row("int_b", age_s=15),
        Row("int_first", lane=0, age_s=1),
        Row("int_held", state="held", age_s=99),
    )

    assert [await store.position(f"int_{name}") for name in ("first", "a", "b", "c")] == [1, 2, 3, 4]
    assert await store.position("int_held") is None
    assert await store.position("int_nobody") is None

    (claimed,) = await store.claim(1, "w1")
    assert claimed.intent_id == "int_first"
    assert await store.position("int_first") == 1
    assert await store.position("int_a") == 1


async def test_counting_a_position_stops_at_the_cap(store, queue_pool):
    await fill(queue_pool, POSITION_CAP + 500)

    assert await store.position(f"int_{POSITION_CAP - 1:06}") == POSITION_CAP - 1
    assert await store.position(f"int_{POSITION_CAP + 400:06}") == POSITION_CAP


async def test_depths_count_every_row_by_agent_lane_and_state(store, queue_pool):
    empty = await store.depths()
    assert (empty.total, empty.by_lane[Lane.BULK].count, empty.by_lane[Lane.BULK].oldest_age_s) == (0, 0, 0.0)
    await put(
        queue_pool,
        Row("int_a", agent="a", lane=1, age_s=500),
        Row("int_b", agent="a", lane=1, age_s=100),
        Row("int_c", agent="b", lane=3, age_s=50),
        Row("int_d", agent="b", lane=1, age_s=900, state="held"),
    )
    await store.claim(1, "w1")

    depth = await store.depths()

    assert depth.total == 4
    assert depth.by_agent == {"a": 2, "b": 2}
    assert depth.by_state == {State.WAITING: 2, State.LEASED: 1, State.HELD: 1}
    assert depth.by_lane[Lane.CRITICAL].count == 2
    assert 499 < depth.by_lane[Lane.CRITICAL].oldest_age_s < 600
    assert depth.by_lane[Lane.SAFETY].count == 0
    assert await store.count_for("a") == 2
    assert await store.count_for("nobody") == 0


async def test_pages_list_every_row_once_in_order_and_filters_narrow_them(store, queue_pool):
    rows = [
        Row(
            f"int_{n:02}",
            agent="even" if n % 2 == 0 else "odd",
            lane=n % 4,
            state="held" if n % 5 == 0 else "waiting",
            reason_code="SIGNING_UNAVAILABLE" if n % 3 == 0 else "AUDIT_UNAVAILABLE",
            age_s=50.0 + n,
            category="money.move" if n % 7 == 0 else None,
        )
        for n in range(23)
    ]
    now = await put(queue_pool, *rows)

    listed, after = [], None
    while True:
        page = await store.page(after=after, limit=5)
        listed += page.items
        if (after := page.after) is None:
            break

    assert ids(listed) == [row.intent_id for row in sorted(rows, key=lambda row: (row.lane, -row.age_s))]
    assert (listed[0].state, listed[0].version, listed[0].leased_by) == (State.HELD, 1, None)
    for filters, keep in (
        (Filters(state=State.HELD), lambda row: row.state == "held"),
        (Filters(lane=Lane.BULK), lambda row: row.lane == 3),
        (Filters(agent="odd"), lambda row: row.agent == "odd"),
        (Filters(reason_code="SIGNING_UNAVAILABLE"), lambda row: row.reason_code == "SIGNING_UNAVAILABLE"),
        (Filters(state=State.HELD, agent="odd"), lambda row: row.state == "held" and row.agent == "odd"),
        (Filters(category="money.move"), lambda row: row.category == "money.move"),
        (Filters(category="money.move", agent="odd"), lambda row: row.category is not None and row.agent == "odd"),
        (Filters(category="nothing"), lambda _row: False),
        (Filters(agent="nobody"), lambda _row: False),
        (Filters(queued_before=now - timedelta(seconds=60)), lambda row: row.age_s > 60),
        (Filters(queued_after=now - timedelta(seconds=60)), lambda row: row.age_s < 60),
    ):
        page = await store.page(filters=filters)
        assert sorted(ids(page.items)) == sorted(row.intent_id for row in rows if keep(row))
        assert page.after is None


async def test_a_duplicate_is_the_same_agents_same_action_while_it_is_undecided(store, queue_pool):
    await put(
        queue_pool,
        Row("int_old", agent="a", act_hash="same", expires_in_s=-1),
        Row("int_allowed", agent="a", act_hash="same", state="claimable", claim_in_s=60),
        Row("int_second", agent="a", act_hash="same", age_s=10),
        Row("int_first", agent="a", act_hash="same", age_s=20, state="held"),
        Row("int_other", agent="b", act_hash="same", age_s=90),
    )

    assert await store.find_duplicate("a", "same") == "int_first"
    assert await store.find_duplicate("b", "same") == "int_other"
    assert await store.find_duplicate("a", "different") is None
    assert await store.find_duplicate("c", "same") is None


# --- trouble and cost -------------------------------------------------------------------------------------------------


async def test_a_database_that_is_away_is_one_exception_and_the_store_recovers(store, queue_pool, queue_database):
    await put(queue_pool, Row("int_a"))
    await queue_pool.execute("ALTER TABLE queue_entries RENAME TO away")
    for call in (store.claim(1, "w"), store.expired(1, "w"), store.depths(), store.position("int_a"), store.page()):
        with pytest.raises(QueueUnavailable):
            await call
    await queue_pool.execute("ALTER TABLE away RENAME TO queue_entries")

    await queue_database.end_sessions()

    answers = []
    while not answers or answers[-1] is None:
        try:
            answers.append(await store.claim(1, "w1"))
        except QueueUnavailable:
            answers.append(None)
            assert len(answers) < 20
    assert ids(answers[-1]) == ["int_a"]


async def test_a_claim_that_stalls_halfway_is_ended_by_the_database(store):
    """Its row locks would keep the recorder waiting."""
    async with store._transaction() as connection:
        assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "1s"


class Cancelled(BaseException):
    """Not a failure of the database."""


async def test_a_failed_transaction_leaves_no_connection_behind_in_the_middle_of_it(store, queue_pool):
    pids = []

    async def fail():
        async with store._transaction() as connection:
            pids.append(await connection.fetchval("SELECT pg_backend_pid()"))
            raise Cancelled

    with pytest.raises(Cancelled):
        await fail()

    async with asyncio.timeout(10):
        # PostgreSQL has no event to wait for; and after many queries in a tight loop a pool replaces its connection.
        while await queue_pool.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", *pids):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_the_census_keeps_the_bounds_fresh_and_the_last_count_outlives_an_outage(store, queue_pool):
    bounds = Bounds()
    await put(queue_pool, Row("int_a", agent="a"))
    assert await census.count(bounds, store)
    assert bounds.full("a", max_per_agent=1, max_total=9)
    assert not bounds.full("b", max_per_agent=1, max_total=9)

    await queue_pool.execute("ALTER TABLE queue_entries RENAME TO away")
    bounds.parked("b", Lane.NORMAL)
    bounds.waits("b", Lane.NORMAL, "int_b")
    assert not await census.count(bounds, store)
    assert bounds.full("b", max_per_agent=1, max_total=9)

    await queue_pool.execute("ALTER TABLE away RENAME TO queue_entries")
    assert await census.count(bounds, store)
    assert not bounds.full("b", max_per_agent=1, max_total=9)


async def test_a_lock_that_somebody_holds_ends_in_time_and_claims_nothing(queue_pool):
    """A statement that waits is cancelled; a half-done claim is rolled back."""
    store = QueueStore(queue_pool, deadline_s=0.2)
    await put(queue_pool, Row("int_a"))
    async with queue_pool.acquire() as other, other.transaction():
        await other.execute("LOCK TABLE queue_entries IN ACCESS EXCLUSIVE MODE")

        with pytest.raises(QueueUnavailable):
            await store.claim(1, "w1")

    assert ids(await store.claim(1, "w1")) == ["int_a"]


async def fill(pool, count):
    """Queue many intents at once, spread over lanes and agents only where `count` is large."""
    await pool.execute(
        """INSERT INTO intents (intent_id, agent, request_digest, submission, act_hash, status, reason_code, envelope,
                                created_at, decided_at)
           SELECT 'int_' || lpad(n::text, 6, '0'), 'agent-' || n % 200, '', '{}', 'h' || n, 'queued',
                  'EVALUATION_UNAVAILABLE', '{}', now(), now()
             FROM generate_series(1, $1::int) AS n""",
        count,
    )
    await pool.execute(
        """INSERT INTO queue_entries (intent_id, agent, act_hash, state, lane, rank_at, enqueued_at, expires_at,
                                      not_before, reason_code, category)
           SELECT intent_id, agent, act_hash, 'waiting', 2, at, at, now() + interval '1 hour', at, reason_code,
                  'cat-' || substr(intent_id, 5)::int % 50
             FROM intents,
                  LATERAL (SELECT now() - interval '1 hour' + substr(intent_id, 5)::int * interval '1 ms' AS at) AS t"""
    )
    await pool.execute("ANALYZE intents, queue_entries")


async def scatter(pool):
    """Give one row in fifty another state than waiting."""
    await pool.execute(
        """UPDATE queue_entries
              SET state = (ARRAY['held', 'claimable', 'parked', 'leased'])[substr(intent_id, 5)::int / 50 % 4 + 1],
                  lease_until = now() + interval '30 seconds'
            WHERE substr(intent_id, 5)::int % 50 = 0"""
    )
    await pool.execute(
        """UPDATE intents SET status = 'claimable', claim_by = now() + interval '1 minute'
            WHERE intent_id IN (SELECT intent_id FROM queue_entries WHERE state = 'claimable')"""
    )
    await pool.execute("ANALYZE intents, queue_entries")


#: Each query with arguments, and the indexes it may read the queue by.
_PLANS = {
    "first_in_line": ((10,), {"queue_ready"}),
    "oldest": ((10,), {"queue_oldest"}),
    "turns": ((2, "agent-7", 30, 100), {"queue_turns"}),
    "hold": ((["int_000001"],), {"queue_entries_pkey"}),
    "due": ((10,), {"queue_expiry", "queue_entries_pkey", "intents_claim_by"}),
    "lease": ((["int_000001"], "w1", 30.0), {"queue_entries_pkey", "intents_pkey"}),
    "reclaim": ((10, 5), {"queue_leases", "queue_entries_pkey"}),
    "release": ((["int_000001"], [1], None, 0, 5), {"queue_entries_pkey"}),
    "abandon": (("w1",), {"queue_leases", "queue_others", "queue_entries_pkey"}),
    "extend": (("int_000001", 1, 30.0), {"queue_entries_pkey", "queue_leases"}),
    "position": (("int_020000", 10_000), {"queue_ready", "queue_entries_pkey"}),
    "count_for": (("agent-7",), {"queue_by_agent"}),
    "duplicate": (("agent-7", "h7"), {"queue_by_agent"}),
}
_NOW = datetime(2026, 11, 20, tzinfo=UTC)
_START = (-1, datetime(1, 1, 1, tzinfo=UTC), "", 50)
#: What is not in line is read by any of these.
_OTHERS = {"queue_others", "queue_others_by_category", "queue_leases"}
_PAGE_PLANS = {
    "all": ((None, None, None, None), {"queue_ready", *_OTHERS}),
    "waiting": (("waiting", None, None, None), {"queue_ready"}),
    "held": (("held", None, None, None), _OTHERS),
    "leased": (("leased", None, None, None), _OTHERS),
    "one lane": ((None, 2, None, None), {"queue_ready", *_OTHERS}),
    "one agent": ((None, None, "agent-7", None), {"queue_by_agent", *_OTHERS}),
    "one reason": ((None, None, None, "EVALUATION_UNAVAILABLE"), {"queue_ready", *_OTHERS}),
    "one category": ((None, None, None, None, None, None, "cat-7"), {"queue_by_category", *_OTHERS}),
    "queued before": ((None, None, None, None, _NOW), {"queue_ready", "queue_oldest", *_OTHERS}),
    "queued between": (
        (None, None, None, None, _NOW, _NOW - timedelta(days=1)),
        {"queue_ready", "queue_oldest", *_OTHERS},
    ),
}


async def plan_of(connection, name, arguments):
    from intent_queue import store as module  # noqa: PLC0415 - the texts under test

    await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
    lines = await connection.fetch(f"EXPLAIN {module._sql(name)}", *arguments)
    return "\n".join(line[0] for line in lines)


def indexes_in(plan):
    return {word for word in plan.replace(",", " ").split() if word.startswith(("queue_", "intents_"))} - {
        "queue_entries",
        *(f"queue_entries_{number}" for number in range(1, 9)),
    }


async def test_every_query_reads_its_index(queue_pool):
    """No query walks the table, however many wait. Depths do, on purpose, about once a second."""
    await fill(queue_pool, 30_000)
    await scatter(queue_pool)
    async with queue_pool.acquire() as connection, connection.transaction():
        for name, (arguments, indexes) in _PLANS.items():
            plan = await plan_of(connection, name, arguments)
            assert "Seq Scan" not in plan, f"{name}:\n{plan}"
            assert indexes_in(plan) <= indexes, f"{name}:\n{plan}"
        for name, (filters, indexes) in _PAGE_PLANS.items():
            narrowed = (*filters, *(None,) * (7 - len(filters)))
            plan = await plan_of(connection, "page", (*_START, *narrowed))
            assert "Seq Scan" not in plan, f"{name}:\n{plan}"
            assert indexes_in(plan) <= indexes | {"intents_pkey"}, f"{name}:\n{plan}"


_ROWS_READ = "SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'queue_entries'"


async def test_a_settlement_reads_the_rows_it_names_however_many_are_leased(queue_pool):
    """A worker holds hundreds of leases: looking through them for each one it settles would cost more than the rest."""
    await fill(queue_pool, 1_000)
    leased = [f"int_{n:06}" for n in range(1, 501)]
    await queue_pool.execute(
        "UPDATE queue_entries SET state = 'leased', epoch = 1, lease_until = now() + interval '1 minute' "
        "WHERE intent_id = ANY ($1)",
        leased,
    )
    moves = [
        {"i": n, "intent_id": intent_id, "expect_version": 1, "status": "denied", "reason_code": "POLICY_DENIED"}
        | {"envelope": {}, "decided_at": "2026-11-20T10:00:00Z", "epoch": 1}
        for n, intent_id in enumerate(leased[:10])
    ]
    async with queue_pool.acquire() as connection, connection.transaction():
        for node in ("seqscan", "hashjoin", "mergejoin"):  # as the recorder's sessions
            await connection.execute(f"SET LOCAL enable_{node} = off")
        before = await connection.fetchval(_ROWS_READ)
        refused = await connection.fetchval("SELECT move_intents($1::text::jsonb)", json.dumps(moves))
        read = await connection.fetchval(_ROWS_READ) - before

    assert refused == []
    assert read == 3 * len(moves), "locked, compared, removed"
