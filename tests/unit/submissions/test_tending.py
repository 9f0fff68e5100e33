"""What operators do with waiting intents, over a real lane with the database in memory."""

from __future__ import annotations

import pytest
from desk import Desk
from holdfast.intent import Context
from holdfast.reasons import Mode, ReasonCode, Status
from holdfast.token import verify_signature
from test_submissions import in_outage, refused
from world import BUNDLE, Fault

from services.authorizer import MovedOn
from services.decision.bundle import read_bundle
from services.decision.policy import Policy
from services.submissions import Problem, waiting_intent

TWO = {**BUNDLE, "rules/refunds.cedar": BUNDLE["rules/refunds.cedar"].replace(b'"finance")', b'"finance:2")')}


@pytest.fixture
async def desk():
    opened = await Desk().open()
    yield opened
    await opened.recording.crash(opened.lane)


async def held(desk, key="k", *, cents=60_000, **changes) -> str:
    answer = await desk.submit(desk.world.refund(cents=cents, **changes), key)
    assert answer.envelope["status"] == "held"
    return answer.envelope["intent_id"]


async def unevaluated(desk, key="k", *, cents=4_200) -> str:
    """Submit while the limits cannot be read, and go on without an evaluation."""
    desk.world.boundaries.evaluation.force_open("a test")
    answer = await desk.submit(desk.world.refund(cents=cents), key)
    assert (answer.envelope["status"], answer.envelope["cause"]) == ("queued", "circuit_open")
    return answer.envelope["intent_id"]


async def approve(desk, intent_id, by="alice", *, note="seen", **changes):
    case = await desk.tending.look(intent_id)
    seen = {"version": case.queued.stored.version, "act_hash": case.act_hash, "bundle": case.policy.digest}
    return await desk.tending.approve(intent_id, by=by, note=note, **(seen | changes))


async def version(desk, intent_id) -> int:
    return (await desk.store.get(intent_id)).version


async def status(desk, intent_id) -> str:
    return (await desk.store.get(intent_id)).status


def lease(desk, intent_id, epoch=7) -> None:
    desk.recording.database.tables.queue[intent_id] |= {"state": "leased", "leased_from": "waiting", "epoch": epoch}


def state(desk, intent_id) -> str | None:
    return desk.recording.database.tables.queue.get(intent_id, {}).get("state")


def kinds(desk) -> list[str]:
    return [kind for kind in desk.recording.kinds() if kind != "stream.open"]


# --- approve ----------------------------------------------------------------------------------------------------------


async def test_an_approval_makes_a_hold_claimable_and_the_agent_picks_its_token_up(desk):
    intent_id = await held(desk)

    tended = await approve(desk, intent_id)
    answer = await desk.submissions.claim("support", intent_id)

    assert (tended.outcome.status, tended.case.queued.stored.status) == (Status.CLAIMABLE, "claimable")
    claims = verify_signature(answer.envelope["token"], desk.world.signer.verify_keys())
    assert (claims.mode, claims.apr) == ("normal", tended.approval_id)
    assert kinds(desk) == ["decision", "intent.approved", "decision", "decision"]


async def test_what_is_missing_is_shown_until_enough_people_approved(desk):
    desk.world.policies.policy = Policy.compile(read_bundle(TWO))
    intent_id = await held(desk)

    first = await approve(desk, intent_id, "alice")
    [need] = first.case.needs
    assert (first.outcome.status, need.approved_by, need.missing) == (Status.HELD, ("alice",), 1)

    assert (await approve(desk, intent_id, "bob")).outcome.status is Status.CLAIMABLE


async def test_a_person_counts_once_however_often(desk):
    desk.world.policies.policy = Policy.compile(read_bundle(TWO))
    intent_id = await held(desk)

    first, again = await approve(desk, intent_id), await approve(desk, intent_id)

    assert first.approval_id == again.approval_id
    assert again.outcome.status is Status.HELD
    assert len(await desk.queued.given(intent_id)) == 1
    assert [entry.members.get("repeated") for entry in desk.recording.log() if entry.kind == "intent.approved"] == [
        False,
        True,
    ]


