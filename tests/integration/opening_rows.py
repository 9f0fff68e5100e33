"""Activations, and uses of every mode, as effects, for tests on a real PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

from fakes.recording_entries import Stream, open_intent
from holdfast.reasons import Mode

from services.decision.review import CloseReview, ReviewVerdict, Use
from services.order_effects import PutOrder
from services.ports import Entry
from services.postgres.reviews import PostgresReviews
from services.postgres.sink import PostgresSink
from services.system import SystemClock, SystemIds

CLOCK = SystemClock()
IDS = SystemIds()


async def applied(lane, effect) -> bool:
    entry = Entry(kind="glass.test", at=CLOCK.now(), effect=effect, journal_may_release=True)
    return (await lane.append(entry).settled()).applied


def put(**changes) -> PutOrder:
    given = {
        "order_id": IDS.new("brk_"),
        "kind": "break_glass",
        "scope": "money",
        "document": {"max_uses": 2, "home": "api"},
        "reason": "incident 7",
        "issued_at": CLOCK.now(),
        "issued_by": "alice",
        "people": 1,
        "expires_at": CLOCK.now() + timedelta(minutes=10),
    }
    return PutOrder(**given | changes)


async def activated(lane, **changes) -> str:
    order = put(**changes)
    assert await applied(lane, order)
    return order.order_id


def a_use(activation: str, **changes):
    """Return the effect of a granted intent and its use."""
    intent_id, at = IDS.new("int_"), CLOCK.now()
    use = Use(
        mode=Mode.BREAK_GLASS,
        activation=activation,
        review_id=intent_id.replace("int_", "rev_"),
        instance="api",
        category="money",
        environment="production",
        max_uses=2,
        review_due_at=at + timedelta(hours=24),
        at_home=True,
    )
    given = {"jti": IDS.token_id(), "use": use, "decided_at": at, "created_at": at}
    return open_intent(intent_id, **given | changes)


def a_way(mode: Mode = Mode.FAIL_OPEN, **changes) -> Use:
    given = {
        "mode": mode,
        "review_id": IDS.new("rev_"),
        "activation": None,
        "instance": "api",
        "category": "note.read",
        "environment": "production",
        "review_due_at": CLOCK.now() + timedelta(hours=24),
    }
    return Use(**given | changes)


def fell_open(**changes):
    """Return the effect of an intent that failed open."""
    at = CLOCK.now()
    given = {"jti": IDS.token_id(), "use": a_way(), "decided_at": at, "created_at": at}
    return open_intent(IDS.new("int_"), **given | changes)


async def uses(pool, activation: str):
    return await PostgresReviews(pool).of(activation, limit=100)


async def imported(url, *effects) -> frozenset[int]:
    """Store effects as a recovering lane stores those of its journal."""
    sink = PostgresSink(url)
    await sink.connect("glass-import")
    refused = await sink.commit_batch(Stream(IDS.new("str_")).batch(*effects, recovering=True))
    await sink.close()
    return refused


def close(review_id: str, by: str) -> CloseReview:
    return CloseReview(
        review_id=review_id, closed_by=by, closed_at=CLOCK.now(), verdict=ReviewVerdict.JUSTIFIED, note="looked at it"
    )
