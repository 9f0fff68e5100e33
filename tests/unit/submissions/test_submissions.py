"""Submit once, look, claim, cancel: what repeats answer, and what an outage in between may not change."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from desk import Desk
from fakes.recording import Fault as DatabaseFault
from holdfast.token import verify_signature
from world import Fault

from services.judgement import WaitingIntent
from services.ports import StoreUnreachable
from services.recording.lane import Mode
from services.submissions import Problem, waiting_intent


@pytest.fixture
async def desk():
    opened = await Desk().open()
    yield opened
    await opened.recording.crash(opened.lane)


async def refused(coroutine) -> tuple[int, str]:
    with pytest.raises(Problem) as caught:
        await coroutine
    return caught.value.status, caught.value.reason_code


def in_outage(desk) -> None:
    desk.recording.database.up = False
    desk.world.store.fault = Fault.DOWN


async def journalled(desk, intent, key="k"):
    """Submit in an outage, and return the answer that rests on the journal."""
    in_outage(desk)
    desk.recording.database.faults.append(DatabaseFault.REFUSE)
    answer = await desk.submit(intent, key)
    assert (answer.status, answer.envelope["queue"]["state"]) == (503, "journal")
    return answer


async def recovered(desk) -> None:
    desk.recording.database.up = True
    desk.world.store.fault = Fault.NONE
    await desk.recording.restored(desk.lane)


# --- repeats ----------------------------------------------------------------------------------------------------------


async def test_a_repeat_answers_with_the_same_token(desk):
    first, again = await desk.submit(desk.world.refund()), await desk.submit(desk.world.refund())

    assert (first.status, again.status) == (200, 200)
    assert first.envelope == again.envelope


async def test_a_repeat_after_a_restart_answers_with_the_same_token(desk):
    first = await desk.submit(desk.world.refund())
    await desk.restart()

    assert (await desk.submit(desk.world.refund())).envelope == first.envelope


async def test_another_body_is_refused_whether_the_first_is_stored_under_way_or_journalled(desk):
    under_way = asyncio.create_task(desk.submit(desk.world.refund(cents=1)))
    await asyncio.sleep(0)
    assert await refused(desk.submit(desk.world.refund(cents=2))) == (422, "IDEMPOTENCY_KEY_REUSED")
    await under_way
    assert await refused(desk.submit(desk.world.refund(cents=2))) == (422, "IDEMPOTENCY_KEY_REUSED")

    await journalled(desk, desk.world.refund(cents=3), "other")
    assert await refused(desk.submit(desk.world.refund(cents=4), "other")) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_submissions_at_once_with_one_key_are_judged_once(desk):
    answers = await asyncio.gather(*(desk.submit(desk.world.refund()) for _ in range(50)))

    assert len({answer.envelope["intent_id"] for answer in answers}) == 1
    assert len(desk.world.signer.signed) == 1


async def test_a_repeat_of_an_expired_token_is_finished(desk):
    await desk.submit(desk.world.refund())
    desk.world.clock.advance(60)

    assert await refused(desk.submit(desk.world.refund())) == (409, "INTENT_FINISHED")


async def test_a_repeat_while_the_signer_is_away_says_so_and_holds_no_token(desk):
    await desk.submit(desk.world.refund())
    desk.world.signer.fault = Fault.DOWN

    assert await refused(desk.submit(desk.world.refund())) == (503, "SIGNING_UNAVAILABLE")


async def test_a_repeat_of_a_grant_while_the_store_is_away_holds_no_token(desk):
    await desk.submit(desk.world.refund())
    in_outage(desk)

    assert await refused(desk.submit(desk.world.refund())) == (503, "SERVICE_UNAVAILABLE")


async def test_a_repeat_of_a_journalled_intent_is_the_same_intent_in_and_after_the_outage(desk):
    first = await journalled(desk, desk.world.refund())
    assert (await desk.submit(desk.world.refund())).envelope == first.envelope

    await recovered(desk)

    assert (await desk.submit(desk.world.refund())).envelope["intent_id"] == first.envelope["intent_id"]


async def test_what_could_not_be_recorded_may_be_asked_again_with_the_same_key(desk):
    """The client keeps it, as it was told to; the answer of a bad moment is not for ever."""
    desk.recording.disk.fail_write = 1_000
    in_outage(desk)
    desk.recording.database.faults.append(DatabaseFault.REFUSE)
    unrecorded = await desk.submit(desk.world.refund())
    assert (unrecorded.status, unrecorded.envelope["status"]) == (503, "unqueued")
    assert unrecorded.envelope["receipt"] is None

    desk.recording.disk.fail_write = 0
    await recovered(desk)
    assert (await desk.submit(desk.world.refund())).status == 200


async def test_a_grant_that_is_in_doubt_is_not_given_again_while_its_end_is_in_the_journal(desk):
    """The commit stands and its answer was lost: the store says granted, the journal says void."""
    await desk.submit(desk.world.search(), "before")
    connect, back = desk.lane._sink.connect, asyncio.Event()

    async def connect_later(identity):
        await back.wait()
        await connect(identity)

    desk.lane._sink.connect = connect_later
    desk.recording.database.faults.append(DatabaseFault.HANG_THEN_COMMIT)
    doubtful = await desk.submit(desk.world.refund())
    assert (doubtful.status, doubtful.envelope["reason_code"]) == (503, "AUDIT_UNAVAILABLE")
    desk.recording.database.land(desk.lane._sink)

    intent_id = doubtful.envelope["intent_id"]
    assert (await desk.store.get(intent_id)).status == "granted"
    assert await refused(desk.submissions.claim("support", intent_id)) == (503, "SERVICE_UNAVAILABLE")
    assert await refused(desk.submit(desk.world.refund())) == (503, "SERVICE_UNAVAILABLE")
    back.set()
    await recovered(desk)

    stored = await desk.store.get(doubtful.envelope["intent_id"])
    assert (stored.status, stored.claims) == ("queued", None)
    again = await desk.submit(desk.world.refund())
    assert again.envelope["token"] is None


async def test_in_the_same_outage_what_could_not_be_recorded_is_decided_anew(desk):
    desk.recording.disk.fail_write = 1_000
    in_outage(desk)
    desk.recording.database.faults.append(DatabaseFault.REFUSE)
    unrecorded = await desk.submit(desk.world.refund())
    desk.recording.disk.fail_write = 0
    await desk.recording.until(lambda: desk.lane.mode is Mode.JOURNAL)

    again = await desk.submit(desk.world.refund())

    assert (unrecorded.envelope["status"], again.envelope["status"]) == ("unqueued", "queued")
    assert again.envelope["intent_id"] != unrecorded.envelope["intent_id"]


async def test_an_acknowledged_intent_that_the_store_will_not_hold_is_decided_anew(desk):
    """Its record stands, and is void: nothing keeps the key."""
    lost = (await journalled(desk, desk.world.refund())).envelope["intent_id"]
    desk.recording.database.rejects.add(lost)
    await recovered(desk)
    desk.world.boundaries.evaluation.dependency_is_back()

    again = await desk.submit(desk.world.refund())

    assert again.envelope["intent_id"] != lost
    assert await refused(desk.submissions.get("support", lost)) == (404, "NOT_FOUND")


# --- the drain's side -------------------------------------------------------------------------------------------------


async def leased(desk, intent) -> WaitingIntent:
    """Park an intent and lease it, as the drain does."""
    desk.world.store.fault = Fault.DOWN
    waiting = (await desk.submit(intent)).envelope["intent_id"]
    desk.world.store.fault = Fault.NONE
    desk.recording.database.tables.queue[waiting] |= {"state": "leased", "epoch": 1}
    return waiting_intent(await desk.store.get(waiting), epoch=1)


def standing(desk, intent_id: str) -> list[str]:
    """Return the statuses of an intent's decisions that are not void."""
    log = desk.recording.log()
    voided = {record.members["void"]["seq"] for record in log if "void" in record.members}
    return [
        record.members["status"]
        for record in log
        if record.members.get("intent_id") == intent_id and record.seq not in voided
    ]