async def test_what_is_claimable_already_is_not_approved_again(desk):
    intent_id = await held(desk)
    await approve(desk, intent_id)

    assert await refused(approve(desk, intent_id)) == (409, "CONFLICT")
    assert await status(desk, intent_id) == "claimable"


async def test_what_changed_since_it_was_shown_is_a_conflict_that_says_the_version(desk):
    intent_id = await held(desk)
    now = await version(desk, intent_id)

    for changes in ({"version": now + 1}, {"act_hash": "sha-256:" + "A" * 43}, {"bundle": "sha256:" + "0" * 64}):
        with pytest.raises(Problem) as caught:
            await approve(desk, intent_id, **changes)
        problem = caught.value
        assert (problem.status, problem.reason_code, problem.members) == (409, ReasonCode.CONFLICT, {"version": now})
    assert await desk.queued.given(intent_id) == ()


async def test_a_bundle_that_was_activated_meanwhile_is_looked_at_before_it_is_approved(desk):
    intent_id = await held(desk)
    seen = await desk.tending.look(intent_id)
    desk.world.policies.policy = Policy.compile(read_bundle(TWO))

    assert await refused(approve(desk, intent_id, bundle=seen.policy.digest)) == (409, "CONFLICT")

    [need] = (await desk.tending.look(intent_id)).needs
    assert need.count == 2
    assert (await approve(desk, intent_id)).outcome.status is Status.HELD


async def test_an_approval_under_an_earlier_bundle_does_not_count_under_the_next(desk):
    desk.world.policies.policy = Policy.compile(read_bundle(TWO))
    intent_id = await held(desk)
    await approve(desk, intent_id, "alice")
    other = BUNDLE["holdfast.yaml"] + b"environment: staging\n"
    desk.world.policies.policy = Policy.compile(read_bundle({**TWO, "holdfast.yaml": other}))

    tended = await approve(desk, intent_id, "bob")

    assert (tended.outcome.status, tended.case.needs[0].approved_by) == (Status.HELD, ("bob",))
    assert "do not count" in tended.outcome.detail


async def test_only_who_is_asked_approves(desk):
    intent_id = await held(desk)

    assert await refused(approve(desk, intent_id, "carol")) == (403, "FORBIDDEN")
    assert await desk.queued.given(intent_id) == ()


async def test_nobody_approves_what_their_own_agent_asked_for(desk):
    intent_id = await held(desk, context=Context(environment="production", on_behalf_of="user:alice"))

    assert await refused(approve(desk, intent_id, "alice")) == (403, "FORBIDDEN")
    assert (await approve(desk, intent_id, "bob")).outcome.status is Status.CLAIMABLE


@pytest.mark.parametrize("written", ["ALICE", " alice ", "user: Alice", "user:user:alice", "\uff41lice"])
async def test_however_their_name_is_written_nobody_approves_what_is_asked_for_them(desk, written):
    intent_id = await held(desk, context=Context(environment="production", on_behalf_of=written))

    assert await refused(approve(desk, intent_id, "alice")) == (403, "FORBIDDEN")


async def test_high_impact_is_approved_with_a_note(desk):
    intent_id = await held(desk)

    assert await refused(approve(desk, intent_id, note=None)) == (400, "REQUEST_MALFORMED")


async def test_what_policy_denies_by_now_cannot_be_approved(desk):
    intent_id = await held(desk)
    stricter = BUNDLE["rules/refunds.cedar"].replace(b'@requires_approval("finance")', b"")
    desk.world.policies.policy = Policy.compile(read_bundle({**BUNDLE, "rules/refunds.cedar": stricter}))

    assert await refused(approve(desk, intent_id)) == (403, "FORBIDDEN")


