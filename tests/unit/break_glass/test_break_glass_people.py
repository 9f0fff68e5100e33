"""Who may activate, confirm and revoke, for how long, and how often."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from glass import PAIR, SOLO, GlassWorld, a_bundle, an_activation
from holdfast.reasons import ReasonCode
from world import BUNDLE, START, Fault

from services.decision.review import OpenReview
from services.notices.notice import Kind
from services.submissions import Problem


async def problem(awaitable) -> tuple[int, ReasonCode, str]:
    with pytest.raises(Problem) as found:
        await awaitable
    return found.value.status, found.value.reason_code, found.value.detail


async def test_two_people_put_it_in_force_and_time_runs_from_the_second():
    world = GlassWorld()
    asked = (await world.activate(PAIR, minutes=10)).activation
    assert asked.in_force_at is None
    assert asked.order_id.startswith("brk_")
    world.clock.advance(120)

    confirmed = (await world.desk.confirm(asked.order_id, by="bob")).activation

    assert confirmed.in_force_at == START + timedelta(seconds=120)
    assert confirmed.expires_at == START + timedelta(seconds=120, minutes=10)
    assert confirmed.behind() == {"alice", "bob"}
    kinds = [entry.kind for entry in world.recorder.entries()]
    assert kinds == ["break_glass.requested", "break_glass.activated"]
    assert all(entry.members["elevated"] is True for entry in world.recorder.entries())
    told = [[notice.kind for notice in entry.notices] for entry in world.recorder.entries()]
    assert told == [[], [Kind.BREAK_GLASS_ACTIVATED]]


async def test_it_says_what_it_rests_on():
    world = GlassWorld()
    assert (await world.activate()).in_journal
    world.back()
    assert not (await world.activate(SOLO)).in_journal


async def test_nobody_confirms_their_own():
    world = GlassWorld()
    asked = (await world.activate()).activation
    assert (await problem(world.desk.confirm(asked.order_id, by="alice")))[:2] == (403, ReasonCode.FORBIDDEN)


async def test_nobody_confirms_twice():
    three = a_bundle()
    three["holdfast.yaml"] = three["holdfast.yaml"].replace(b"people: 2", b"people: 3")
    world = GlassWorld(three)
    asked = (await world.activate()).activation
    assert (await world.desk.confirm(asked.order_id, by="bob")).activation.in_force_at is None

    assert (await problem(world.desk.confirm(asked.order_id, by="bob")))[:2] == (409, ReasonCode.CONFLICT)

    assert world.orders.standing.activations(world.clock.now()) == ()
    assert (await world.desk.confirm(asked.order_id, by="carol")).activation.in_force_at is not None


async def test_what_is_in_force_takes_no_more_people():
    world = GlassWorld()
    activation = await world.activated()
    assert (await problem(world.desk.confirm(activation, by="carol")))[:2] == (409, ReasonCode.CONFLICT)


async def test_an_activation_that_nobody_confirms_lapses_after_a_quarter_of_an_hour():
    world = GlassWorld()
    asked = (await world.activate()).activation
    world.clock.advance(15 * 60)
    assert (await problem(world.desk.confirm(asked.order_id, by="bob")))[:2] == (409, ReasonCode.CONFLICT)


async def test_a_revoked_one_is_not_confirmed_any_more():
    world = GlassWorld()
    asked = (await world.activate()).activation
    await world.desk.revoke(asked.order_id, by="carol", note="no")
    assert (await problem(world.desk.confirm(asked.order_id, by="bob")))[0] == 409
    assert (await problem(world.desk.revoke(asked.order_id, by="carol", note="no")))[0] == 409


async def test_what_is_unknown_is_not_found():
    world = GlassWorld()
    assert (await problem(world.desk.confirm("brk_other", by="bob")))[0] == 404
    assert (await problem(world.desk.revoke("brk_other", by="bob", note="x")))[0] == 404
    assert (await problem(world.activate("no-such")))[0] == 404


async def test_what_another_replica_took_in_a_moment_ago_is_confirmed_and_revoked_here():
    world = GlassWorld(away=False)
    waits = an_activation(confirmed_by=(), in_force_at=None)
    world.glass.elsewhere = [waits]

    assert (await world.desk.confirm(waits.order_id, by="bob")).activation.in_force_at is not None

    world.glass.elsewhere = [another := an_activation(order_id="brk_another")]
    assert (await world.desk.revoke(another.order_id, by="carol", note="no")).activation.ended_at is not None


@pytest.mark.parametrize("minutes", [0, -1, 31])
async def test_no_longer_than_the_policy_allows(minutes):
    assert (await problem(GlassWorld().activate(minutes=minutes)))[:2] == (400, ReasonCode.REQUEST_MALFORMED)


async def test_a_bundle_without_break_glass_has_nothing_to_activate():

    world = GlassWorld(dict(BUNDLE))
    assert (await problem(world.activate()))[0] == 404


# --- renewal ----------------------------------------------------------------------------------------------------------


async def test_who_was_behind_the_earlier_one_does_not_renew_it_alone():
    world = GlassWorld()
    await world.activated(SOLO)

    renewal = (await world.activate(SOLO)).activation

    assert (renewal.people, renewal.in_force_at) == (2, None)
    assert (await problem(world.desk.confirm(renewal.order_id, by="alice")))[0] == 403
    assert (await world.desk.confirm(renewal.order_id, by="bob")).activation.in_force_at is not None


async def test_two_who_were_behind_the_earlier_one_do_not_renew_it():
    world = GlassWorld()
    await world.activated(PAIR, by="alice", and_by="bob")

    renewal = (await world.activate(PAIR, by="bob")).activation
    status, _, detail = await problem(world.desk.confirm(renewal.order_id, by="alice"))

    assert (status, "renews" in detail) == (403, True)
    assert (await world.desk.confirm(renewal.order_id, by="carol")).activation.in_force_at is not None


async def test_a_new_person_may_renew_with_an_earlier_one():
    world = GlassWorld()
    await world.activated(PAIR, by="alice", and_by="bob")
    renewal = (await world.activate(PAIR, by="carol")).activation
    assert (await world.desk.confirm(renewal.order_id, by="alice")).activation.in_force_at is not None


@pytest.mark.parametrize("how", ["expired", "revoked"])
async def test_one_that_ended_lately_is_an_earlier_one_still(how):
    world = GlassWorld()
    activation = await world.activated(SOLO, minutes=10)
    if how == "revoked":
        await world.desk.revoke(activation, by="alice", note="over")
    world.clock.advance(10 * 60 + 29 * 60)
    if how == "revoked":
        world.clock.advance(-10 * 60)

    assert (await world.activate(SOLO)).activation.in_force_at is None

    world.clock.advance(60)
    assert (await world.activate(SOLO)).activation.in_force_at is not None


async def test_another_policy_is_no_renewal():
    world = GlassWorld()
    await world.activated(PAIR)
    assert (await world.activate(SOLO)).activation.in_force_at is not None


async def test_one_that_never_came_in_force_is_no_earlier_one():
    world = GlassWorld()
    await world.activate(PAIR)
    assert (await world.activate(PAIR)).activation.people == 2
    assert await world.activated(PAIR)


# --- overdue reviews --------------------------------------------------------------------------------------------------


async def test_nothing_is_activated_while_a_review_is_overdue():
    world = GlassWorld()
    asked = (await world.activate(PAIR)).activation
    world.glass.reviews = [OpenReview(review_id="rev_1", activation="brk_1", due_at=START + timedelta(seconds=1))]
    assert (await world.activate(SOLO)).activation.in_force_at is not None
    world.clock.advance(1)

    status, code, detail = await problem(world.activate(SOLO, by="dora"))

    assert (status, code) == (403, ReasonCode.FORBIDDEN)
    assert "rev_1" in detail
    assert (await problem(world.desk.confirm(asked.order_id, by="bob")))[0] == 403


@pytest.mark.parametrize("away", [False, True])
async def test_a_review_that_was_closed_a_moment_ago_is_in_nobodys_way_once_the_store_says_so(away):
    world = GlassWorld()
    world.glass.reviews = [OpenReview(review_id="rev_1", activation="brk_1", due_at=START)]
    world.glass.closed, world.glass.away = {"rev_1"}, away

    if away:
        assert (await problem(world.activate(SOLO)))[0] == 403
    else:
        assert (await world.activate(SOLO)).activation.in_force_at is not None


async def test_where_it_is_not_known_whether_one_is_overdue_nothing_is_activated():
    world = GlassWorld()
    world.glass.known = False
    assert (await problem(world.activate()))[:2] == (503, ReasonCode.SERVICE_UNAVAILABLE)


# --- recording --------------------------------------------------------------------------------------------------------


async def test_what_cannot_be_recorded_does_not_count():
    world = GlassWorld()
    world.recorder.fault = Fault.DOWN
    assert (await problem(world.activate(SOLO)))[:2] == (503, ReasonCode.AUDIT_UNAVAILABLE)
    assert world.orders.standing.activations(world.clock.now()) == ()


async def test_a_confirmation_that_cannot_be_recorded_does_not_count():
    world = GlassWorld()
    asked = (await world.activate(PAIR)).activation
    world.recorder.fault = Fault.DOWN
    assert (await problem(world.desk.confirm(asked.order_id, by="bob")))[0] == 503
    assert world.orders.standing.activations(world.clock.now()) == ()


async def test_a_confirmation_that_the_store_refuses_does_not_count():
    world = GlassWorld()
    asked = (await world.activate(PAIR)).activation
    world.recorder.refuse_effects = True
    assert (await problem(world.desk.confirm(asked.order_id, by="bob")))[0] == 409
    assert world.orders.standing.activations(world.clock.now()) == ()


async def test_an_end_counts_here_even_where_it_cannot_be_recorded():
    world = GlassWorld()
    activation = await world.activated()
    world.recorder.fault = Fault.DOWN
    assert (await problem(world.desk.revoke(activation, by="carol", note="stop")))[0] == 503
    assert world.orders.standing.activations(world.clock.now()) == ()


async def test_an_end_that_comes_while_a_confirmation_is_recorded_wins():
    world = GlassWorld()
    asked = (await world.activate(PAIR)).activation
    world.recorder.yields = 5
    confirming = asyncio.create_task(world.desk.confirm(asked.order_id, by="bob"))
    await asyncio.sleep(0)
    revoking = asyncio.create_task(world.desk.revoke(asked.order_id, by="carol", note="no"))

    confirmed = await confirming

    assert confirmed.activation.ended_at is not None
    await revoking
    assert world.orders.standing.activations(world.clock.now()) == ()
    assert [entry.kind for entry in world.recorder.entries()][-2:] == ["break_glass.activated", "break_glass.revoked"]
