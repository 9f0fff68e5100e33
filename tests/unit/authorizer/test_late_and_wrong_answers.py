"""A late answer is no answer, at any of the four boundaries, however right it is. Neither is a wrong one."""

from __future__ import annotations

import asyncio

import pytest
from holdfast.reasons import Cause, ReasonCode, Status
from holdfast.token import verify_signature
from world import Fault, World

from services.breaker import State
from services.decision.evaluation import MAX_QUESTION_BYTES
from services.ports import OpenIntent

DEADLINE_S = 0.02
CODES = {
    "intent": ReasonCode.CLASSIFICATION_UNAVAILABLE,
    "evaluation": ReasonCode.EVALUATION_UNAVAILABLE,
    "token": ReasonCode.SIGNING_UNAVAILABLE,
    "audit": ReasonCode.AUDIT_UNAVAILABLE,
}


@pytest.fixture
def world() -> World:
    return World(deadline_s=DEADLINE_S)


def behind(world, name):
    return {
        "intent": world.classifier,
        "evaluation": world.evaluator,
        "token": world.signer,
        "audit": world.recorder,
    }[name]


@pytest.mark.parametrize("name", CODES)
async def test_an_answer_at_the_deadline_counts(world, name):
    behind(world, name).fault, world.clock.lag_s = Fault.LATE, DEADLINE_S

    assert (await world.submit(world.refund())).token is not None


@pytest.mark.parametrize("name", CODES)
async def test_a_right_answer_that_blocked_the_loop_beyond_the_deadline_is_discarded(world, name):
    """Nothing can interrupt what does not await; it is refused after the fact."""
    behind(world, name).fault, world.clock.lag_s = Fault.LATE, DEADLINE_S + 0.001

    outcome = await world.submit(world.refund())

    assert outcome.token is None
    assert (outcome.reason_code, outcome.http_status) == (CODES[name], 503)
    if name == "evaluation":
        assert outcome.cause is Cause.TIMEOUT
        assert world.signer.signed == []


@pytest.mark.parametrize("name", ["token", "audit"])
async def test_a_late_token_and_a_late_commit_are_followed_by_a_record_that_takes_the_token_back(world, name):
    behind(world, name).fault = Fault.LATE

    await world.submit(world.refund())

    granted, denial = (pending.entry.effect for pending in world.recorder.durable[:2])
    assert isinstance(denial, OpenIntent)
    assert (denial.over_jti, denial.status) == (granted.jti, "queued")
    assert [verify_signature(token, world.signer.verify_keys()).jti for token in world.signer.signed] == [granted.jti]


async def test_a_denial_whose_record_comes_late_is_not_said_to_wait(world):
    world.recorder.fault = Fault.LATE

    outcome = await world.submit(world.refund(cents=600_000))

    assert (outcome.reason_code, outcome.status) == (ReasonCode.AUDIT_UNAVAILABLE, Status.UNQUEUED)


@pytest.mark.parametrize("name", CODES)
async def test_three_late_answers_open_a_boundary_unless_it_was_the_evaluation_of_one_intent(world, name):
    behind(world, name).fault = Fault.LATE
    for n in range(3):
        await world.submit(world.refund(), key=f"key-{n}")

    assert getattr(world.boundaries, name).is_closed == (name == "evaluation")


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("fault", [Fault.WRONG, Fault.SILENT])
async def test_an_answer_without_its_evidence_releases_nothing(world, name, fault):
    behind(world, name).fault = fault

    outcome = await world.submit(world.refund())

    assert (outcome.token, outcome.reason_code) == (None, CODES[name])


@pytest.mark.parametrize("name", CODES)
async def test_a_caller_that_goes_away_gets_nothing_and_trips_nothing(world, name):
    """The intent's next submission is decided as if nothing had been."""
    slow = World(deadline_s=60)
    behind(slow, name).fault = Fault.SLOW
    for n in range(5):
        task = asyncio.create_task(slow.submit(slow.refund(), key=f"key-{n}"))
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert getattr(slow.boundaries, name).state.state is State.CLOSED
    behind(slow, name).fault = Fault.NONE
    assert (await slow.submit(slow.refund(), key="key-9")).token is not None


async def test_what_is_cancelled_inside_a_dependency_is_an_answer_to_the_caller(world):
    async def cancelled(*args, **named):
        raise asyncio.CancelledError

    world.signer.sign = cancelled

    assert (await world.submit(world.refund())).reason_code is ReasonCode.SIGNING_UNAVAILABLE


async def test_an_intent_too_large_to_be_evaluated_is_denied_alone_and_beforehand(world):
    """Cedar cannot be interrupted, so that what it reads is bounded whatever way an intent came in."""
    note = "x" * MAX_QUESTION_BYTES
    for n in range(6):
        huge = world.refund(parameters={"amount_cents": 4_200, "note": note})
        outcome = await world.submit(huge, key=f"key-{n}")
        assert (outcome.reason_code, outcome.token) == (ReasonCode.EVALUATION_UNAVAILABLE, None)

    assert world.boundaries.evaluation.is_closed
    assert (await world.submit(world.refund(), key="another")).token is not None