async def test_an_intent_that_is_over_time_or_over_is_not_approved(desk):
    late, ended = await held(desk, "late"), await held(desk, "ended", cents=60_001)
    await desk.tending.deny(ended, by="bob", version=1, note="no")
    assert await refused(approve(desk, ended)) == (409, "CONFLICT")
    desk.world.clock.advance(3600)
    assert await refused(approve(desk, late)) == (409, "CONFLICT")
    assert await refused(approve(desk, late, version=9)) == (409, "CONFLICT")
    assert await refused(desk.tending.look("int_unknown")) == (404, "NOT_FOUND")


async def test_while_nothing_can_be_committed_nobody_approves(desk):
    intent_id = await held(desk)
    in_outage(desk)

    assert await refused(approve(desk, intent_id)) == (503, "SERVICE_UNAVAILABLE")


async def test_an_approval_that_could_not_be_recorded_is_none(desk):
    intent_id = await held(desk)
    desk.world.boundaries.audit.force_open("a test")

    assert await refused(approve(desk, intent_id)) == (503, "AUDIT_UNAVAILABLE")
    assert await desk.queued.given(intent_id) == ()
    assert await status(desk, intent_id) == "held"


async def test_a_hold_approved_in_an_outage_of_the_evaluation_waits_in_line_for_it(desk):
    intent_id = await held(desk)
    desk.world.boundaries.evaluation.force_open("a test")

    tended = await approve(desk, intent_id)

    assert (await status(desk, intent_id), state(desk, intent_id)) == ("queued", "waiting")
    assert desk.parked == 1, "the worker is told"
    assert (await desk.store.get(intent_id)).envelope["queue"]["lane"] == "critical"
    desk.world.boundaries.evaluation.reset("a test")
    for _ in range(3):
        await desk.world.boundaries.evaluation.probe(_well, proves=lambda _: None)
    stored = await desk.store.get(intent_id)
    late = await desk.world.authorizer.reconsider(waiting_intent(stored, epoch=None))
    assert (late.status, late.mode) == (Status.CLAIMABLE, Mode.NORMAL)
    claimed = await desk.submissions.claim("support", intent_id)
    assert verify_signature(claimed.envelope["token"], desk.world.signer.verify_keys()).apr == tended.approval_id


async def _well() -> None:
    return None


# --- an outage --------------------------------------------------------------------------------------------------------


async def test_two_operators_permit_what_cannot_be_evaluated(desk):
    intent_id = await unevaluated(desk)

    first = await approve(desk, intent_id, "carol")
    assert (first.outcome.status, first.case.people_in_outage, len(first.case.counted)) == (Status.QUEUED, 2, 1)
    second = await approve(desk, intent_id, "dave")

    assert (second.outcome.status, second.outcome.mode) == (Status.CLAIMABLE, Mode.OPERATOR)
    answer = await desk.submissions.claim("support", intent_id)
    claims = verify_signature(answer.envelope["token"], desk.world.signer.verify_keys())
    assert (claims.mode, claims.apr) == ("operator", f"{first.approval_id},{second.approval_id}")
    assert kinds(desk)[-2:] == ["decision", "decision"]


async def test_the_graver_impact_of_a_disputed_classification_counts(desk):
    desk.world.boundaries.evaluation.force_open("a test")
    answer = await desk.submit(desk.world.search())
    intent_id = answer.envelope["intent_id"]
    assert (await desk.tending.look(intent_id)).people_in_outage == 1

    desk.recording.database.tables.intents[intent_id]["envelope"]["impact"] = "critical"

    assert (await desk.tending.look(intent_id)).people_in_outage == 2
    assert await refused(approve(desk, intent_id, "carol", note=None)) == (400, "REQUEST_MALFORMED")


async def test_what_waits_for_another_reason_than_its_evaluation_nobody_permits(desk):
    desk.world.signer.fault = Fault.DOWN
    answer = await desk.submit(desk.world.refund())
    assert answer.envelope["reason_code"] == "SIGNING_UNAVAILABLE"

    assert await refused(approve(desk, answer.envelope["intent_id"], "carol")) == (409, "CONFLICT")


