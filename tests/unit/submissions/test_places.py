"""One place for each action that waits, and one intent in the place of another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from desk import Desk
from fakes.recording import Fault as DatabaseFault
from holdfast.intent import Context
from holdfast.reasons import ReasonCode
from world import Fault

from intent_queue.bounds import Depth
from services.authorizer import IdempotencyKeyRequired
from services.submissions import Problem, waiting_intent


@pytest.fixture
async def desk():
    opened = await Desk().open()
    yield opened
    await opened.recording.crash(opened.lane)


def down(desk):
    """Let nothing be decided: what is asked for waits."""
    desk.world.store.fault = Fault.DOWN


def up(desk):
    desk.world.store.fault = Fault.NONE


def places(desk):
    return sorted(desk.recording.database.tables.queue)


# --- one place --------------------------------------------------------------------------------------------------------


async def test_the_same_action_again_is_answered_with_the_intent_that_waits(desk):
    down(desk)
    first = await desk.submit(desk.world.refund(), "a")
    again = await desk.submit(replace(desk.world.refund(), context=Context(reason="once more")), "b")

    assert (again.status, again.envelope["status"]) == (503, "queued")
    assert again.envelope["intent_id"] == first.envelope["intent_id"]
    assert again.retry_after_s is not None
    assert len(places(desk)) == 1


async def test_what_waits_already_needs_no_room_in_a_full_queue(desk):
    down(desk)
    first = await desk.submit(desk.world.refund(), "a")
    desk.world.waiting.is_full = True

    again = await desk.submit(desk.world.refund(), "b")
    another = await desk.submit(desk.world.refund(cents=1), "c")

    assert (again.status, again.envelope["intent_id"]) == (503, first.envelope["intent_id"])
    assert await desk.store.by_key("support", "b") is None
    assert another.envelope["reason_code"] == "QUEUE_FULL"


async def test_another_action_another_agent_and_an_ended_one_take_places_of_their_own(desk):
    down(desk)
    first = await desk.submit(desk.world.refund(), "a")
    await desk.submit(desk.world.refund(cents=1), "b")
    await desk.submit(desk.world.refund(), "c", agent="other")
    await desk.submissions.cancel("support", first.envelope["intent_id"])

    fresh = await desk.submit(desk.world.refund(), "d")

    assert fresh.envelope["intent_id"] != first.envelope["intent_id"]
    assert fresh.envelope["status"] == "queued"
    assert fresh.envelope["intent_id"] in places(desk)


async def test_what_can_be_decided_now_is_decided_though_the_same_waits(desk):
    down(desk)
    first = await desk.submit(desk.world.refund(), "a")
    up(desk)

    second = await desk.submit(desk.world.refund(), "b")

    assert second.status == 200
    assert second.envelope["intent_id"] != first.envelope["intent_id"]


async def test_in_an_outage_of_the_store_this_process_still_knows_what_waits(desk):
    down(desk)
    desk.recording.database.up = False
    first = await desk.submit(desk.world.refund(), "a")
    again = await desk.submit(desk.world.refund(), "b")

    assert first.envelope["queue"]["state"] == "journal"
    assert again.envelope["intent_id"] == first.envelope["intent_id"]


async def test_in_a_second_outage_nobody_is_told_of_what_waited_in_the_first(desk):
    """It may have ended in between, and nobody can look."""
    down(desk)
    desk.recording.database.up = False
    first = await desk.submit(desk.world.refund(), "a")
    desk.recording.database.up = True
    await desk.recording.restored(desk.lane)
    await desk.submissions.cancel("support", first.envelope["intent_id"])
    desk.world.waiting.bounds.refreshing()
    desk.world.waiting.bounds.refreshed(Depth(by_agent={}, by_lane={}, by_state={}))
    desk.recording.database.up = False

    fresh = await desk.submit(desk.world.refund(), "b")

    assert fresh.envelope["intent_id"] != first.envelope["intent_id"]


async def test_while_the_signer_is_known_to_be_away_the_same_action_takes_one_place(desk):
    desk.world.boundaries.token.dependency_is_gone("a test says so")
    answers = [await desk.submit(desk.world.refund(), key) for key in "abc"]

    assert {answer.envelope["reason_code"] for answer in answers} == {"SIGNING_UNAVAILABLE"}
    assert len({answer.envelope["intent_id"] for answer in answers}) == 1
    assert len(places(desk)) == 1


# --- one in the place of another --------------------------------------------------------------------------------------


async def test_a_superseding_intent_takes_the_place_of_the_waiting_one(desk):
    down(desk)
    old = (await desk.submit(desk.world.refund(), "old")).envelope["intent_id"]
    new = await desk.submit(desk.world.refund(cents=1), "new", supersedes="old")

    assert new.envelope["status"] == "queued"
    assert places(desk) == [new.envelope["intent_id"]]
    stored = await desk.store.get(old)
    assert (stored.status, stored.reason_code) == ("superseded", "SUPERSEDED")
    assert stored.envelope["receipt"] == new.envelope["receipt"]
    named = [record.members.get("supersedes") for record in desk.recording.log() if record.kind == "decision"]
    assert named == [None, old]


async def test_the_same_action_can_supersede_itself_even_in_a_full_queue(desk):
    down(desk)
    await desk.submit(desk.world.refund(), "old")
    desk.world.waiting.is_full = True

    new = await desk.submit(desk.world.refund(), "new", supersedes="old")

    assert new.envelope["status"] == "queued"
    assert places(desk) == [new.envelope["intent_id"]]


async def test_a_decision_made_at_once_supersedes_too(desk):
    down(desk)
    old = (await desk.submit(desk.world.refund(), "old")).envelope["intent_id"]
    up(desk)

    assert (await desk.submit(desk.world.refund(cents=1), "new", supersedes="old")).status == 200
    assert (await desk.store.get(old)).status == "superseded"
    assert places(desk) == []


async def test_a_repeat_of_the_new_key_answers_as_before(desk):
    down(desk)
    await desk.submit(desk.world.refund(), "old")
    first, again = [await desk.submit(desk.world.refund(cents=1), "new", supersedes="old") for _ in range(2)]

    assert first.envelope["intent_id"] == again.envelope["intent_id"]


async def test_only_ones_own_waiting_intent_can_be_superseded(desk):
    down(desk)
    await desk.submit(desk.world.refund(), "theirs", agent="other")
    done = await desk.submit(desk.world.refund(), "done")
    await desk.submissions.cancel("support", done.envelope["intent_id"])

    for key, status, code in [
        ("theirs", 404, "NOT_FOUND"),
        ("none", 404, "NOT_FOUND"),
        ("done", 409, "NOT_CANCELLABLE"),
    ]:
        with pytest.raises(Problem) as refused:
            await desk.submit(desk.world.refund(cents=1), "new", supersedes=key)
        assert (refused.value.status, refused.value.reason_code) == (status, ReasonCode(code))
    assert await desk.store.by_key("support", "new") is None


async def test_superseding_needs_a_key_of_its_own(desk):
    with pytest.raises(IdempotencyKeyRequired):
        await desk.submit(desk.world.refund(), None, supersedes="old")


async def test_what_was_settled_in_between_is_not_superseded_and_nothing_is_stored(desk):
    down(desk)
    old = (await desk.submit(desk.world.refund(), "old")).envelope["intent_id"]
    submit = desk.world.authorizer.submit

    async def settled_first(ask):
        up(desk)
        await desk.world.authorizer.reconsider(waiting_intent(await desk.store.get(old), epoch=None))
        down(desk)
        return await submit(ask)

    desk.world.authorizer.submit = settled_first
    with pytest.raises(Problem) as refused:
        await desk.submit(desk.world.refund(cents=1), "new", supersedes="old")

    assert (refused.value.status, refused.value.reason_code) == (409, ReasonCode.NOT_CANCELLABLE)
    assert (await desk.store.get(old)).status == "claimable"
    assert await desk.store.by_key("support", "new") is None


async def test_a_commit_in_doubt_stores_the_new_one_and_ends_the_old_or_neither(desk):
    for fault, stored in [(DatabaseFault.HANG_THEN_COMMIT, True), (DatabaseFault.REFUSE, False)]:
        down(desk)
        name = str(stored)
        old = (await desk.submit(desk.world.refund(cents=5), f"old {name}")).envelope["intent_id"]
        desk.recording.database.faults.append(fault)

        answer = await desk.submit(desk.world.refund(cents=6), f"new {name}", supersedes=f"old {name}")
        await desk.recording.restored(desk.lane)

        assert (answer.status, answer.envelope["status"]) == (503, "unqueued")
        new = await desk.store.by_key("support", f"new {name}")
        assert ((await desk.store.get(old)).status == "superseded") == (new is not None)
        for intent_id in places(desk):
            await desk.submissions.cancel("support", intent_id)