async def test_a_late_no_whose_commit_is_in_doubt_and_stood_is_final_in_the_log_too(desk):
    waiting = await leased(desk, desk.world.refund(cents=600_000))
    desk.recording.database.faults.append(DatabaseFault.HANG_THEN_COMMIT)

    outcome = await desk.world.authorizer.reconsider(waiting)
    await desk.recording.restored(desk.lane)

    assert outcome.reason_code == "POLICY_DENIED"
    assert (await desk.store.get(waiting.ask.intent_id)).status == "denied"
    assert standing(desk, waiting.ask.intent_id) == ["queued", "denied"]


async def test_a_late_no_that_comes_after_its_lease_is_void_and_changes_nothing(desk):
    waiting = await leased(desk, desk.world.refund(cents=600_000))
    desk.recording.database.faults.append(DatabaseFault.REFUSE)
    desk.recording.database.tables.queue[waiting.ask.intent_id] |= {"epoch": 2}

    await desk.world.authorizer.reconsider(waiting)
    await desk.recording.restored(desk.lane)
    await desk.recording.until(lambda: standing(desk, waiting.ask.intent_id) == ["queued"])

    assert (await desk.store.get(waiting.ask.intent_id)).status == "queued"


async def test_a_late_allow_rests_on_a_commit_alone(desk):
    waiting = await leased(desk, desk.world.refund())
    desk.recording.database.faults.append(DatabaseFault.REFUSE)

    outcome = await desk.world.authorizer.reconsider(waiting)
    await desk.recording.restored(desk.lane)

    assert (outcome.reason_code, outcome.status) == ("AUDIT_UNAVAILABLE", "queued")
    assert (await desk.store.get(waiting.ask.intent_id)).status == "queued"