@pytest.mark.parametrize("fault", [Fault.SILENT, Fault.SLOW])
async def test_a_fault_of_the_evaluation_itself_is_nobodys_to_permit(desk, fault):
    desk.world.boundaries.evaluation._deadline_s = 0.02
    desk.world.evaluator.fault = fault
    answer = await desk.submit(desk.world.refund())
    assert answer.envelope["cause"] in {"policy_error", "timeout"}

    assert await refused(approve(desk, answer.envelope["intent_id"], "carol")) == (409, "CONFLICT")


async def test_a_worker_that_held_the_lease_settles_nothing_after_an_approval(desk):
    intent_id = await unevaluated(desk)
    stored = await desk.store.get(intent_id)
    lease(desk, intent_id)

    await approve(desk, intent_id, "carol")

    assert state(desk, intent_id) == "waiting"
    with pytest.raises(MovedOn):
        await desk.world.authorizer.end(
            waiting_intent(stored, epoch=7), status=Status.EXPIRED, reason_code=ReasonCode.EXPIRED, detail="late"
        )


# --- deny, cancel -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leased", [False, True])
async def test_a_denial_is_final_and_names_who_and_why_in_the_log(desk, leased):
    intent_id = await unevaluated(desk)
    if leased:
        lease(desk, intent_id)

    tended = await desk.tending.deny(intent_id, by="bob", version=1, note="not today")

    assert (tended.case.queued.stored.status, tended.case.queued.stored.reason_code) == ("denied", "OPERATOR_DENIED")
    assert state(desk, intent_id) is None
    last = desk.recording.log()[-1].members
    assert (last["by"], last["note"], last["reason_code"]) == ("operator:bob", "not today", "OPERATOR_DENIED")
    assert await refused(desk.tending.deny(intent_id, by="bob", version=2, note="again")) == (409, "CONFLICT")


async def test_a_denial_needs_a_note_and_a_cancellation_none(desk):
    first, second = await held(desk, "a"), await held(desk, "b", cents=60_001)

    assert await refused(desk.tending.deny(first, by="bob", version=1, note=None)) == (400, "REQUEST_MALFORMED")
    assert await refused(desk.tending.cancel(second, by="bob", version=7, note=None)) == (409, "CONFLICT")
    await desk.tending.cancel(second, by="bob", version=1, note=None)

    assert [await status(desk, one) for one in (first, second)] == ["held", "cancelled"]


async def test_a_late_allow_can_still_be_denied(desk):
    intent_id = await held(desk)
    await approve(desk, intent_id)

    await desk.tending.deny(intent_id, by="bob", version=await version(desk, intent_id), note="no")

    assert await refused(desk.submissions.claim("support", intent_id)) == (409, "NOT_CLAIMABLE")


async def test_a_denial_that_a_worker_outran_is_tried_on_what_the_worker_made_of_it(desk):
    """Between the operator's look and the record, the worker brings the intent to its agent's door."""
    desk.world.signer.fault = Fault.DOWN
    intent_id = (await desk.submit(desk.world.refund())).envelope["intent_id"]
    stored = await desk.store.get(intent_id)
    end = desk.world.authorizer.end

    async def outrun(waiting, **more):
        desk.world.authorizer.end = end
        late = await desk.world.authorizer.reconsider(waiting_intent(stored, epoch=None))
        assert late.status is Status.CLAIMABLE
        return await end(waiting, **more)

    desk.world.authorizer.end = outrun

    await desk.tending.deny(intent_id, by="bob", version=stored.version, note="no")

    assert (await status(desk, intent_id), state(desk, intent_id)) == ("denied", None)


# --- move -------------------------------------------------------------------------------------------------------------


