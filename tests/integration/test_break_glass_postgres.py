"""Break-glass on a real PostgreSQL: the exact cap, what comes from a journal, reviews, and what a restart remembers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from fakes.recording_entries import consume, open_intent
from integration.opening_rows import CLOCK, IDS, a_use, activated, applied, close, imported, put, uses
from world import FakeClock, World

from services.decision.break_glass import Terms
from services.decision.orders import Order, OrderKind
from services.order_effects import ConfirmOrder, EndOrder
from services.postgres.break_glass import BreakGlassBook
from services.postgres.pool import ReadPool
from services.postgres.reviews import PostgresReviews
from services.provision import open_lane

pytestmark = pytest.mark.integration
pytest_plugins = ["integration.stored"]
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"
TERMS = Terms(
    categories=frozenset({"money"}),
    agents=("bot",),
    environments=frozenset({"production"}),
    max_uses=2,
    review_hours=24,
)


@pytest.fixture
async def lane(url, tmp_path):
    async with open_lane(url, tmp_path, name="glass") as found:
        yield found


@pytest.fixture
async def a_book(url, tmp_path):
    """Return a maker of books of one replica, with or without its store."""
    pools = []

    async def make(*, in_journal=lambda: False, database: str = url, clock=CLOCK, instance: str = "api"):
        pool = ReadPool(database, size=1)
        await pool.start()
        pools.append(pool)
        file = tmp_path / f"break-glass-{instance}.json"
        book = BreakGlassBook(pool, file, instance=instance, clock=clock, in_journal=in_journal)
        await book.start()
        return book

    yield make
    for pool in pools:
        await pool.close()


# --- the cap ----------------------------------------------------------------------------------------------------------


async def test_of_any_number_of_racing_uses_no_more_than_the_cap_are_stored(url, tmp_path, lane, pool):
    activation = await activated(lane)
    async with open_lane(url, tmp_path, name="other") as other:
        racing = [applied(here, a_use(activation)) for here in (lane, other) for _ in range(6)]
        results = await asyncio.gather(*racing)

    assert results.count(True) == 2
    stored = await uses(pool, activation)
    assert [use.over_cap for use in stored] == [False, False]
    async with pool.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM intents") == 2, "a refused use leaves no intent behind"


@pytest.mark.parametrize("state", ["unknown", "pending", "expired", "ended", "another kind"])
async def test_a_live_use_needs_an_activation_in_force(lane, pool, state):
    activation = "brk_unknown"
    if state == "pending":
        activation = await activated(lane, people=2)
    elif state == "expired":
        activation = await activated(lane, expires_at=CLOCK.now())
    elif state == "ended":
        activation = await activated(lane)
        end = EndOrder(order_id=activation, ended_at=CLOCK.now(), ended_by="bob", note="over")
        assert await applied(lane, end)
    elif state == "another kind":
        activation = await activated(lane, kind="override", scope="low")

    assert not await applied(lane, a_use(activation))
    assert await uses(pool, activation) == []


async def test_uses_and_ordinary_intents_share_a_batch(lane):
    activation = await activated(lane)
    effects = [
        a_use(activation),
        open_intent("int_plain"),
        a_use(activation),
        open_intent("int_plain"),
        a_use(activation),
    ]
    assert await asyncio.gather(*(applied(lane, effect) for effect in effects)) == [True, True, True, False, False]


async def test_a_use_whose_token_was_thrown_away_is_none(lane, pool):
    activation = await activated(lane)
    thrown_away = a_use(activation)
    assert await applied(lane, thrown_away)
    over = open_intent(thrown_away.intent_id, over_jti=thrown_away.jti)
    assert await applied(lane, over)

    assert [await applied(lane, a_use(activation)) for _ in range(3)] == [True, True, False]
    assert [use.voided_at is not None for use in await uses(pool, activation)] == [True, False, False]
    assert thrown_away.use.review_id not in {use.review_id for use in await PostgresReviews(pool).open(limit=9)}


# --- from a journal ---------------------------------------------------------------------------------------------------


async def test_what_left_in_an_outage_is_kept_and_says_that_it_was_too_much(url, lane, pool):
    activation = await activated(lane)
    assert await imported(url, *(a_use(activation) for _ in range(3))) == frozenset()
    assert [use.over_cap for use in await uses(pool, activation)] == [False, False, True]
    assert not await applied(lane, a_use(activation))


async def test_what_left_after_an_end_that_was_not_heard_says_so(url, lane, pool):
    activation = await activated(lane)
    assert await applied(lane, EndOrder(order_id=activation, ended_at=CLOCK.now(), ended_by="bob", note="over"))
    assert await imported(url, a_use(activation)) == frozenset()
    (use,) = await uses(pool, activation)
    assert use.after_end


async def test_an_activation_and_its_uses_come_in_one_batch(url, pool):
    order = put()
    first, second = a_use(order.order_id), a_use(order.order_id)
    assert await imported(url, order, first, second, consume(first.intent_id, first.jti)) == frozenset()
    assert [use.after_end for use in await uses(pool, order.order_id)] == [False, False]


async def test_a_use_whose_intent_is_refused_is_a_use_all_the_same(url, lane, pool):
    """Its token left; that nothing stands behind it any more is what the executor is told."""
    activation = await activated(lane)
    assert await applied(lane, open_intent("int_before", idempotency_key="key"))
    use = a_use(activation, idempotency_key="key")
    assert await imported(url, use) == frozenset({0})
    assert [found.intent_id for found in await uses(pool, activation)] == [use.intent_id]


# --- reviews ----------------------------------------------------------------------------------------------------------


async def test_who_stands_behind_an_activation_closes_no_review_of_its_uses(lane, pool):
    activation = await activated(lane, people=2)
    until = CLOCK.now() + timedelta(minutes=5)
    confirm = ConfirmOrder(order_id=activation, confirmed_by="bob", confirmed_at=CLOCK.now(), expires_at=until)
    assert await applied(lane, confirm)
    assert await applied(lane, a_use(activation))
    (use,) = await uses(pool, activation)

    assert [await applied(lane, close(use.review_id, by)) for by in ("alice", "bob", "carol", "dora")] == [
        False,
        False,
        True,
        False,
    ]
    (use,) = await uses(pool, activation)
    assert (use.closed_by, use.verdict) == ("carol", "justified")
    assert await PostgresReviews(pool).open(limit=9) == []


async def test_a_use_behind_which_nobody_is_known_to_stand_is_closed_by_nobody(url, lane, pool):
    assert await imported(url, a_use("brk_unknown")) == frozenset()
    (use,) = await uses(pool, "brk_unknown")
    assert not await applied(lane, close(use.review_id, "carol"))


# --- what a replica remembers -----------------------------------------------------------------------------------------


def an_activation(**changes) -> Order:
    now = CLOCK.now()
    given = {
        "order_id": IDS.new("brk_"),
        "kind": OrderKind.BREAK_GLASS,
        "scope": "money",
        "reason": "incident 7",
        "issued_at": now,
        "issued_by": "alice",
        "in_force_at": now,
        "expires_at": now + timedelta(minutes=10),
        "document": {"home": "api", "max_uses": 2},
    }
    return Order(**given | changes)


def a_request(world: World, agent: str = "bot"):
    """Return as much of a request as a book looks at."""
    classified = SimpleNamespace(category="money", environment="production")
    return SimpleNamespace(agent=agent, intent_id=IDS.new("int_"), classified=classified, now=world.clock.now())


async def take(book, activation, key: str | None = None):
    return await book.take(activation, TERMS, a_request(World()), idempotency_key=key)


async def test_a_process_that_is_killed_in_an_outage_counts_on_where_it_stood(a_book):
    book = await a_book()
    journal = {"in_journal": lambda: True}
    activation = an_activation()
    await book.note(activation)
    book = await a_book(database=NOWHERE, **journal)
    assert await take(book, activation) is not None

    later = await a_book(database=NOWHERE, **journal)

    assert later.used(activation.order_id) == 1
    assert [order.order_id for order in later.recent()] == [activation.order_id]
    assert await take(later, activation) is not None
    assert await take(later, activation) is None
    assert await take(await a_book(database=NOWHERE, **journal), activation) is None


async def test_a_key_that_let_something_pass_lets_nothing_pass_again(a_book):
    """A restart forgets the answer to a repetition; a second token for the same wish would be a second effect."""
    await a_book()
    activation = an_activation()
    book = await a_book(database=NOWHERE, in_journal=lambda: True)
    await book.note(activation)
    assert await take(book, activation, key="k") is not None

    later = await a_book(database=NOWHERE, in_journal=lambda: True)

    assert await take(later, activation, key="k") is None
    assert await take(later, activation, key="other") is not None


async def test_a_use_that_became_a_row_counts_once(url, lane, a_book):
    activation = replace(an_activation(), order_id=await activated(lane))
    journal = [True]
    book = await a_book(in_journal=lambda: journal[0])
    use = await take(book, activation)
    stored = a_use(activation.order_id, use=use)
    stored = replace(stored, intent_id=use.review_id.replace("rev_", "int_"))
    assert await imported(url, stored) == frozenset()

    await book.look()

    assert book.used(activation.order_id) == 1
    assert await take(book, activation) is not None
    assert await take(book, activation) is None


async def test_a_use_that_never_became_a_row_is_forgotten_once_it_cannot_any_more(a_book):
    clock = FakeClock()
    activation = an_activation(
        expires_at=clock.now() + timedelta(minutes=10), issued_at=clock.now(), in_force_at=clock.now()
    )
    journal = [True]
    book = await a_book(in_journal=lambda: journal[0], clock=clock)
    assert await take(book, activation) is not None
    clock.advance(31)
    await book.look()
    assert book.used(activation.order_id) == 1, "it may wait in the journal"

    journal[0] = False
    await book.look()

    assert book.used(activation.order_id) == 0


async def test_in_an_outage_only_the_home_lets_pass(a_book):
    activation = an_activation(document={"home": "another", "max_uses": 2})
    journal = [False]
    book = await a_book(in_journal=lambda: journal[0])
    use = await take(book, activation)
    assert not use.at_home
    journal[0] = True
    assert await take(book, activation) is None


async def test_at_home_nothing_passes_that_a_restart_would_forget(a_book, tmp_path):
    book = await a_book()
    book._file = tmp_path / "no such directory" / "file.json"
    assert await take(book, an_activation()) is None


async def test_without_store_and_file_nothing_passes(a_book):
    book = await a_book(database=NOWHERE, in_journal=lambda: True, instance="stranger")
    assert not book.are_known()
    assert await take(book, an_activation(document={"home": "stranger", "max_uses": 2})) is None
