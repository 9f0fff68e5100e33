"""What an activation lets pass, and everything that it does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from glass import PAIR, SOLO, GlassWorld, a_bundle, an_activation, standing
from holdfast.intent import Context
from holdfast.reasons import Cause, Mode, ReasonCode, Status
from holdfast.token import verify_signature
from world import BUNDLE, START, Fault

from services.authorizer import IdempotencyKeyRequired
from services.decision.orders import Order, OrderKind, Orders
from services.notices.notice import Kind


async def test_an_activation_lets_a_refused_evaluation_pass_marked_and_counted():
    world = GlassWorld()
    activation = await world.activated()

    outcome = await world.submit(world.refund())

    assert (outcome.reason_code, outcome.mode, outcome.status) == (
        ReasonCode.ALLOWED,
        Mode.BREAK_GLASS,
        Status.GRANTED,
    )
    claims = verify_signature(outcome.token, world.signer.verify_keys())
    assert (claims.mode, claims.brk, claims.rcp) == ("break_glass", activation, str(outcome.receipt))
    (entry,) = world.recorder.entries("decision")
    assert entry.members["elevated"] is True
    assert (entry.members["break_glass"], entry.members["instead_of"]) == (activation, "store_unreachable")
    use = entry.effect.use
    assert (use.activation, use.at_home, use.review_due_at) == (activation, True, START + timedelta(hours=24))
    assert entry.journal_may_release
    assert [notice.kind for notice in entry.notices] == [Kind.BREAK_GLASS_USED]
    assert world.glass.used(activation) == 1


async def test_without_an_activation_nothing_passes():
    world = GlassWorld()

    outcome = await world.submit(world.refund())

    assert (outcome.reason_code, outcome.status) == (ReasonCode.EVALUATION_UNAVAILABLE, Status.QUEUED)
    assert world.signer.signed == []


async def test_what_policy_can_judge_it_judges():
    """Break-glass replaces a failed check. A healthy one stands, and costs no use."""
    world = GlassWorld(away=False)
    activation = await world.activated()

    outcome = await world.submit(world.refund())
    denied = await world.submit(world.refund(cents=600_000), key="key-2")

    assert (outcome.mode, denied.reason_code) == (Mode.NORMAL, ReasonCode.POLICY_DENIED)
    assert world.glass.used(activation) == 0


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("store", Cause.STORE_UNREACHABLE),
        ("policies", Cause.STALE_BUNDLE),
    ],
)
async def test_every_dependency_that_is_gone_may_be_passed_by(what, cause):
    world = GlassWorld(away=False)
    await world.activated()
    getattr(world, what).fault = Fault.DOWN

    outcome = await world.submit(world.refund())

    assert outcome.mode is Mode.BREAK_GLASS
    assert world.recorder.entries("decision")[0].members["instead_of"] == cause


@pytest.mark.parametrize("fault", [Fault.WRONG, Fault.SILENT, Fault.SLOW])
async def test_an_evaluation_that_fails_by_itself_passes_nothing(fault):
    """An agent that can make an evaluation fail must not be able to let itself through."""
    world = GlassWorld(away=False)
    await world.activated()
    world.evaluator.fault = fault

    outcome = await world.submit(world.refund())

    assert (outcome.reason_code, outcome.mode) == (ReasonCode.EVALUATION_UNAVAILABLE, Mode.NORMAL)
    assert world.signer.signed == []


async def refused(world: GlassWorld, intent=None, *, agent: str = "support", key: str = "key-1") -> ReasonCode:
    outcome = await world.submit(intent or world.refund(), agent=agent, key=key)
    assert outcome.token is None
    assert outcome.mode is Mode.NORMAL
    return outcome.reason_code


async def test_another_category_is_not_covered():
    world = GlassWorld()
    await world.activated()
    assert await refused(world, world.search()) is ReasonCode.EVALUATION_UNAVAILABLE


async def test_another_agent_is_not_covered():
    manifest = BUNDLE["agents/support.yaml"].replace(b"name: support", b"name: other")
    world = GlassWorld({**a_bundle(), "agents/other.yaml": manifest})
    await world.activated()
    assert await refused(world, agent="other") is ReasonCode.EVALUATION_UNAVAILABLE


async def test_another_environment_is_not_covered():
    world = GlassWorld()
    await world.activated()
    intent = world.refund(context=Context(environment="staging"))
    assert await refused(world, intent) is ReasonCode.EVALUATION_UNAVAILABLE


async def test_the_manifests_ceiling_stays():
    """`limited` matches no policy here, and has no such tool either."""
    bundle = a_bundle(a_bundle()["holdfast.yaml"].decode().replace("{", "{{").replace("}", "}}").replace("sup*", "*"))
    world = GlassWorld(bundle)
    await world.activated()
    assert (await world.submit(world.refund())).mode is Mode.BREAK_GLASS
    assert await refused(world, agent="limited", key="key-2") is ReasonCode.EVALUATION_UNAVAILABLE


async def test_parameters_that_do_not_fit_the_catalogue_stay_refused():
    world = GlassWorld()
    await world.activated()
    assert await refused(world, world.refund(cents=-1)) is ReasonCode.PARAMETERS_INVALID


async def test_an_expired_activation_lets_nothing_pass():
    world = GlassWorld()
    await world.activated(minutes=10)
    world.clock.advance(599)
    assert (await world.submit(world.refund(), key="in-time")).mode is Mode.BREAK_GLASS
    world.clock.advance(1)
    assert await refused(world) is ReasonCode.EVALUATION_UNAVAILABLE


async def test_a_revoked_activation_lets_nothing_pass():
    world = GlassWorld()
    await world.desk.revoke(await world.activated(), by="carol", note="over")
    assert await refused(world) is ReasonCode.EVALUATION_UNAVAILABLE


async def test_an_activation_that_waits_for_people_lets_nothing_pass():
    world = GlassWorld()
    await world.activate(PAIR)
    assert await refused(world) is ReasonCode.EVALUATION_UNAVAILABLE


async def test_no_more_pass_than_the_cap():
    world = GlassWorld(a_bundle(max_uses=2))
    await world.activated()
    modes = [(await world.submit(world.refund(), key=f"key-{n}")).mode for n in range(4)]
    assert modes == [Mode.BREAK_GLASS] * 2 + [Mode.NORMAL] * 2


async def test_a_request_that_is_refused_for_want_of_a_key_costs_no_use():
    """Else an agent could use an activation up in an outage, and get nothing for it."""
    world = GlassWorld()
    activation = await world.activated()

    with pytest.raises(IdempotencyKeyRequired):
        await world.submit(world.refund(), key=None)

    assert world.glass.used(activation) == 0


@pytest.mark.parametrize("scope", ["all", "agent:support", "category:finance.refund", "executor:payments-api"])
async def test_a_halt_beats_it(scope):
    world = GlassWorld()
    await world.activated()
    halt = Order(
        order_id="ord_1",
        kind=OrderKind.HALT,
        scope=scope,
        reason="stop",
        issued_at=START,
        issued_by="alice",
        in_force_at=START,
    )
    world.orders.standing = Orders([*world.orders.standing, halt])
    assert await refused(world) is ReasonCode.EMERGENCY_HALT


async def test_where_no_halt_can_be_known_nothing_passes():
    world = GlassWorld()
    await world.activated()
    world.orders.known = False
    assert await refused(world) is ReasonCode.EVALUATION_UNAVAILABLE


async def test_neither_the_drain_nor_a_claim_breaks_glass():
    world = GlassWorld()
    await world.activated()

    drained = await world.authorizer.reconsider(world.waiting_intent(world.refund()))
    claimed = await world.authorizer.claim(world.waiting_intent(world.refund(), epoch=None))

    assert {drained.mode, claimed.mode} == {Mode.NORMAL}
    assert world.signer.signed == []


# --- the bundle of today and of then ----------------------------------------------------------------------------------


async def test_a_later_bundle_does_not_widen_an_activation():
    world = GlassWorld()
    await world.activated(PAIR)
    wider = a_bundle().copy()
    wider["holdfast.yaml"] = wider["holdfast.yaml"].replace(b"[finance.refund]", b"[finance.refund, support.read]")
    world.publish(wider)
    assert await refused(world, world.search()) is ReasonCode.EVALUATION_UNAVAILABLE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"name: pair", b"name: other"),
        (b"categories: [finance.refund]", b"categories: [support.read]"),
        (b'agents: ["sup*"]', b"agents: [limited]"),
        (b"environments: [production]", b"environments: [staging]"),
    ],
)
async def test_a_later_bundle_that_is_narrower_narrows_it(old, new):
    world = GlassWorld()
    await world.activated(PAIR)
    narrower = a_bundle().copy()
    narrower["holdfast.yaml"] = narrower["holdfast.yaml"].replace(old, new)
    world.publish(narrower)
    assert await refused(world) is ReasonCode.EVALUATION_UNAVAILABLE


async def test_the_smaller_cap_counts():
    world = GlassWorld()
    await world.activated(PAIR)
    world.publish(a_bundle(max_uses=1))
    modes = [(await world.submit(world.refund(), key=f"key-{n}")).mode for n in range(2)]
    assert modes == [Mode.BREAK_GLASS, Mode.NORMAL]


async def test_an_activation_whose_terms_cannot_be_read_covers_nothing():
    world = GlassWorld()
    good = an_activation()
    world.orders.standing = standing(replace(good, document={**good.document, "max_uses": "many"}))
    assert await refused(world) is ReasonCode.EVALUATION_UNAVAILABLE


async def test_a_renewal_with_nobody_new_behind_it_covers_nothing_wherever_it_comes_from():
    world = GlassWorld()
    good = an_activation()
    world.orders.standing = standing(replace(good, document={**good.document, "earlier": ["alice", "bob"]}))
    assert await refused(world) is ReasonCode.EVALUATION_UNAVAILABLE


# --- what a use rests on ----------------------------------------------------------------------------------------------


async def test_away_from_its_home_it_works_only_on_a_commit():
    world = GlassWorld(away=False)
    world.orders.standing = standing(an_activation(document={**an_activation().document, "home": "another"}))
    world.store.fault = Fault.DOWN

    outcome = await world.submit(world.refund())
    (entry,) = world.recorder.entries("decision")
    world.leave()

    assert (outcome.mode, entry.journal_may_release) == (Mode.BREAK_GLASS, False)
    assert await refused(world, key="key-2") is ReasonCode.EVALUATION_UNAVAILABLE


async def test_a_use_that_nothing_can_record_is_refused():
    world = GlassWorld()
    await world.activated()
    world.recorder.fault = Fault.DOWN

    outcome = await world.submit(world.refund())

    assert (outcome.reason_code, outcome.token) == (ReasonCode.AUDIT_UNAVAILABLE, None)
    assert world.glass.taken == {}


async def test_a_use_that_could_not_be_signed_is_given_back_and_waits():
    world = GlassWorld()
    activation = await world.activated()
    world.signer.fault = Fault.DOWN

    outcome = await world.submit(world.refund())

    assert (outcome.reason_code, outcome.status) == (ReasonCode.SIGNING_UNAVAILABLE, Status.QUEUED)
    assert world.glass.used(activation) == 0
    grant, failed = (pending.entry.effect for pending in world.recorder.chained[-2:])
    assert failed.over_jti == grant.jti
    assert failed.use is None


async def test_a_use_that_the_store_refuses_is_no_allow_and_the_intent_waits():
    """The cap was reached through another replica: the database is the one that counts."""
    world = GlassWorld(away=False)
    await world.activated()
    world.store.fault = Fault.DOWN
    world.recorder.refuse_uses = True

    outcome = await world.submit(world.refund())

    assert (outcome.reason_code, outcome.cause) == (ReasonCode.EVALUATION_UNAVAILABLE, Cause.STORE_UNREACHABLE)
    assert (outcome.status, outcome.mode, outcome.token) == (Status.QUEUED, Mode.NORMAL, None)
    assert world.glass.taken == {}


async def test_an_activation_of_one_person_is_in_force_at_once():
    world = GlassWorld()
    await world.activate(SOLO)
    assert (await world.submit(world.search())).mode is Mode.BREAK_GLASS
