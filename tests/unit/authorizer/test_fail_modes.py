"""The whole matrix: impact x effect x (healthy, down, overridden). The table of docs/fail-modes.md, as a test."""

from datetime import timedelta

import pytest
from holdfast.reasons import Cause, Mode, ReasonCode, Status
from holdfast.token import verify_signature

from services.decision.orders import Order, OrderKind, Orders
from tests.world import START, Fault, World

IMPACTS = ("low", "medium", "high", "critical")
EFFECTS = ("read", "internal_write", "external")
OPEN_LOW = b"fail_modes: {low: {mode: open, max_per_minute: 3}}\n"


def a_bundle(impact: str, effect: str, settings: bytes = b"") -> dict[str, bytes]:
    return {
        "catalog.yaml": f"""
version: 1
categories:
  some.kind: {{description: Something, impact: {impact}, effect: {effect}, reversible: true}}
executors:
  api: {{description: Runs it}}
actions:
  thing.do: {{category: some.kind, executor: api, resource: "*"}}
  thing.forbidden: {{category: some.kind, executor: api, resource: "*"}}
""".encode(),
        "agents/support.yaml": b"""
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: support}
spec:
  tools: [thing.do, thing.forbidden]
""",
        "rules/never.cedar": b"""
@id("never")
forbid (principal, action == Action::"thing.forbidden", resource);
""",
        "holdfast.yaml": b"version: 1\n" + settings,
    }


def an_override(tier: str, *, minutes: int = 10, most: int = 5) -> Orders:
    return Orders(
        [
            Order(
                order_id="ord_1",
                kind=OrderKind.OVERRIDE,
                scope=tier,
                reason="incident 7",
                issued_at=START,
                issued_by="alice",
                in_force_at=START,
                expires_at=START + timedelta(minutes=minutes),
                document={"max_per_minute": most},
            )
        ]
    )


def the_way(world: World, state: str, impact: str) -> None:
    if state != "healthy":
        world.store.fault = Fault.DOWN
    if state == "overridden":
        world.orders.standing = an_override(impact)


async def ask(world: World, action: str = "thing.do", key: str = "key-1"):
    return await world.submit(world.search(action=action), key=key)


@pytest.mark.parametrize("state", ["healthy", "down", "overridden"])
@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("impact", IMPACTS)
@pytest.mark.parametrize("configured", ["closed", "open"])
async def test_only_what_was_opened_in_advance_passes_unevaluated(configured, impact, effect, state):
    world = World(bundle=a_bundle(impact, effect, OPEN_LOW if configured == "open" else b""))
    the_way(world, state, impact)
    opened = effect == "read" and (
        (impact == "low" and configured == "open") or (state == "overridden" and impact in {"low", "medium"})
    )

    outcome = await ask(world)

    if state == "healthy":
        assert (outcome.reason_code, outcome.mode) == (ReasonCode.ALLOWED, Mode.NORMAL)
    elif opened:
        assert (outcome.reason_code, outcome.mode) == (ReasonCode.ALLOWED, Mode.FAIL_OPEN)
        assert verify_signature(outcome.token, world.signer.verify_keys()).mode == "fail_open"
        (entry,) = world.recorder.entries("decision")
        assert entry.members["elevated"] is True
        assert [notice.kind for notice in entry.notices] == ["fail_open.used"]
        use, overridden = entry.effect.use, state == "overridden"
        assert (use.mode, use.activation) == (Mode.FAIL_OPEN, "ord_1" if overridden else None)
        assert use.review_due_at == START + timedelta(hours=24)
        assert (entry.members["review_id"], entry.notices[0].details["review_id"]) == (use.review_id, use.review_id)
    else:
        assert (outcome.reason_code, outcome.status) == (ReasonCode.EVALUATION_UNAVAILABLE, Status.QUEUED)
        assert (outcome.mode, world.signer.signed) == (Mode.NORMAL, [])


async def test_no_more_pass_in_a_minute_than_the_cap():
    world = World(bundle=a_bundle("low", "read", OPEN_LOW))
    world.store.fault = Fault.DOWN

    passed = [(await ask(world, key=f"key-{number}")).mode for number in range(5)]
    world.clock.advance(60)

    assert passed == [Mode.FAIL_OPEN] * 3 + [Mode.NORMAL] * 2
    assert (await ask(world, key="later")).mode is Mode.FAIL_OPEN


async def test_what_the_last_known_policy_forbids_stays_closed():
    world = World(bundle=a_bundle("low", "read", OPEN_LOW))
    world.store.fault = Fault.DOWN

    outcome = await ask(world, action="thing.forbidden")

    assert (outcome.reason_code, outcome.mode) == (ReasonCode.EVALUATION_UNAVAILABLE, Mode.NORMAL)


async def test_an_evaluation_that_fails_by_itself_opens_nothing():
    """An agent that can make a rule fail must not be able to let itself through."""
    world = World(bundle=a_bundle("low", "read", OPEN_LOW))
    world.evaluator.fault = Fault.WRONG

    outcome = await ask(world)

    assert (outcome.reason_code, outcome.cause) == (ReasonCode.EVALUATION_UNAVAILABLE, Cause.POLICY_ERROR)


async def test_a_late_evaluation_opens_nothing():
    world = World(bundle=a_bundle("low", "read", OPEN_LOW))
    world.evaluator.fault = Fault.SLOW

    outcome = await ask(world)

    assert (outcome.reason_code, outcome.cause) == (ReasonCode.EVALUATION_UNAVAILABLE, Cause.TIMEOUT)


async def test_an_override_closes_by_itself():
    world = World(bundle=a_bundle("medium", "read"))
    world.store.fault = Fault.DOWN
    world.orders.standing = an_override("medium", minutes=10)
    assert (await ask(world)).mode is Mode.FAIL_OPEN

    world.clock.advance(600)

    assert (await ask(world, key="later")).reason_code is ReasonCode.EVALUATION_UNAVAILABLE


async def test_orders_that_are_old_open_nothing():
    """The end of an override, or a halt, may not have been heard."""
    world = World(bundle=a_bundle("low", "read", OPEN_LOW))
    world.orders.fault = Fault.DOWN

    assert (await ask(world)).reason_code is ReasonCode.EVALUATION_UNAVAILABLE


async def test_a_fail_open_token_needs_a_commit_like_every_other():
    world = World(bundle=a_bundle("low", "read", OPEN_LOW))
    world.store.fault = Fault.DOWN
    world.recorder.in_journal = True

    outcome = await ask(world)

    assert outcome.reason_code is ReasonCode.AUDIT_UNAVAILABLE
    assert outcome.token is None


async def test_the_manifest_stays_a_ceiling():
    world = World(bundle=a_bundle("low", "read", OPEN_LOW))
    world.store.fault = Fault.DOWN

    assert (await world.submit(world.search(action="thing.do"), agent="nobody")).mode is Mode.NORMAL
    assert world.signer.signed == []


async def test_what_waits_is_not_let_through_by_a_fail_mode():
    world = World(bundle=a_bundle("low", "read", OPEN_LOW))
    world.store.fault = Fault.DOWN

    outcome = await world.authorizer.reconsider(world.waiting_intent(world.search(action="thing.do")))

    assert outcome.reason_code is ReasonCode.EVALUATION_UNAVAILABLE
