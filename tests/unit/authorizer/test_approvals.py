"""A hold is lifted by the right people, an outage is answered for by people, and a rule's no by nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from holdfast.intent import Context
from holdfast.reasons import Cause, Decision, Mode, ReasonCode, Status
from holdfast.token import verify_signature

from services.decision.approvals import Approval
from services.decision.bundle import read_bundle
from services.decision.orders import Order, OrderKind, Orders
from services.decision.policy import Policy
from services.judgement import WaitingIntent, action_of
from tests.world import BUNDLE, START, Fault, World

OWNED = {
    **BUNDLE,
    "agents/support.yaml": BUNDLE["agents/support.yaml"].replace(b"name: support}", b"name: support, owner: Alice}"),
}
TWO = {**BUNDLE, "rules/refunds.cedar": BUNDLE["rules/refunds.cedar"].replace(b'"finance")', b'"finance:2")')}


def held(world: World, *, cents: int = 60_000, **changes) -> WaitingIntent:
    intent = world.refund(cents=cents, **changes)
    return replace(world.waiting_intent(intent, epoch=None), held=True, attended={"by": "operator:alice"})


def queued(world: World, *, cents: int = 4_200, **changes) -> WaitingIntent:
    return replace(held(world, cents=cents, **changes), held=False)


def approve(world: World, waiting: WaitingIntent, by: str, **changes) -> Approval:
    policy = world.policies.current()
    approval = Approval(
        approval_id=world.ids.new("apr_"),
        intent_id=waiting.ask.intent_id,
        act_hash=action_of(waiting.ask.intent, policy.classify(waiting.ask.intent).executor).digest(),
        bundle=policy.digest,
        approved_by=by,
        roles=("finance",),
        approved_at=world.clock.now(),
        note="seen",
    )
    world.approvals.stored.append(replace(approval, **changes))
    return approval


def no_evaluation(world: World) -> None:
    world.boundaries.evaluation.force_open("a test")


# --- a hold -----------------------------------------------------------------------------------------------------------


async def test_one_approval_of_the_role_makes_a_hold_claimable_and_the_token_names_it():
    world = World()
    waiting = held(world)
    approval = approve(world, waiting, "alice")

    late = await world.authorizer.reconsider(waiting)
    claimed = await world.authorizer.claim(waiting)

    assert (late.status, late.decision, late.token) == (Status.CLAIMABLE, Decision.ALLOW, None)
    claims = verify_signature(claimed.token, world.signer.verify_keys())
    assert (claims.mode, claims.apr) == ("normal", approval.approval_id)
    decisions = world.recorder.entries("decision")
    assert [entry.members["approvals"] for entry in decisions] == [[approval.approval_id]] * 2
    assert not any("elevated" in entry.members for entry in decisions)
    assert not any("review_id" in entry.members or entry.effect.use for entry in decisions)


async def test_without_an_approval_a_hold_stays_one():
    """The empty case."""
    world = World()
    waiting = held(world)

    outcome = await world.authorizer.reconsider(waiting)
    claimed = await world.authorizer.claim(waiting)

    assert {outcome.status, claimed.status} == {Status.HELD}
    assert world.signer.signed == []


@pytest.mark.parametrize(
    "changes",
    [
        {"approved_by": "mallory"},
        {"act_hash": "sha-256:" + "A" * 43},
        {"bundle": "sha256:" + "0" * 64},
        {"intent_id": "int_of_somebody_else"},
    ],
)
async def test_an_approval_counts_for_this_action_this_bundle_and_the_role_alone(changes):
    world = World()
    waiting = held(world)
    approve(world, waiting, "alice", **changes)

    outcome = await world.authorizer.reconsider(waiting)

    assert (outcome.status, outcome.reason_code) == (Status.HELD, ReasonCode.APPROVAL_REQUIRED)
    assert (await world.authorizer.claim(waiting)).token is None
    assert ("do not count" in outcome.detail) is ("intent_id" not in changes)


async def test_two_are_two_people():
    world = World(bundle=TWO)
    waiting = held(world)
    first = approve(world, waiting, "alice")
    approve(world, waiting, "alice")

    assert (await world.authorizer.reconsider(waiting)).status is Status.HELD

    second = approve(world, waiting, "bob")
    claimed = await world.authorizer.claim(waiting)
    assert (
        verify_signature(claimed.token, world.signer.verify_keys()).apr == f"{first.approval_id},{second.approval_id}"
    )


@pytest.mark.parametrize("whose", ["owner", "user:alice", "USER:Alice", "alice"])
async def test_what_ones_own_agent_asked_for_ones_approval_does_not_lift(whose):
    world = World(bundle=OWNED if whose == "owner" else None)
    context = Context(environment="production", on_behalf_of=None if whose == "owner" else whose)
    waiting = held(world, context=context)
    approve(world, waiting, "alice")

    assert (await world.authorizer.reconsider(waiting)).status is Status.HELD

    approve(world, waiting, "bob")
    assert (await world.authorizer.reconsider(waiting)).status is Status.CLAIMABLE


@pytest.mark.parametrize("with_people", ["alice", "bob"])
async def test_no_approval_overrides_a_denial(with_people):
    world = World()
    waiting = held(world, cents=600_000)
    approve(world, waiting, with_people)

    outcome = await world.authorizer.reconsider(waiting)

    assert (outcome.status, outcome.reason_code) == (Status.DENIED, ReasonCode.POLICY_DENIED)


async def test_a_bundle_that_changes_between_approval_and_claim_takes_the_approval_away():
    world = World()
    waiting = held(world)
    approve(world, waiting, "alice")
    assert (await world.authorizer.reconsider(waiting)).status is Status.CLAIMABLE

    world.policies.policy = Policy.compile(read_bundle(OWNED))
    claimed = await world.authorizer.claim(waiting)

    assert (claimed.status, claimed.token) == (Status.HELD, None)
    assert "1 of the approvals given do not count here" in claimed.detail


async def test_approvals_that_cannot_be_read_lift_nothing():
    world = World()
    waiting = held(world)
    approve(world, waiting, "alice")
    world.approvals.fault = Fault.DOWN

    claimed = await world.authorizer.claim(waiting)

    assert (claimed.reason_code, claimed.cause) == (ReasonCode.EVALUATION_UNAVAILABLE, Cause.STORE_UNREACHABLE)
    assert world.signer.signed == []


async def test_nobody_approves_before_an_intent_is_asked():
    """A first submission never looks for approvals, whatever id it may have been given."""
    world = World()
    ask = world.ask(world.refund(cents=60_000))
    approve(world, WaitingIntent(ask=ask, version=1, epoch=None), "alice")

    assert (await world.authorizer.submit(ask)).status is Status.HELD


async def test_an_approved_hold_that_cannot_be_evaluated_waits_in_line():
    world = World()
    waiting = held(world)
    approve(world, waiting, "alice")
    approve(world, waiting, "bob")
    no_evaluation(world)

    outcome = await world.authorizer.reconsider(waiting)

    assert (outcome.status, outcome.cause) == (Status.QUEUED, Cause.CIRCUIT_OPEN)
    [entry] = world.recorder.entries("decision")
    effect = entry.effect
    assert (effect.status, effect.queue_state, effect.epoch) == ("queued", "waiting", None)


async def test_a_hold_that_fails_by_itself_stays_where_it_is():
    world = World()
    waiting = held(world)
    approve(world, waiting, "alice")
    world.evaluator.fault = Fault.SILENT

    outcome = await world.authorizer.reconsider(waiting)

    assert outcome.cause is Cause.POLICY_ERROR
    assert world.recorder.entries() == []


async def test_a_held_intent_is_not_counted_against_its_agents_limit_again():
    world = World()
    limited = replace(
        world.waiting_intent(world.search(), agent="limited", epoch=None), held=True, attended={"by": "operator:alice"}
    )
    for _ in range(5):
        assert (await world.authorizer.reconsider(limited)).status is Status.CLAIMABLE


async def test_what_is_drained_and_lifted_counts_once_against_its_agents_limit():
    limited = BUNDLE["agents/support.yaml"] + b"  rateLimit: {maxCallsPerMinute: 1}\n"
    world = World(bundle={**BUNDLE, "agents/support.yaml": limited})
    waiting = replace(held(world), held=False, attended={}, epoch=1)
    approve(world, waiting, "alice")

    assert (await world.authorizer.reconsider(waiting)).status is Status.CLAIMABLE
    assert world.limits.calls == {"support": 1}


# --- an outage --------------------------------------------------------------------------------------------------------


async def test_two_people_permit_what_cannot_be_evaluated_and_everything_says_so():
    world = World()
    waiting = queued(world)
    approvals = [approve(world, waiting, "carol").approval_id, approve(world, waiting, "dave").approval_id]
    no_evaluation(world)

    late = await world.authorizer.reconsider(waiting)
    claimed = await world.authorizer.claim(waiting)

    assert (late.status, late.mode) == (Status.CLAIMABLE, Mode.OPERATOR)
    claims = verify_signature(claimed.token, world.signer.verify_keys())
    assert (claims.mode, claims.apr) == ("operator", ",".join(approvals))
    assert claimed.determining == tuple(f"operator:{approval}" for approval in approvals)
    for entry in world.recorder.entries("decision"):
        assert (entry.members["mode"], entry.members["elevated"]) == ("operator", True)
        assert entry.members["instead_of"] == "circuit_open"
        assert entry.members["approvals"] == approvals
    late, grant = world.recorder.entries()
    assert (late.effect.use, "review_id" in late.members) == (None, False), "a late allow is no token yet"
    use = grant.effect.use
    assert (use.mode, use.approvals, use.activation) == (Mode.OPERATOR, tuple(approvals), None)
    assert use.review_due_at == START + timedelta(hours=24)
    assert grant.members["review_id"] == use.review_id
    assert grant.notices[0].details["review_id"] == use.review_id


@pytest.mark.parametrize("people", [[], ["carol"], ["carol", "carol"], ["carol", "Carol"]])
async def test_high_impact_takes_two_different_people(people):
    world = World()
    waiting = queued(world)
    for name in people:
        approve(world, waiting, name)
    no_evaluation(world)

    assert (await world.authorizer.reconsider(waiting)).status is Status.QUEUED
    assert (await world.authorizer.claim(waiting)).token is None
    assert world.recorder.entries("decision") == []


async def test_low_impact_takes_one():
    world = World()
    intent = world.search()
    waiting = replace(world.waiting_intent(intent, epoch=None), attended={"by": "operator:carol"})
    approve(world, waiting, "carol")
    no_evaluation(world)

    assert (await world.authorizer.claim(waiting)).mode is Mode.OPERATOR


async def test_one_who_asked_is_not_one_of_the_two():
    world = World(bundle=OWNED)
    waiting = queued(world)
    approve(world, waiting, "alice")
    approve(world, waiting, "carol")
    no_evaluation(world)

    assert (await world.authorizer.reconsider(waiting)).status is Status.QUEUED


@pytest.mark.parametrize(("cents", "people"), [(600_000, ["alice", "bob"]), (60_000, ["carol", "dave"])])
async def test_what_the_last_known_policy_would_not_allow_nobody_permits_in_an_outage(cents, people):
    """A denial, and a hold for a role that neither of the two has."""
    world = World()
    waiting = queued(world, cents=cents)
    for name in people:
        approve(world, waiting, name)
    no_evaluation(world)

    assert (await world.authorizer.reconsider(waiting)).status is Status.QUEUED
    assert (await world.authorizer.claim(waiting)).token is None


async def test_a_hold_in_an_outage_is_lifted_by_its_own_people():
    world = World()
    waiting = queued(world, cents=60_000)
    approve(world, waiting, "alice")
    approve(world, waiting, "carol")
    no_evaluation(world)

    assert (await world.authorizer.reconsider(waiting)).mode is Mode.OPERATOR


@pytest.mark.parametrize("fault", [Fault.SILENT, Fault.WRONG, Fault.SLOW])
async def test_a_failure_of_the_evaluation_itself_is_answered_for_by_nobody(fault):
    world = World()
    waiting = queued(world)
    approve(world, waiting, "carol")
    approve(world, waiting, "dave")
    world.evaluator.fault = fault

    assert (await world.authorizer.reconsider(waiting)).status is Status.QUEUED
    assert (await world.authorizer.claim(waiting)).token is None


@pytest.mark.parametrize("broken", ["orders", "approvals", "classifier"])
async def test_without_fresh_orders_approvals_or_a_classification_nothing_opens(broken):
    world = World()
    waiting = queued(world)
    approve(world, waiting, "carol")
    approve(world, waiting, "dave")
    no_evaluation(world)
    getattr(world, broken).fault = Fault.DOWN

    assert (await world.authorizer.reconsider(waiting)).status is Status.QUEUED
    assert (await world.authorizer.claim(waiting)).token is None


async def test_a_halt_beats_the_approvals():
    world = World()
    waiting = queued(world)
    approve(world, waiting, "carol")
    approve(world, waiting, "dave")
    no_evaluation(world)
    halt = Order(
        order_id="ord_1",
        kind=OrderKind.HALT,
        scope="all",
        reason="incident 7",
        issued_at=START,
        issued_by="erin",
        in_force_at=START,
    )
    world.orders.standing = Orders([halt])

    assert (await world.authorizer.claim(waiting)).reason_code is ReasonCode.EMERGENCY_HALT


async def test_the_drain_is_no_operator():
    """Approvals open a way in an operator's hands and in the agent's claim, never by the queue itself."""
    world = World()
    waiting = replace(queued(world), attended={}, epoch=1)
    approve(world, waiting, "carol")
    approve(world, waiting, "dave")
    no_evaluation(world)

    assert (await world.authorizer.reconsider(waiting)).status is Status.QUEUED


async def test_a_claim_evaluates_as_soon_as_it_can_again():
    world = World()
    waiting, refused = queued(world), queued(world, cents=600_000)
    for intent in (waiting, refused):
        approve(world, intent, "carol")
        approve(world, intent, "dave")

    claimed, denied = await world.authorizer.claim(waiting), await world.authorizer.claim(refused)

    claims = verify_signature(claimed.token, world.signer.verify_keys())
    assert (claims.mode, claims.apr) == ("normal", None)
    assert (denied.status, denied.token) == (Status.DENIED, None)
    assert not any("review_id" in entry.members for entry in world.recorder.entries())


async def test_what_cannot_be_recorded_with_its_review_lets_no_token_leave():
    world = World()
    waiting = queued(world)
    approve(world, waiting, "carol")
    approve(world, waiting, "dave")
    no_evaluation(world)
    world.recorder.fault = Fault.DOWN

    assert (await world.authorizer.claim(waiting)).token is None
    assert world.signer.signed == []
