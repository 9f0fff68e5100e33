"""What became of a token: the log first, then the agent's counter."""

from __future__ import annotations

import pytest
from holdfast.reasons import ReasonCode
from world import ISSUER, Fault, World

from services.consumption import Consumption
from services.ports import Consumed, LimitsUnreachable, StoreUnreachable
from services.submissions import Problem


class Tokens:
    """A store that knows one consumed token."""

    def __init__(self):
        self.away = False
        self.agent = "support"

    async def state(self, iss, txn, jti):
        raise NotImplementedError

    async def consumed(self, iss, jti):
        if self.away:
            raise StoreUnreachable("gone")
        known = (iss, jti) == (ISSUER, "jti_1")
        return Consumed(executor="payments-api", intent_id="int_1", agent=self.agent) if known else None


class Corrections:
    def __init__(self):
        self.away = False
        self.made = []

    async def charge(self, charge):
        raise NotImplementedError

    async def correct(self, agent, intent_id, *, model_tokens):
        if self.away:
            raise LimitsUnreachable("gone")
        self.made.append((agent, intent_id, model_tokens))
        return True


@pytest.fixture
def world():
    return World()


@pytest.fixture
def tokens():
    return Tokens()


@pytest.fixture
def corrections():
    return Corrections()


@pytest.fixture
def consumption(world, tokens, corrections):
    return Consumption(
        issuer=ISSUER,
        recorder=world.recorder,
        signer=world.signer,
        store=tokens,
        limits=corrections,
        orders=world.orders,
        audit=world.boundaries.audit,
        clock=world.clock,
    )


async def test_the_tokens_really_used_are_in_the_log_and_correct_the_counter(consumption, world, corrections):
    await consumption.report("payments-api", "jti_1", outcome="succeeded", detail=None, model_tokens=0)

    [entry] = world.recorder.entries("token.outcome")
    assert entry.members["model_tokens"] == 0
    assert corrections.made == [("support", "int_1", 0)]


async def test_a_report_without_them_corrects_nothing(consumption, world, corrections):
    await consumption.report("payments-api", "jti_1", outcome="succeeded", detail="done")

    [entry] = world.recorder.entries("token.outcome")
    assert "model_tokens" not in entry.members
    assert corrections.made == []


@pytest.mark.parametrize(("executor", "jti"), [("kb-api", "jti_1"), ("payments-api", "jti_2")])
async def test_only_the_executor_that_consumed_corrects(consumption, world, corrections, executor, jti):
    with pytest.raises(Problem) as refused:
        await consumption.report(executor, jti, outcome="succeeded", detail=None, model_tokens=0)

    assert refused.value.status == 404
    assert (corrections.made, world.recorder.durable) == ([], [])


async def test_what_is_not_recorded_corrects_nothing(consumption, world, corrections):
    world.recorder.fault = Fault.DOWN

    with pytest.raises(Problem) as refused:
        await consumption.report("payments-api", "jti_1", outcome="succeeded", detail=None, model_tokens=0)

    assert refused.value.status == 503
    assert corrections.made == []


async def test_an_outcome_that_contradicts_another_corrects_nothing(consumption, world, corrections):
    world.recorder.refuse_effects = True

    with pytest.raises(Problem) as refused:
        await consumption.report("payments-api", "jti_1", outcome="failed", detail=None, model_tokens=0)

    assert refused.value.status == 409
    assert corrections.made == []


async def test_a_counter_that_is_away_asks_for_the_report_again(consumption, corrections):
    """Otherwise an overrun would go unseen."""
    corrections.away = True
    with pytest.raises(Problem) as refused:
        await consumption.report("payments-api", "jti_1", outcome="succeeded", detail=None, model_tokens=9)
    assert (refused.value.status, refused.value.reason_code) == (503, ReasonCode.SERVICE_UNAVAILABLE)

    corrections.away = False
    await consumption.report("payments-api", "jti_1", outcome="succeeded", detail=None, model_tokens=9)

    assert corrections.made == [("support", "int_1", 9)]


async def test_an_intent_that_is_no_longer_stored_has_no_counter(consumption, tokens, corrections):
    tokens.agent = None

    await consumption.report("payments-api", "jti_1", outcome="succeeded", detail=None, model_tokens=9)

    assert corrections.made == []
