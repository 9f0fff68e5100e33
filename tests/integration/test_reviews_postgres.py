"""Reviews on a real PostgreSQL: none is missing that a token left for, and nobody closes what they stand behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import asyncpg
import orjson
import pytest
from fakes.recording_entries import AT, Stream, consume, move_intent, open_intent, verify, waiting_intent
from holdfast.reasons import Mode
from integration.opening_rows import (
    CLOCK,
    IDS,
    a_use,
    a_way,
    activated,
    applied,
    close,
    fell_open,
    imported,
    put,
    uses,
)

from services.decision.approvals import Approval
from services.decision.review import RemindPile
from services.ports import Entry
from services.postgres.break_glass import BreakGlassBook
from services.postgres.reviews import PostgresReviews
from services.postgres.sink import PostgresSink
from services.provision import open_lane
from services.queue_effects import ApproveIntent
from services.recording.journal import Journal
from services.recording.lane import Lane, LaneSettings
from services.recording.sink import SinkFailed

pytestmark = pytest.mark.integration
pytest_plugins = ["integration.stored"]


@pytest.fixture
async def lane(url, tmp_path):
    async with open_lane(url, tmp_path, name="reviews") as found:
        yield found


@pytest.fixture
def reviews(pool):
    return PostgresReviews(pool)


async def permitted(lane, *people: str, known: bool = True, **changes):
    """Have people approve a waiting intent, and return the effect of its claim in operator mode."""
    now = CLOCK.now()
    opened = waiting_intent(IDS.new("int_"))
    opened = replace(opened, queue=replace(opened.queue, expires_at=now + timedelta(minutes=5)))
    assert await applied(lane, opened)
    approvals = [
        Approval(
            approval_id=IDS.new("apr_"),
            intent_id=opened.intent_id,
            act_hash=opened.act_hash,
            bundle="sha256:" + "0" * 64,
            approved_by=name,
            roles=(),
            approved_at=now + timedelta(milliseconds=n),
        )
        for n, name in enumerate(people)
    ]
    for version, approval in enumerate(approvals if known else approvals[:-1], start=1):
        assert await applied(lane, ApproveIntent(approval=approval, expect_version=version))
    use = a_way(Mode.OPERATOR, approvals=tuple(approval.approval_id for approval in approvals))
    given = {
        "version": len(approvals) + 1 if known else len(approvals),
        "status": "granted",
        "reason_code": "ALLOWED",
        "jti": IDS.token_id(),
        "claims": {"iss": "https://holdfast.test"},
        "decided_at": now,
        "use": use,
    }
    return move_intent(opened.intent_id, **given | changes)


# --- every token has its review ---------------------------------------------------------------------------------------


async def test_what_fails_open_and_what_people_permit_has_its_review_with_the_grant(lane, reviews):
    fell, claimed = fell_open(), await permitted(lane, "alice", "bob")
    assert [await applied(lane, effect) for effect in (fell, claimed)] == [True, True]

    of_fall, of_claim = [await reviews.get(effect.use.review_id) for effect in (fell, claimed)]

    assert (of_fall.mode, of_fall.agent, of_fall.jti, of_fall.behind) == (Mode.FAIL_OPEN, "bot", fell.jti, None)
    assert (of_claim.mode, of_claim.agent, of_claim.jti) == (Mode.OPERATOR, "bot", claimed.jti)
    assert (of_claim.intent_id, of_claim.behind) == (claimed.intent_id, ("alice", "bob"))


async def test_a_grant_that_is_refused_leaves_no_review(lane, reviews):
    known = fell_open(idempotency_key="key")
    again = fell_open(idempotency_key="key")
    stale = await permitted(lane, "alice", version=7)
    assert [await applied(lane, effect) for effect in (known, again, stale)] == [True, False, False]
    assert [use.review_id for use in await reviews.open(limit=9)] == [known.use.review_id]


async def test_a_token_that_was_thrown_away_needs_no_review_and_the_next_one_its_own(lane, reviews):
    fell, claimed = fell_open(), await permitted(lane, "alice")
    for effect in (fell, claimed):
        assert await applied(lane, effect)
        over = waiting_intent(effect.intent_id, over_jti=effect.jti)
        assert await applied(lane, replace(over, claims=None))
    assert await reviews.open(limit=9) == []

    again = replace(
        claimed,
        expect_version=claimed.expect_version + 2,
        jti=IDS.token_id(),
        use=replace(claimed.use, review_id="rev_2"),
    )
    assert await applied(lane, again)
    assert [use.jti for use in await reviews.open(limit=9)] == [again.jti]


async def test_what_comes_late_is_kept_though_its_grant_is_refused(url, lane, reviews):
    """Nothing but break-glass may rest on a journal; whatever comes from one has left all the same."""
    assert await applied(lane, fell_open(idempotency_key="key"))
    late = fell_open(idempotency_key="key")
    assert await imported(url, late) == frozenset({0})
    assert (await reviews.get(late.use.review_id)).agent == "bot"


async def test_uses_of_every_mode_share_a_batch(lane, reviews):
    activation = await activated(lane)
    claimed = await permitted(lane, "alice")
    effects = [fell_open(), a_use(activation), claimed, open_intent("int_plain"), fell_open()]
    assert await asyncio.gather(*(applied(lane, effect) for effect in effects)) == [True] * 5
    modes = sorted(use.mode for use in await reviews.open(limit=9))
    assert modes == [Mode.BREAK_GLASS, Mode.FAIL_OPEN, Mode.FAIL_OPEN, Mode.OPERATOR]


# --- who may close ----------------------------------------------------------------------------------------------------


async def test_none_of_those_who_approved_closes_the_review_whatever_the_service_asks(lane, reviews):
    claimed = await permitted(lane, "alice", "bob")
    assert await applied(lane, claimed)
    closing = [close(claimed.use.review_id, by) for by in ("alice", "bob", "Alice", "carol", "dora")]
    assert [await applied(lane, effect) for effect in closing] == [False, False, False, True, False]
    assert (await reviews.get(claimed.use.review_id)).closed_by == "carol"


async def test_where_one_of_the_approvals_is_not_known_nobody_closes(lane, reviews):
    claimed = await permitted(lane, "alice", "bob", known=False)
    assert await applied(lane, claimed)
    assert (await reviews.get(claimed.use.review_id)).behind == ()
    assert not await applied(lane, close(claimed.use.review_id, "carol"))


async def test_who_set_an_override_closes_no_review_of_what_it_let_through(lane, reviews):
    order = put(order_id=IDS.new("ord_"), kind="override", scope="low", document={"max_per_minute": 9})
    assert await applied(lane, order)
    fell = fell_open(use=a_way(activation=order.order_id))
    unknown = fell_open(use=a_way(activation="ord_unknown"))
    assert [await applied(lane, effect) for effect in (fell, unknown)] == [True, True]

    assert (await reviews.get(fell.use.review_id)).behind == ("alice",)
    assert [await applied(lane, close(fell.use.review_id, by)) for by in ("alice", "ALICE", "bob")] == [
        False,
        False,
        True,
    ]
    assert not await applied(lane, close(unknown.use.review_id, "bob"))


async def test_what_the_bundle_let_through_any_reviewer_closes_once(lane):
    fell = fell_open()
    assert await applied(lane, fell)
    assert [await applied(lane, close(fell.use.review_id, by)) for by in ("alice", "bob")] == [True, False]


async def test_only_overdue_reviews_of_break_glass_are_known_to_who_would_activate_it(lane, pool, tmp_path):
    activation, past = await activated(lane), CLOCK.now() - timedelta(hours=1)
    glass, fell = a_use(activation), fell_open()
    for effect in (replace(effect, use=replace(effect.use, review_due_at=past)) for effect in (glass, fell)):
        assert await applied(lane, effect)
    book = BreakGlassBook(pool, tmp_path / "book.json", instance="api", clock=CLOCK, in_journal=lambda: False)
    await book.look()
    assert [(review.review_id, review.is_overdue(CLOCK.now())) for review in book.open_reviews()] == [
        (glass.use.review_id, True)
    ]


# --- lists and reminders ----------------------------------------------------------------------------------------------


async def test_pages_of_either_list_hold_everything_once(lane, reviews):
    fallen = [fell_open(use=a_way(review_due_at=AT + timedelta(hours=n // 2)), decided_at=AT) for n in range(5)]
    for effect in fallen:
        assert await applied(lane, effect)
    for read, key in ((reviews.open, "due_at"), (reviews.latest, "used_at")):
        found, after = [], None
        while page := await read(limit=2, mode=Mode.FAIL_OPEN, after=after):
            found += page
            after = (getattr(page[-1], key), page[-1].review_id)
        assert sorted(use.review_id for use in found) == sorted(effect.use.review_id for effect in fallen)
        assert await read(limit=9, mode=Mode.OPERATOR) == []


async def test_all_that_failed_open_is_reminded_of_at_once_and_by_one_leader(lane, reviews):
    now = CLOCK.now()
    for _ in range(3):
        assert await applied(lane, fell_open())
    later = now + timedelta(minutes=1)
    remind = RemindPile(reminded_at=later, expected=None)
    assert [await applied(lane, remind), await applied(lane, remind)] == [True, False]

    pile = await reviews.pile(now)
    assert (pile.reviews, pile.unreminded, pile.overdue, pile.reminded_at) == (3, 0, 0, later)
    assert (await reviews.pile(now + timedelta(hours=25))).overdue == 3
    assert await reviews.counts(now + timedelta(hours=25)) == {Mode.FAIL_OPEN: (3, 3)}
    assert await reviews.alone(limit=9) == []


# --- a use that was refused unheard -----------------------------------------------------------------------------------


async def refusals(url) -> int:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval("SELECT count(*) FROM refused_effects")
    finally:
        await connection.close()


async def test_a_use_that_was_refused_unheard_is_history_once_its_home_says_that_it_left(url, lane, pool):
    activation = await activated(lane)
    assert [await applied(lane, a_use(activation)) for _ in range(2)] == [True, True]
    over, plain = a_use(activation), open_intent("int_plain")
    sink = PostgresSink(url)
    await sink.connect("glass-live")
    live = Stream(IDS.new("str_")).batch(over, plain, plain)
    assert await sink.commit_batch(live) == frozenset({0, 2}), "the cap is reached, and the intent is known"
    assert await refusals(url) == 2

    late = replace(live, recovering=True)
    assert await sink.commit_batch(late) == frozenset({2}), "what is no use stays refused"
    assert await sink.commit_batch(late) == frozenset({2}), "and once more changes nothing"

    assert await refusals(url) == 1
    assert [use.over_cap for use in await uses(pool, activation)] == [False, False, True]
    assert await applied(lane, consume(over.intent_id, over.jti))
    await sink.close()


async def test_a_use_whose_refusal_was_voided_stays_void(url, lane, pool):
    """Whoever heard of the refusal released nothing, and said so; nothing comes back."""
    activation = await activated(lane, document={"max_uses": 0})
    sink = PostgresSink(url)
    await sink.connect("glass-live")
    stream = Stream(IDS.new("str_"))
    live = stream.batch(a_use(activation))
    assert await sink.commit_batch(live) == frozenset({0})
    connection = await asyncpg.connect(url)
    await connection.execute("DELETE FROM refused_effects")
    await connection.close()

    assert await sink.commit_batch(replace(live, recovering=True)) == frozenset()
    assert await uses(pool, activation) == []
    await sink.close()


class DeafSink(PostgresSink):
    """Loses the answer to a commit when told so: the commit stands, and its caller never hears of it."""

    deaf = False

    async def commit_batch(self, batch):
        answer = await super().commit_batch(batch)
        if self.deaf:
            self.deaf = False
            raise SinkFailed("the connection was lost")
        return answer


async def test_the_log_never_says_that_a_token_did_not_leave_which_left_on_the_journal(url, tmp_path, lane, pool):
    """Two replicas: one takes the last use while the commit of the other, which it never hears of, is refused."""
    activation = await activated(lane)
    assert [await applied(lane, a_use(activation)) for _ in range(2)] == [True, True]
    sink = DeafSink(url)
    settings = LaneSettings(reconnect_first_s=0.02, reconnect_last_s=0.1)
    home = Lane(sink, Journal(tmp_path / "home"), CLOCK, IDS, instance="home", settings=settings)
    await home.start()
    back = asyncio.Event()
    home.on_mode_change = lambda in_journal: in_journal or back.set()
    try:
        sink.deaf = True
        use = a_use(activation)
        entry = Entry(kind="decision", at=CLOCK.now(), effect=use, journal_may_release=True)
        settled = await home.append(entry).settled()
        assert (settled.applied, settled.in_journal) == (True, True), "the token leaves"
        async with asyncio.timeout(30):
            await back.wait()
    finally:
        await home.stop()

    assert [found.over_cap for found in await uses(pool, activation)] == [False, False, True]
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "SELECT hash, body, seal FROM audit_records WHERE stream = $1 ORDER BY seq", settled.receipt.stream
    )
    await connection.close()
    kinds = [orjson.loads(row["body"])["kind"] for row in rows]
    assert "decision" in kinds
    assert not [kind for kind in kinds if "void" in kind]
    verify([(row["hash"], row["body"], row["seal"]) for row in rows])
