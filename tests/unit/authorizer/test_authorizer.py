"""What happens to an intent, one broken part at a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from holdfast.intent import Priority, Resource
from holdfast.reasons import Cause, Decision, ReasonCode, Status
from holdfast.token import verify_signature
from world import ISSUER, START, Fault, World

from intent_queue.drain import Postponed
from intent_queue.item import ClaimedItem
from intent_queue.order import Lane
from intent_queue.states import State
from services.authorizer import AlreadyKnown, IdempotencyKeyRequired, MovedOn
from services.draining import AuthorizingDecider
from services.ports import MoveIntent, OpenIntent, StoreUnreachable


@pytest.fixture
def world() -> World:
    return World()


async def test_an_allowed_intent_gets_a_token_bound_to_exactly_that_action(world):
    outcome = await world.submit(world.refund())

    assert outcome.http_status == 200
    assert (outcome.decision, outcome.status, outcome.reason_code) == ("allow", "granted", "ALLOWED")
    claims = verify_signature(outcome.token, world.signer.verify_keys())
    assert (claims.iss, claims.aud, claims.sub, claims.txn) == (ISSUER, "payments-api", "support", outcome.intent_id)
    assert claims.exp - claims.iat == 60
    assert claims.rcp == str(outcome.receipt)
    assert claims.pol == world.policies.policy.digest


async def test_a_token_never_leaves_before_its_record_is_durable(world):
    """An unrecorded permission is an unaccountable one."""
    world.recorder.fault = Fault.SLOW

    outcome = await world.submit(world.refund())

    assert outcome.reason_code is ReasonCode.AUDIT_UNAVAILABLE
    assert outcome.token is None
    assert outcome.http_status == 503


async def test_an_allow_that_was_not_released_is_followed_by_a_record_that_says_so(world):
    world.recorder.fault = Fault.SLOW

    await world.submit(world.refund())

    [denial] = world.recorder.entries("decision")
    assert denial.members["reason_code"] == "AUDIT_UNAVAILABLE"
    assert isinstance(denial.effect, OpenIntent)
    assert denial.effect.over_jti is not None
    assert denial.effect.queue is not None


async def test_the_record_of_an_allow_rests_on_a_commit_never_on_the_journal(world):
    world.recorder.fault = Fault.SILENT  # settles, but in the journal

    outcome = await world.submit(world.refund())

    assert outcome.token is None


@pytest.mark.parametrize("fault", [Fault.DOWN, Fault.SLOW, Fault.WRONG, Fault.SILENT])
async def test_a_signer_that_fails_in_any_way_releases_nothing_and_the_intent_waits(world, fault):
    world.signer.fault = fault

    outcome = await world.submit(world.refund())

    assert (outcome.reason_code, outcome.status) == ("SIGNING_UNAVAILABLE", "queued")
    assert outcome.token is None
    [failed] = world.recorder.entries("signing_failed")
    [allowed] = world.recorder.entries("decision")
    assert failed.effect.over_jti == allowed.effect.jti


async def test_a_store_that_is_away_is_not_a_policys_no(world):
    world.store.fault = Fault.DOWN

    outcome = await world.submit(world.refund())

    assert (outcome.reason_code, outcome.cause) == ("EVALUATION_UNAVAILABLE", Cause.STORE_UNREACHABLE)
    assert (outcome.decision, outcome.status, outcome.http_status) == ("deny", "queued", 503)
    assert outcome.retry_after_s > 0


async def test_after_three_failures_the_circuit_is_open_and_answers_at_once(world):
    world.store.fault = Fault.DOWN
    for _ in range(3):
        await world.submit(world.refund())

    world.store.fault = Fault.NONE  # nobody has proven it yet
    outcome = await world.submit(world.refund())

    assert (outcome.reason_code, outcome.cause) == ("EVALUATION_UNAVAILABLE", Cause.CIRCUIT_OPEN)


async def test_an_evaluation_that_fails_by_itself_never_opens_the_circuit(world):
    world.evaluator.fault = Fault.SILENT
    for _ in range(10):
        assert (await world.submit(world.refund())).cause is Cause.POLICY_ERROR

    world.evaluator.fault = Fault.NONE
    assert (await world.submit(world.refund())).token is not None


async def test_a_late_evaluation_is_a_timeout(world):
    world.evaluator.fault = Fault.SLOW

    assert (await world.submit(world.refund())).cause is Cause.TIMEOUT


async def test_a_verdict_about_another_action_allows_nothing(world):
    world.evaluator.fault = Fault.WRONG

    assert (await world.submit(world.refund())).reason_code is ReasonCode.EVALUATION_UNAVAILABLE


async def test_a_stale_bundle_decides_nothing(world):
    world.policies.fault = Fault.DOWN

    outcome = await world.submit(world.refund())

    assert outcome.cause is Cause.STALE_BUNDLE


@pytest.mark.parametrize("fault", [Fault.DOWN, Fault.SLOW, Fault.WRONG, Fault.SILENT])
async def test_what_cannot_be_classified_is_not_decided(world, fault):
    world.classifier.fault = fault

    outcome = await world.submit(world.refund())

    assert (outcome.reason_code, outcome.status) == ("CLASSIFICATION_UNAVAILABLE", "queued")


async def test_an_unknown_action_is_rejected_for_good(world):
    outcome = await world.submit(world.refund(action="payments.everything.drop"))

    assert (outcome.reason_code, outcome.status, outcome.http_status) == ("INTENT_UNCLASSIFIED", "denied", 403)
    assert outcome.place is None


async def test_a_rules_no_is_final_and_never_queued(world):
    outcome = await world.submit(world.refund(cents=600_000))

    assert (outcome.reason_code, outcome.status) == ("POLICY_DENIED", "denied")
    assert outcome.determining == ("no-huge-refunds",)
    assert world.recorder.entries("decision")[0].effect.queue is None


async def test_what_needs_a_human_is_held_and_parked(world):
    outcome = await world.submit(world.refund(cents=60_000))

    assert (outcome.decision, outcome.status, outcome.reason_code) == ("hold", "held", "APPROVAL_REQUIRED")
    assert outcome.http_status == 403
    assert world.recorder.entries("decision")[0].effect.queue.state == "held"


async def test_an_agent_without_a_manifest_can_do_nothing(world):
    """The empty case: no manifest, no tools."""
    outcome = await world.submit(world.refund(), agent="nobody")

    assert outcome.reason_code is ReasonCode.ACTION_NOT_AVAILABLE


async def test_a_limit_that_is_reached_says_when_to_come_back(world):
    for _ in range(2):
        assert (await world.submit(world.search(), agent="limited", key=None)).token is not None

    outcome = await world.submit(world.search(), agent="limited", key=None)

    assert (outcome.reason_code, outcome.http_status) == ("RATE_LIMITED", 429)
    assert 60 < outcome.retry_after_s <= 66  # spread, never earlier


async def test_high_impact_needs_an_idempotency_key_and_nothing_is_recorded_without(world):
    with pytest.raises(IdempotencyKeyRequired):
        await world.submit(world.refund(), key=None)

    assert world.recorder.chained == []


async def test_a_denial_in_an_outage_rests_on_the_journal_and_says_so(world):
    world.store.fault = Fault.DOWN
    world.recorder.in_journal = True

    outcome = await world.submit(world.refund())

    assert (outcome.status, outcome.place.state) == ("queued", "journal")


async def test_what_can_not_be_recorded_anywhere_is_refused_and_the_client_keeps_it(world):
    world.recorder.fault = Fault.DOWN

    outcome = await world.submit(world.refund(cents=600_000))

    assert (outcome.reason_code, outcome.status, outcome.http_status) == ("AUDIT_UNAVAILABLE", "unqueued", 503)
    assert outcome.receipt is None


async def test_a_full_queue_says_so(world):
    world.store.fault = Fault.DOWN
    world.waiting.is_full = True

    outcome = await world.submit(world.refund())

    assert (outcome.reason_code, outcome.status, outcome.http_status) == ("QUEUE_FULL", "denied", 503)


class NobodyAnswers:
    """The Places port of a store that is away."""

    def __init__(self) -> None:
        self.asked = 0

    async def waiting_for(self, agent: str, act_hash: str) -> None:
        self.asked += 1
        raise StoreUnreachable("a test says so")


@pytest.mark.parametrize(("known_to_be_away", "asked"), [(False, 1), (True, 0)])
async def test_a_queue_is_full_too_where_nobody_can_tell_who_waits_and_a_store_known_to_be_away_is_not_asked(
    known_to_be_away, asked
):
    places = NobodyAnswers()
    world = World(places=places)
    world.store.fault = Fault.DOWN
    world.waiting.is_full = True
    if known_to_be_away:
        world.boundaries.audit.dependency_is_gone("a test says so")

    outcome = await world.submit(world.refund())

    assert (outcome.reason_code, outcome.status, places.asked) == ("QUEUE_FULL", "denied", asked)


async def test_an_agent_that_does_not_want_to_wait_keeps_its_intent(world):
    world.store.fault = Fault.DOWN

    outcome = await world.submit(world.refund(queue=False))

    assert (outcome.status, outcome.place) == (Status.UNQUEUED, None)


async def test_of_two_submissions_with_one_key_only_the_stored_one_counts(world):
    world.recorder.refuse_effects = True

    with pytest.raises(AlreadyKnown):
        await world.submit(world.refund())


async def test_personal_parameters_never_reach_the_log(world):
    await world.submit(world.refund(parameters={"amount_cents": 100, "note": "Jane Doe, Elm Street"}))

    [pending] = world.recorder.durable
    assert b"Jane" not in pending.body
    assert b'"personal_parameters":["note"]' in pending.body


async def test_a_waiting_intent_that_is_allowed_now_becomes_claimable_and_nothing_is_signed(world):
    outcome = await world.authorizer.reconsider(world.waiting_intent(world.refund()))

    assert (outcome.status, outcome.decision, outcome.token) == ("claimable", "allow", None)
    assert world.signer.signed == []
    effect = world.recorder.entries("decision")[0].effect
    assert isinstance(effect, MoveIntent)
    assert (effect.epoch, effect.queue_state) == (1, "claimable")
    assert (effect.claim_by - world.clock.now()).total_seconds() == 120


async def test_a_waiting_intent_that_policy_denies_ends_denied(world):
    outcome = await world.authorizer.reconsider(world.waiting_intent(world.refund(cents=600_000)))

    assert (outcome.status, outcome.reason_code) == ("denied", "POLICY_DENIED")


async def test_a_second_outage_leaves_a_waiting_intent_as_it_was(world):
    world.store.fault = Fault.DOWN

    outcome = await world.authorizer.reconsider(world.waiting_intent(world.refund()))

    assert outcome.reason_code is ReasonCode.EVALUATION_UNAVAILABLE
    assert world.recorder.chained == []


async def test_a_worker_that_lost_its_lease_settles_nothing(world):
    world.recorder.refuse_effects = True

    with pytest.raises(MovedOn):
        await world.authorizer.reconsider(world.waiting_intent(world.refund()))


async def test_a_claim_judges_once_more_before_it_mints(world):
    outcome = await world.authorizer.claim(world.waiting_intent(world.refund(cents=600_000), epoch=None))

    assert (outcome.decision, outcome.status) == (Decision.DENY, Status.DENIED)
    assert world.signer.signed == []


async def test_a_claim_mints_a_token_with_the_receipt_of_its_own_record(world):
    outcome = await world.authorizer.claim(world.waiting_intent(world.refund(), epoch=None))

    claims = verify_signature(outcome.token, world.signer.verify_keys())
    assert claims.rcp == str(world.recorder.durable[0].receipt)


async def test_a_claim_counts_against_no_limit_twice(world):
    waiting = world.waiting_intent(world.search(), agent="limited", epoch=None)

    for _ in range(5):
        assert (await world.authorizer.claim(waiting)).token is not None


async def test_what_an_agent_says_of_its_priority_never_changes_its_lane(world):
    world.store.fault = Fault.DOWN

    low = await world.submit(world.search(priority=Priority.LOW), key=None)
    critical = await world.submit(world.search(priority=Priority.CRITICAL), key=None)

    assert low.place.lane == critical.place.lane == 3


async def test_a_resource_that_only_looks_like_another_has_another_digest(world):
    first = await world.submit(world.search(resource=Resource(type="kb", id="a/b")), key=None)
    second = await world.submit(world.search(resource=Resource(type="kb.a", id="b")), key=None)

    hashes = {verify_signature(o.token, world.signer.verify_keys()).act_hash for o in (first, second)}
    assert len(hashes) == 2


async def test_behind_an_open_circuit_an_intent_still_waits_in_the_lane_of_its_impact(world):
    world.store.fault = Fault.DOWN
    for _ in range(3):
        await world.submit(world.refund())

    outcome = await world.submit(world.refund())

    assert (outcome.cause, outcome.status, outcome.place.lane) == (Cause.CIRCUIT_OPEN, "queued", 1)


# --- limits and the drain ---------------------------------------------------------------------------------------------


async def test_a_drained_intent_over_its_agents_limit_goes_on_waiting_and_nothing_is_recorded(world):
    """A queue drained in one burst must not cost an agent its work."""
    for _ in range(2):
        await world.submit(world.search(), agent="limited", key=None)
    before = len(world.recorder.durable)

    outcome = await world.authorizer.reconsider(limited(world, wait_s=900))

    assert (outcome.status, outcome.reason_code, outcome.retry_after_s) == (Status.QUEUED, ReasonCode.RATE_LIMITED, 60)
    assert outcome.token is None
    assert len(world.recorder.durable) == before


@pytest.mark.parametrize("wait_s", [None, 59, 60])
async def test_a_drained_intent_that_would_expire_before_the_limit_lets_it_through_is_denied(world, wait_s):
    for _ in range(2):
        await world.submit(world.search(), agent="limited", key=None)

    outcome = await world.authorizer.reconsider(limited(world, wait_s=wait_s))

    assert (outcome.status, outcome.reason_code) == (Status.DENIED, ReasonCode.RATE_LIMITED)
    assert world.recorder.durable[-1].entry.members["reason_code"] == "RATE_LIMITED"


async def test_a_rules_no_never_goes_on_waiting(world):
    waiting = replace(
        world.waiting_intent(world.refund(cents=600_000)), expires_at=world.clock.now() + timedelta(hours=1)
    )

    assert (await world.authorizer.reconsider(waiting)).status is Status.DENIED


async def test_the_drain_gives_a_limited_intent_back_until_the_limit_lets_it_through(world):
    for _ in range(2):
        await world.submit(world.search(), agent="limited", key=None)
    ask = world.ask(world.search(), agent="limited")
    item = ClaimedItem(
        intent_id=ask.intent_id,
        agent="limited",
        lane=Lane.BULK,
        rank_at=START,
        enqueued_at=START,
        expires_at=START + timedelta(minutes=15),
        attempts=0,
        epoch=1,
        version=1,
        submission=ask.submission,
        reason_code="EVALUATION_UNAVAILABLE",
        leased_from=State.WAITING,
    )

    result = await AuthorizingDecider(world.authorizer).authorize(item)

    assert result == Postponed(until=START + timedelta(seconds=61))


def limited(world, *, wait_s):
    expires_at = None if wait_s is None else world.clock.now() + timedelta(seconds=wait_s)
    return replace(world.waiting_intent(world.search(), agent="limited"), expires_at=expires_at)


@pytest.mark.parametrize(
    ("priority", "head_start_s"),
    [(Priority.LOW, 0), (Priority.NORMAL, 0), (Priority.HIGH, 30), (Priority.CRITICAL, 60)],
)
async def test_a_hint_moves_an_intent_inside_its_lane_by_the_queues_own_rule(world, priority, head_start_s):
    """docs/queue.md states these seconds."""
    world.store.fault = Fault.DOWN

    await world.submit(world.search(priority=priority), key=None)

    row = world.recorder.entries("decision")[0].effect.queue
    assert (row.enqueued_at - row.rank_at).total_seconds() == head_start_s


@pytest.mark.parametrize("name", ["token", "audit"])
async def test_whoever_is_told_of_an_open_boundary_is_told_how_many_intents_it_refused(world, name):
    """Before a token is signed or its record waited for, an open boundary is found out without a call."""
    boundary = getattr(world.boundaries, name)
    boundary.force_open("a test")

    for _ in range(3):
        assert (await world.submit(world.refund())).token is None

    assert boundary.refused == 3
