"""What policy says after the fact of a token that left around it, and what of that is flagged."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from holdfast.intent import Context
from holdfast.reasons import Mode
from world import BUNDLE, START, World

from services.aftermath import Aftermath
from services.decision.bundle import read_bundle
from services.decision.policy import Policy
from services.decision.replay import Recorded
from services.postgres.reviews import UseRow


def a_row(mode: Mode, *, behind: tuple[str, ...] | None = None, number: int = 1) -> UseRow:
    return UseRow(
        review_id=f"rev_{number}",
        mode=mode,
        intent_id=f"int_{number}",
        activation=None,
        policy=None,
        agent="support",
        category="finance.refund",
        environment="production",
        jti=f"jti_{number}",
        instance="api",
        used_at=START,
        due_at=START + timedelta(hours=24),
        over_cap=False,
        after_end=False,
        voided_at=None,
        reminded_at=START,
        reconciled_at=None,
        would=None,
        flagged=None,
        closed_at=None,
        closed_by=None,
        verdict=None,
        note=None,
        behind=behind,
    )


class Stored:
    """The reviews and decisions of a test."""

    def __init__(self, world: World, rows: list[UseRow], cents: int, context: Context | None) -> None:
        self.rows = rows
        intent = world.refund(cents=cents) if context is None else world.refund(cents=cents, context=context)
        self.decision = Recorded(
            intent_id="int_1",
            agent="support",
            intent=intent,
            received_at=START,
            at=START,
            drained=True,
            bundle=world.policies.current().digest,
            decision="allow",
            reason_code="ALLOWED",
            detail="permitted",
            determining=(),
            risk=None,
        )

    async def unreconciled(self, *, limit: int):
        return self.rows

    async def alone(self, *, limit: int):
        return []

    async def pile(self, now):
        return None

    async def to_sum(self, before, *, limit: int):
        return []

    async def get(self, intent_id: str):
        return self.decision


async def reconciled(*rows: UseRow, cents: int, context: Context | None = None, now: dict[str, bytes] | None = None):
    """Return the records of what policy said of these uses, of then and of `now`."""
    world = World()
    stored = Stored(world, list(rows), cents, context)
    then = world.policies.current()
    if now is not None:
        world.policies.policy = Policy.compile(read_bundle(now))
    aftermath = Aftermath(
        reviews=stored,
        decisions=stored,
        bundles=None,
        policies=world.policies,
        recorder=world.recorder,
        clock=world.clock,
        ids=world.ids,
    )
    aftermath._compiled[then.digest] = then
    await aftermath.tick()
    return world.recorder.entries("review.reconciled")


@pytest.mark.parametrize(
    ("cents", "people", "says"),
    [
        (4_200, ("carol", "dave"), "allow"),
        (60_000, ("alice", "carol"), "allow"),  # a hold that one of those who approved lifts
        (60_000, ("carol", "dave"), "hold"),  # one that none of them lifts
        (600_000, ("alice", "bob"), "deny"),  # a rule's no, which no approval lifts
        (60_000, (), "hold"),  # nobody knows who approved
    ],
)
async def test_in_operator_mode_what_the_same_approvals_lift_is_not_flagged_and_a_denial_is(cents, people, says):
    [entry] = await reconciled(a_row(Mode.OPERATOR, behind=people), cents=cents)

    assert [entry.members["would"][when]["decision"] for when in ("then", "now")] == [says, says]
    assert entry.members["flagged"] is entry.effect.flagged is (says != "allow")
    assert [(notice.kind, notice.dedupe_key) for notice in entry.notices] == (
        [] if says == "allow" else [("review.flagged", "review:rev_1")]
    )


async def test_the_approval_of_whoever_asked_lifts_nothing_afterwards_either():
    context = Context(environment="production", on_behalf_of="user:Alice")
    [entry] = await reconciled(a_row(Mode.OPERATOR, behind=("alice", "carol")), cents=60_000, context=context)
    assert entry.members["flagged"] is True


@pytest.mark.parametrize("mode", [Mode.FAIL_OPEN, Mode.BREAK_GLASS])
async def test_who_stands_behind_an_order_has_approved_no_intent(mode):
    [entry] = await reconciled(a_row(mode, behind=("alice", "bob")), cents=60_000)
    assert entry.members["would"]["then"]["decision"] == "hold"
    assert entry.members["flagged"] is True


async def test_what_the_policies_of_now_would_deny_is_flagged():
    stricter = {**BUNDLE, "rules/refunds.cedar": BUNDLE["rules/refunds.cedar"].replace(b"500000", b"40000")}
    [entry] = await reconciled(a_row(Mode.OPERATOR, behind=("alice", "bob")), cents=45_000, now=stricter)
    assert [entry.members["would"][when]["decision"] for when in ("then", "now")] == ["allow", "deny"]
    assert entry.members["flagged"] is True


async def test_of_much_that_failed_open_one_notice_tells():
    rows = [a_row(Mode.FAIL_OPEN, number=number) for number in range(50)]
    entries = await reconciled(*rows, replace(rows[0], mode=Mode.BREAK_GLASS, review_id="rev_glass"), cents=600_000)

    assert all(entry.members["flagged"] for entry in entries)
    told = [notice for entry in entries for notice in entry.notices]
    assert [(notice.kind, notice.dedupe_key) for notice in told] == [
        ("review.flagged", "review:fail_open"),
        ("break_glass.flagged", "review:rev_glass"),
    ]
    assert told[0].details["uses"] == "50"