# --- looking ----------------------------------------------------------------------------------------------------------


async def test_a_look_never_shows_a_token(desk):
    granted = await desk.submit(desk.world.refund())

    seen = await desk.submissions.get("support", granted.envelope["intent_id"])

    assert (seen.status, seen.envelope) == (200, {**granted.envelope, "token": None})


async def test_another_agents_intent_is_unknown_stored_or_journalled(desk):
    stored = await desk.submit(desk.world.refund())
    assert await refused(desk.submissions.get("limited", stored.envelope["intent_id"])) == (404, "NOT_FOUND")

    waiting = await journalled(desk, desk.world.refund(), "other")
    assert await refused(desk.submissions.get("limited", waiting.envelope["intent_id"])) == (
        503,
        "SERVICE_UNAVAILABLE",
    )


async def test_an_intent_is_never_called_unknown_while_it_may_be_in_the_journal(desk):
    """A new process does not remember what the old one acknowledged."""
    waiting = (await journalled(desk, desk.world.refund())).envelope["intent_id"]
    await desk.restart()
    assert await refused(desk.submissions.get("support", waiting)) == (503, "SERVICE_UNAVAILABLE")

    # The store answers again before the journal has reached it.
    connect, back = desk.lane._sink.connect, asyncio.Event()

    async def connect_later(identity):
        await back.wait()
        await connect(identity)

    desk.lane._sink.connect = connect_later
    desk.recording.database.up = True
    assert await refused(desk.submissions.get("support", waiting)) == (503, "SERVICE_UNAVAILABLE")
    back.set()
    await recovered(desk)

    assert (await desk.submissions.get("support", waiting)).envelope["status"] == "queued"


async def test_a_place_in_line_that_cannot_be_read_spoils_no_answer(desk):
    desk.world.signer.fault = Fault.DOWN
    waiting = (await desk.submit(desk.world.refund())).envelope["intent_id"]
    assert (await desk.submissions.get("support", waiting)).envelope["queue"]["position"] == 1

    async def away(intent_id):
        raise StoreUnreachable("gone in the middle")

    desk.store.position = away

    assert (await desk.submissions.get("support", waiting)).envelope["queue"]["position"] is None


# --- claim and cancel -------------------------------------------------------------------------------------------------


async def claimable(desk, intent) -> str:
    desk.world.signer.fault = Fault.DOWN
    waiting = (await desk.submit(intent)).envelope["intent_id"]
    desk.world.signer.fault = Fault.NONE
    await desk.make_claimable(waiting)
    return waiting


async def test_a_claim_mints_the_token_once_and_repeats_it(desk):
    intent_id = await claimable(desk, desk.world.refund())

    first, again = [await desk.submissions.claim("support", intent_id) for _ in range(2)]

    assert (first.status, again.status) == (200, 200)
    assert first.envelope["token"] == again.envelope["token"]


async def test_claims_at_once_mint_one_token(desk):
    intent_id = await claimable(desk, desk.world.refund())

    answers = await asyncio.gather(*(desk.submissions.claim("support", intent_id) for _ in range(20)))

    assert {answer.status for answer in answers} == {200}
    assert len({answer.envelope["token"] for answer in answers}) == 1


