"""Orders on a real PostgreSQL: what the database refuses, and how replicas hear of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest
from integration.recording_postgres import Postgres

from services.decision.catalog import Impact
from services.decision.orders import Order, OrderKind
from services.lapsing import Lapsing
from services.order_effects import ConfirmOrder, EndOrder, PutOrder
from services.ports import Entry, StoreUnreachable
from services.postgres.lapsed import PostgresLapsed
from services.postgres.orders import OrderBook
from services.postgres.pool import ReadPool
from services.provision import open_lane
from services.system import SystemClock, SystemIds

pytestmark = pytest.mark.integration
CLOCK = SystemClock()
IDS = SystemIds()


@pytest.fixture(scope="module")
def server():
    postgres = Postgres()
    yield postgres
    postgres.stop()


@pytest.fixture
async def url(server):
    return await server.database()


@pytest.fixture
async def lane(url, tmp_path):
    async with open_lane(url, tmp_path, name="orders") as found:
        yield found


@pytest.fixture
async def a_book(url, tmp_path):
    """Return a maker of books, each as of another replica."""
    pools = []

    async def make(name: str = "one", *, in_journal=lambda: False, database: str = url):
        pool = ReadPool(database, size=1)
        await pool.start()
        pools.append(pool)
        book = OrderBook(pool, tmp_path / f"orders-{name}.json", clock=CLOCK, in_journal=in_journal)
        await book.start()
        return book

    yield make
    for pool in pools:
        await pool.close()


def put(scope: str = "all", kind: str = "halt", **changes) -> PutOrder:
    given = {
        "order_id": IDS.new("ord_"),
        "document": {},
        "reason": "incident 7",
        "issued_at": CLOCK.now(),
        "issued_by": "alice",
        "people": 1,
        "expires_at": None,
    }
    return PutOrder(kind=kind, scope=scope, **given | changes)


async def applied(lane, effect) -> bool:
    entry = Entry(kind="order.test", at=CLOCK.now(), effect=effect)
    return (await lane.append(entry).settled()).applied


async def test_what_one_replica_orders_stops_another_within_a_second(lane, a_book):
    book = await a_book()
    following = asyncio.create_task(book.run())
    assert book.current().halt(agent="a") is None

    assert await applied(lane, put())
    async with asyncio.timeout(5):
        while book.current().halt(agent="a") is None:  # noqa: ASYNC110 - it is a poll that is tested
            await asyncio.sleep(0.02)

    book.check()
    following.cancel()


async def test_one_halt_stands_for_each_scope(lane):
    assert await applied(lane, put("agent:a"))
    assert not await applied(lane, put("agent:a"))
    assert await applied(lane, put("agent:b"))


async def test_an_ended_halt_ends_once_and_can_be_ordered_again(lane, a_book):
    order = put()
    assert await applied(lane, order)
    end = EndOrder(order_id=order.order_id, ended_at=CLOCK.now(), ended_by="bob", note="over")

    assert [await applied(lane, end), await applied(lane, end)] == [True, False]
    assert await applied(lane, put())
    assert len(list((await a_book()).current())) == 1


async def test_two_people_put_in_force_what_needs_two_and_the_issuer_is_one_of_them(lane, a_book):
    now = CLOCK.now()
    order = put("incident", "break_glass", people=2, expires_at=now + timedelta(minutes=15))
    assert await applied(lane, order)
    assert (await a_book()).current().activations(now) == ()

    def confirm(by: str) -> ConfirmOrder:
        until = CLOCK.now() + timedelta(minutes=5)
        return ConfirmOrder(order_id=order.order_id, confirmed_by=by, confirmed_at=CLOCK.now(), expires_at=until)

    assert not await applied(lane, confirm("alice"))
    assert await applied(lane, confirm("bob"))
    assert not await applied(lane, confirm("carol"))
    (activation,) = (await a_book()).current().activations(CLOCK.now())
    assert activation.behind() == {"alice", "bob"}
    assert activation.expires_at <= CLOCK.now() + timedelta(minutes=5)


async def test_nobody_counts_twice(lane, a_book):
    order = put("incident", "break_glass", people=3, expires_at=CLOCK.now() + timedelta(minutes=15))
    assert await applied(lane, order)
    confirm = ConfirmOrder(order_id=order.order_id, confirmed_by="bob", confirmed_at=CLOCK.now(), expires_at=None)

    assert [await applied(lane, confirm), await applied(lane, confirm)] == [True, False]
    assert (await a_book()).current().activations(CLOCK.now()) == ()


async def test_a_lapsed_order_takes_no_more_people(lane):
    order = put("incident", "break_glass", people=2, expires_at=CLOCK.now() + timedelta(milliseconds=1))
    assert await applied(lane, order)
    await asyncio.sleep(0.01)

    late = ConfirmOrder(order_id=order.order_id, confirmed_by="bob", confirmed_at=CLOCK.now(), expires_at=None)
    assert not await applied(lane, late)


async def test_what_was_last_known_survives_a_start_without_the_store(lane, a_book):
    assert await applied(lane, put("agent:a"))
    await (await a_book()).look()

    later = await a_book(database="postgresql://nobody@127.0.0.1:1/none")

    assert later.are_known()
    assert later.current().halt(agent="a") is not None
    with pytest.raises(StoreUnreachable):
        later.check()


async def test_without_store_and_file_nothing_is_known(a_book):
    book = await a_book("stranger", database="postgresql://nobody@127.0.0.1:1/none")

    assert not book.are_known()


def a_halt() -> Order:
    now = CLOCK.now()
    return Order(
        order_id=IDS.new("ord_"),
        kind=OrderKind.HALT,
        scope="all",
        reason="incident 7",
        issued_at=now,
        issued_by="alice",
        in_force_at=now,
    )


async def test_an_order_that_waits_in_the_journal_counts_here_until_the_store_has_it(a_book):
    journal = [True]
    book = await a_book(in_journal=lambda: journal[0])
    await book.note(a_halt(), recorded=True)
    await book.look()
    assert book.current().halt(agent="a") is not None, "the store does not know it yet, and it stands"

    journal[0] = False
    await book.look()

    assert book.current().halt(agent="a") is None, "the store has everything now, and refused it"


async def test_an_order_counts_from_before_it_is_recorded_whatever_the_store_says(a_book):
    """A halt that flickers while its record is being committed is no halt."""
    book = await a_book()
    halt = a_halt()
    await book.note(halt, recorded=False)
    await book.look()
    assert book.current().halt(agent="a") == halt

    await book.note(halt, recorded=True)
    await book.look()

    assert book.current().halt(agent="a") is None


async def test_an_order_given_here_survives_a_restart_in_the_outage(a_book):
    book = await a_book(in_journal=lambda: True)
    await book.note(a_halt(), recorded=True)

    later = await a_book(database="postgresql://nobody@127.0.0.1:1/none")

    assert later.current().halt(agent="a") is not None


async def test_what_waits_in_the_journal_survives_a_restart_that_finds_the_store(a_book):
    """The store does not know it yet: neither the order, nor the end of one that it still calls standing."""
    book = await a_book(in_journal=lambda: True)
    await book.note(a_halt(), recorded=True)

    later = await a_book(in_journal=lambda: True)

    assert later.current().halt(agent="a") is not None


async def test_an_end_that_waits_in_the_journal_survives_a_restart(lane, a_book):
    """Or a restart at the end of an outage would open again what somebody ended in it."""
    now = CLOCK.now()
    assert await applied(lane, put("low", "override", expires_at=now + timedelta(minutes=5)))
    book = await a_book(in_journal=lambda: True)
    order = book.current().override(Impact.LOW, now)
    await book.note(replace(order, ended_at=now), recorded=True)

    later = await a_book(in_journal=lambda: True)

    assert later.current().override(Impact.LOW, now) is None


# --- overrides that run out -------------------------------------------------------------------------------------------


def override(seconds: float, scope: str = "low") -> PutOrder:
    return put(scope, "override", expires_at=CLOCK.now() + timedelta(seconds=seconds))


async def told(url: str) -> list[tuple[str, str]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch("SELECT kind, dedupe_key FROM notices")]
    finally:
        await connection.close()


async def records(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(
            "SELECT count(*) FROM audit_records WHERE convert_from(body, 'UTF8') LIKE '%override.expired%'"
        )
    finally:
        await connection.close()


@pytest.fixture
async def a_clock(url):
    """Return a maker of the clocks of overrides, each as of another worker."""
    pools = []

    async def make(lane) -> Lapsing:
        pool = ReadPool(url, size=1)
        await pool.start()
        pools.append(pool)
        return Lapsing(orders=PostgresLapsed(pool), recorder=lane, clock=CLOCK, ids=IDS)

    yield make
    for pool in pools:
        await pool.close()


async def test_an_override_that_ran_out_is_ended_and_told_once_whoever_notices(lane, url, a_clock, tmp_path):
    over, standing = override(-1), override(60, "medium")
    for effect in (over, standing):
        assert await applied(lane, effect)

    async with open_lane(url, tmp_path / "other", name="other") as other:
        clocks = [await a_clock(lane), await a_clock(other)]
        for _ in range(2):
            await asyncio.gather(*(clock.tick() for clock in clocks))

    assert await told(url) == [("override.expired", f"order:{over.order_id}")]


async def test_an_override_that_an_operator_ended_does_not_run_out_as_well(lane, url, a_clock):
    order = override(-1)
    assert await applied(lane, order)
    assert await applied(lane, EndOrder(order_id=order.order_id, ended_at=CLOCK.now(), ended_by="bob", note="over"))
    before = await records(url)
    await (await a_clock(lane)).tick()
    assert await told(url) == []
    assert await records(url) == before, "nothing is tried every second for ever"


async def test_nothing_else_than_an_override_runs_out_like_this(lane, url, a_clock):
    assert await applied(lane, put("incident", "break_glass", expires_at=CLOCK.now() - timedelta(seconds=1)))
    assert await applied(lane, put())
    await (await a_clock(lane)).tick()
    assert await told(url) == []