async def test_an_intent_goes_to_another_lane_with_a_head_start_and_keeps_its_place_in_a_slower_one(desk):
    intent_id = await unevaluated(desk)
    enqueued = (await desk.tending.look(intent_id)).queued.entry.enqueued_at

    up = (await desk.tending.reprioritize(intent_id, by="bob", version=1, lane=0, note=None)).case.queued.entry
    down = (await desk.tending.reprioritize(intent_id, by="bob", version=2, lane=3, note="later")).case.queued.entry

    assert (up.lane, (enqueued - up.rank_at).total_seconds()) == (0, 300)
    assert (down.lane, down.rank_at) == (3, enqueued)
    assert (await desk.store.get(intent_id)).envelope["queue"]["lane"] == "bulk"
    assert await refused(desk.tending.reprioritize(intent_id, by="bob", version=2, lane=1, note=None)) == (
        409,
        "CONFLICT",
    )


async def test_a_parked_intent_is_tried_again_with_all_its_attempts(desk):
    intent_id = await unevaluated(desk)
    assert await refused(desk.tending.retry(intent_id, by="bob", version=1, note=None)) == (409, "CONFLICT")
    desk.recording.database.tables.queue[intent_id] |= {"state": "parked", "attempts": 5}

    entry = (await desk.tending.retry(intent_id, by="bob", version=1, note=None)).case.queued.entry

    assert (entry.state, entry.attempts) == ("waiting", 0)
    assert kinds(desk)[-1] == "queue.retried"


async def test_a_held_intent_is_judged_again_on_the_policies_in_force(desk):
    intent_id = await held(desk)
    looser = BUNDLE["rules/refunds.cedar"].replace(b"> 50000", b"> 90000")
    desk.world.policies.policy = Policy.compile(read_bundle({**BUNDLE, "rules/refunds.cedar": looser}))

    assert await refused(desk.tending.retry(intent_id, by="bob", version=2, note=None)) == (409, "CONFLICT")
    tended = await desk.tending.retry(intent_id, by="bob", version=1, note=None)

    assert tended.outcome.status is Status.CLAIMABLE


async def test_a_held_intent_that_is_over_time_is_not_judged_again(desk):
    intent_id = await held(desk)
    desk.world.clock.advance(3600)

    assert await refused(desk.tending.retry(intent_id, by="bob", version=1, note=None)) == (409, "CONFLICT")
    assert kinds(desk) == ["decision"]


# --- many, and looking ------------------------------------------------------------------------------------------------


async def test_of_many_one_that_is_refused_harms_no_other(desk):
    ids = [await held(desk, f"k{n}", cents=60_000 + n) for n in range(3)]

    def deny(intent_id, version):
        return lambda: desk.tending.deny(intent_id, by="bob", version=version, note="no")

    results = await desk.tending.each([deny(ids[0], 1), deny(ids[1], 9), deny("int_unknown", 1), deny(ids[2], 1)])

    assert [isinstance(result, Problem) for result in results] == [False, True, True, False]
    assert [await status(desk, one) for one in ids] == ["denied", "held", "denied"]


async def test_a_look_shows_what_is_approved_and_what_it_takes(desk):
    intent_id = await held(desk)

    case = await desk.tending.look(intent_id)

    assert case.intent.parameters == {"amount_cents": 60_000}
    [need] = case.needs
    assert (need.rule, need.role, need.count, need.missing) == ("big-refunds", "finance", 1, 1)
    assert case.rules == (("big-refunds", "refunds over 500.00 need finance"),)
    assert (case.impact, case.people_in_outage) == ("high", None)
    assert {factor.name for factor in case.risk.factors} >= {"impact"}


async def test_at_a_glance_the_needs_are_those_of_the_bundle_that_held(desk):
    intent_id = await held(desk)
    glances = await desk.tending.glance([intent_id])
    [need] = glances[intent_id][1]
    assert (need.role, need.missing) == ("finance", 1)

    desk.world.policies.policy = Policy.compile(read_bundle(TWO))
    assert (await desk.tending.glance([intent_id]))[intent_id][1] is None
