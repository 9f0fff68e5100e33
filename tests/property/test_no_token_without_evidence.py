"""Whatever dependencies do, no unrecorded or unevaluated token leaves. Invariants 1 and 2."""

from __future__ import annotations

import asyncio

from holdfast.token import verify_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from world import Fault, World

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
