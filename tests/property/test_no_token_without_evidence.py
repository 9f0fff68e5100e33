"""Whatever dependencies do, no unrecorded or unevaluated token leaves, or it has its review. Invariants 1 and 2."""

from __future__ import annotations

import asyncio

from holdfast.reasons import Mode
from holdfast.token import verify_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from world import BUNDLE, Fault, World

from services.decision.approvals import Approval
from services.judgement import action_of

FAULTS = st.sampled_from(list(Fault))
PORTS = ("policies", "classifier", "evaluator", "store", "recorder", "signer")
STEPS = st.fixed_dictionaries({port: st.just(Fault.NONE) | FAULTS for port in PORTS})


@settings(max_examples=150, deadline=None)
@given(
    faults=st.lists(
        st.fixed_dictionaries({port: st.just(Fault.NONE) | FAULTS for port in PORTS}), min_size=1, max_size=6
    ),
    cents=st.sampled_from([1, 4_200, 60_000, 600_000, -1]),
    queue=st.booleans(),
    claiming=st.booleans(),
)
def test_whatever_dependencies_do_no_unrecorded_or_unevaluated_token_leaves(faults, cents, queue, claiming):
    async def story() -> None:
        world = World(deadline_s=0.005)
        for step in faults:
            for port, fault in step.items():
                getattr(world, port).fault = fault
            before = world.evaluator.completed
            intent = world.refund(cents=cents, queue=queue)
            if claiming:
                outcome = await world.authorizer.claim(world.waiting_intent(intent, epoch=None))
            else:
                outcome = await world.submit(intent)

            assert (outcome.http_status == 200) == (outcome.token is not None)
            if outcome.token is None:
                continue
            claims = verify_signature(outcome.token, world.signer.verify_keys())
            assert world.evaluator.completed == before + 1
            assert claims.rcp in {str(pending.receipt) for pending in world.recorder.durable}
            assert cents in {1, 4_200}
            assert all(fault is Fault.NONE for fault in step.values())

    asyncio.run(story())


@settings(max_examples=60, deadline=None)
@given(port=st.sampled_from(PORTS), fault=st.sampled_from([f for f in Fault if f is not Fault.NONE]))
def test_one_broken_dependency_is_enough_to_release_nothing(port, fault):
    """The counterpart: not vacuous, for with no fault the same intent is granted."""

    async def story() -> None:
        world = World(deadline_s=0.005)
        assert (await world.submit(world.refund(), key="healthy")).token is not None
        getattr(world, port).fault = fault
        assert (await world.submit(world.refund(), key="broken")).token is None

    asyncio.run(story())


# --- around the evaluation --------------------------------------------------------------------------------------------

OPEN = {
    **BUNDLE,
    "holdfast.yaml": BUNDLE["holdfast.yaml"] + b"fail_modes: {low: {mode: open, max_per_minute: 1000}}\n",
}


async def asked(world: World, *, claiming: bool, people: list[str]):
    """Ask for a read, or claim a refund that people approved."""
    if not claiming:
        return await world.submit(world.search(), key=None)
    waiting, policy = world.waiting_intent(world.refund(), epoch=None), world.policies.current()
    executor = policy.classify(waiting.ask.intent).executor
    world.approvals.stored += [
        Approval(
            approval_id=world.ids.new("apr_"),
            intent_id=waiting.ask.intent_id,
            act_hash=action_of(waiting.ask.intent, executor).digest(),
            bundle=policy.digest,
            approved_by=name,
            roles=(),
            approved_at=world.clock.now(),
        )
        for name in people
    ]
    return await world.authorizer.claim(waiting)


def reviewed(world: World, outcome, seen: set[str]) -> Mode:
    """Return the mode of a token, once its grant is known to carry the review of its own, and no other token's."""
    claims = verify_signature(outcome.token, world.signer.verify_keys())
    (record,) = [pending for pending in world.recorder.durable if str(pending.receipt) == claims.rcp]
    effect, mode = record.entry.effect, Mode(claims.mode)
    assert effect.jti == claims.jti
    if mode is Mode.NORMAL:
        assert effect.use is None
        assert "review_id" not in record.entry.members
        return mode
    use = effect.use
    assert (use.mode, record.entry.members["review_id"]) == (mode, use.review_id)
    assert use.review_id not in seen
    seen.add(use.review_id)
    if mode is Mode.OPERATOR:
        assert use.approvals
        assert claims.apr == ",".join(use.approvals)
    return mode


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from([*PORTS, "approvals", "orders"]), FAULTS, max_size=3),
            st.booleans(),
            st.sampled_from([["carol", "dave"], ["carol"], []]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_no_token_leaves_around_the_evaluation_whose_grant_carries_no_review(steps):
    async def story() -> None:
        world, seen = World(deadline_s=0.005, bundle=OPEN), set()
        for faults, claiming, people in steps:
            for port in (*PORTS, "approvals", "orders"):
                getattr(world, port).fault = faults.get(port, Fault.NONE)
            outcome = await asked(world, claiming=claiming, people=people)
            assert (outcome.http_status == 200) == (outcome.token is not None)
            if outcome.token is not None:
                reviewed(world, outcome, seen)

    asyncio.run(story())


@settings(max_examples=20, deadline=None)
@given(ways=st.lists(st.booleans(), min_size=1, max_size=4))
def test_while_only_the_store_is_away_each_way_lets_its_token_out(ways):
    """The counterpart: the property is not vacuous."""

    async def story() -> None:
        world, seen = World(deadline_s=0.005, bundle=OPEN), set()
        world.store.fault = Fault.DOWN
        for claiming in ways:
            outcome = await asked(world, claiming=claiming, people=["carol", "dave"])
            assert reviewed(world, outcome, seen) is (Mode.OPERATOR if claiming else Mode.FAIL_OPEN)

    asyncio.run(story())