async def test_a_claim_replaces_the_token_that_was_thrown_away(desk):
    """The signer gives an intent one token; the thrown-away one is named, so that it gives another."""
    seen: list[str | None] = []
    sign = desk.world.signer.sign

    async def watched(claims, *, replaces=None):
        seen.append(replaces)
        return await sign(claims, replaces=replaces)

    desk.world.signer.sign = watched
    intent_id = await claimable(desk, desk.world.refund())
    await desk.submissions.claim("support", intent_id)

    thrown_away, replaced = seen
    assert thrown_away is None
    assert replaced is not None
    assert await desk.store.state("http://holdfast.test", intent_id, replaced) == "revoked"


async def test_a_claim_whose_commit_is_in_doubt_goes_back_to_wait_and_its_token_is_dead(desk):
    intent_id = await claimable(desk, desk.world.refund())
    desk.recording.database.faults.append(DatabaseFault.HANG_THEN_COMMIT)

    doubtful = await desk.submissions.claim("support", intent_id)
    await recovered(desk)

    assert (doubtful.status, doubtful.envelope["token"]) == (503, None)
    stored = await desk.store.get(intent_id)
    assert (stored.status, stored.claims) == ("queued", None)
    await desk.make_claimable(intent_id)
    answer = await desk.submissions.claim("support", intent_id)
    claims = verify_signature(answer.envelope["token"], desk.world.signer.verify_keys())
    assert await desk.store.state(claims.iss, claims.txn, claims.jti) == "fresh"


async def test_a_claim_whose_token_could_not_be_signed_goes_back_to_wait_however_late_it_is(desk):
    """It would be over when the token that nobody had expired, though nothing was ever released."""
    desk.world.signer.fault = Fault.DOWN
    intent_id = (await desk.submit(desk.world.refund())).envelope["intent_id"]
    desk.world.clock.advance(850)
    await desk.make_claimable(intent_id)
    desk.world.clock.advance(100)  # past the time to wait, within the time to claim

    unsigned = await desk.submissions.claim("support", intent_id)

    assert (unsigned.status, unsigned.envelope["reason_code"]) == (503, "SIGNING_UNAVAILABLE")
    assert unsigned.envelope["status"] == "queued"
    stored = await desk.store.get(intent_id)
    assert (stored.status, stored.claims) == ("queued", None)
    waits_until = datetime.fromisoformat(unsigned.envelope["queue"]["expires_at"])
    assert waits_until - desk.world.clock.now() == timedelta(seconds=120)
    desk.world.clock.advance(100)  # past the life of the token that was not signed
    desk.world.signer.fault = Fault.NONE
    await desk.make_claimable(intent_id)
    assert (await desk.submissions.claim("support", intent_id)).status == 200


async def test_a_claim_that_never_reached_the_store_leaves_the_intent_claimable(desk):
    intent_id = await claimable(desk, desk.world.refund())
    desk.recording.database.faults.append(DatabaseFault.REFUSE)

    doubtful = await desk.submissions.claim("support", intent_id)
    await recovered(desk)

    assert doubtful.status == 503
    assert (await desk.store.get(intent_id)).status == "claimable"
    assert (await desk.submissions.claim("support", intent_id)).status == 200


async def test_a_claim_out_of_time_is_gone(desk):
    intent_id = await claimable(desk, desk.world.refund())
    desk.world.clock.advance(121)

    assert await refused(desk.submissions.claim("support", intent_id)) == (410, "EXPIRED")


async def test_a_cancelled_intent_stays_cancelled_and_is_cancelled_again_without_a_record(desk):
    held = (await desk.submit(desk.world.refund(cents=60_000))).envelope["intent_id"]

    first = await desk.submissions.cancel("support", held)
    records = len(desk.recording.log())
    again = await desk.submissions.cancel("support", held)

    assert (first.status, first.envelope["status"], again.envelope["status"]) == (200, "cancelled", "cancelled")
    assert len(desk.recording.log()) == records
    assert await refused(desk.submissions.claim("support", held)) == (409, "NOT_CLAIMABLE")


async def test_only_what_waits_wakes_the_worker(desk):
    await desk.submit(desk.world.refund())
    await desk.submit(desk.world.refund(cents=60_000), "held")
    assert desk.parked == 0

    desk.world.signer.fault = Fault.DOWN
    await desk.submit(desk.world.refund(), "waiting")

    assert desk.parked == 1
