"""An emergency halt beats everything, and a picture of the orders that is old allows nothing."""

from datetime import timedelta

import pytest
from holdfast.reasons import Cause, Decision, ReasonCode, Status

from services.decision.orders import Order, OrderKind, Orders
from tests.world import START, Fault, World


def an_order(kind: OrderKind, scope: str, **changes) -> Order:
    given = {"order_id": "ord_1", "reason": "incident 7", "issued_at": START, "issued_by": "alice"}
    return Order(kind=kind, scope=scope, in_force_at=START, **given | changes)


@pytest.mark.parametrize("scope", ["all", "agent:support", "category:finance.refund", "executor:payments-api"])
async def test_a_halt_denies_what_policy_would_allow(scope):
    world = World()
    world.orders.standing = Orders([an_order(OrderKind.HALT, scope)])

    outcome = await world.submit(world.refund())

    assert outcome.reason_code is ReasonCode.EMERGENCY_HALT
    assert (outcome.decision, outcome.status, outcome.token) == (Decision.DENY, Status.DENIED, None)
    assert outcome.determining == ("halt:ord_1",)
    assert world.signer.signed == []


@pytest.mark.parametrize("scope", ["agent:limited", "category:support.read", "executor:kb-api"])
async def test_a_halt_of_something_else_stops_nothing_here(scope):
    world = World()
    world.orders.standing = Orders([an_order(OrderKind.HALT, scope)])

    assert (await world.submit(world.refund())).reason_code is ReasonCode.ALLOWED


async def test_a_suspended_agent_is_denied_by_its_own_code():
    world = World()
    world.orders.standing = Orders([an_order(OrderKind.SUSPENSION, "support")])

    assert (await world.submit(world.refund())).reason_code is ReasonCode.AGENT_SUSPENDED
    assert (await world.submit(world.search(), agent="limited", key="key-2")).reason_code is ReasonCode.ALLOWED


async def test_a_halt_comes_before_a_dependency_that_is_away():
    world = World()
    world.orders.standing = Orders([an_order(OrderKind.HALT, "all")])
    world.classifier.fault = Fault.DOWN

    assert (await world.submit(world.refund())).reason_code is ReasonCode.EMERGENCY_HALT


@pytest.mark.parametrize("scope", ["all", "category:finance.refund"])
async def test_a_halt_stops_a_claim_and_the_drain(scope):
    world = World()
    world.orders.standing = Orders([an_order(OrderKind.HALT, scope)])

    drained = await world.authorizer.reconsider(world.waiting_intent(world.refund()))
    claimed = await world.authorizer.claim(world.waiting_intent(world.refund(), epoch=None))

    assert [drained.reason_code, claimed.reason_code] == [ReasonCode.EMERGENCY_HALT] * 2
    assert world.signer.signed == []


async def test_orders_that_were_not_heard_lately_allow_nothing():
    world = World()
    world.orders.fault = Fault.DOWN

    outcome = await world.submit(world.refund())

    assert (outcome.reason_code, outcome.cause) == (ReasonCode.EVALUATION_UNAVAILABLE, Cause.STORE_UNREACHABLE)
    assert world.signer.signed == []


def test_no_orders_stop_nothing_and_open_nothing():
    """The empty picture."""
    orders = Orders()

    assert orders.halt(agent="support", category="finance.refund", executor="payments-api") is None
    assert orders.suspension("support") is None
    assert orders.override("low", START) is None
    assert orders.activations(START) == ()


def test_what_opens_needs_an_expiry():
    with pytest.raises(ValueError, match="expires"):
        an_order(OrderKind.OVERRIDE, "low")


def test_an_order_in_force_has_its_people_behind_it():
    opened = {"expires_at": START + timedelta(minutes=5), "people": 2}
    with pytest.raises(ValueError, match="people"):
        an_order(OrderKind.BREAK_GLASS, "incident", **opened)
    with pytest.raises(ValueError, match="people"):
        an_order(OrderKind.BREAK_GLASS, "incident", confirmed_by=("alice",), **opened)

    assert an_order(OrderKind.BREAK_GLASS, "incident", confirmed_by=("bob",), **opened).is_in_force(START)


def test_an_ended_halt_is_not_in_the_picture():
    ended = an_order(OrderKind.HALT, "all", ended_at=START)

    assert Orders([ended]).halt(agent="support") is None
