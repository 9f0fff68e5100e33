"""What operators do with waiting intents: look, approve, deny, cancel, reorder, try again.

Each names the version that the operator saw. Whatever a worker does beside it comes too late: an operator's change
raises the version, which a worker's lease names. A no is a no to the intent, wherever a worker brought it meanwhile.

An approval permits nothing by itself: with it the intent is judged again, in full, as of now. Source: design 4.4.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from holdfast.errors import InvalidIntent
from holdfast.reasons import ReasonCode, Status

from intent_queue.order import MAX_BOOST_S
from services.authorizer import MovedOn
from services.boundary import BoundaryUnavailable
from services.decision.approvals import (
    GRAVE,
    Approval,
    asked_by,
    counting,
    needs,
    people_in_outage,
)
from services.decision.catalog import Impact
from services.decision.fail_open import DEPENDENCY_GONE
from services.decision.policy import Request
from services.decision.verdict import Deny, Hold, Unavailable
from services.judgement import action_of
from services.outcome import LANE_NAMES, Place
from services.ports import Entry, StoreUnreachable
from services.queue_effects import ApproveIntent, ReorderIntent, RequeueIntent
from services.settling import committed
from services.submissions import Problem, waiting_intent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from holdfast.intent import Intent
    from holdfast.strict_json import JSON

    from services.authorizer import Authorizer
    from services.boundary import Boundary
    from services.decision.approvals import Need
    from services.decision.policy import Classified, Policy
    from services.decision.risk import Risk
    from services.decision.verdict import Verdict
    from services.judgement import WaitingIntent
    from services.outcome import Outcome
    from services.ports import Activity, Clock, Effect, Ids, PolicySource, Recorder, StoredIntent
    from services.queued import Glance, QueuedIntent, QueuedIntents, QueueEntry

#: Another writer may have its hands on an intent for a moment.
_TRIES: Final = 5
_PAUSE_S: Final = 0.05
#: Of a bulk. The rest of the pool's connections is for live traffic.
_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What an operator has to see of an intent before saying yes or no, as of now and on the policies in force.

    `verdict` is what the rules say of it without any approval; the agent's limits are not asked. `counted` are the
    approvals that count now. `people_in_outage` is how many it takes while it cannot be evaluated; None where no
    approval stands in for what prevented that.
    """

    queued: QueuedIntent
    intent: Intent
    policy: Policy
    act_hash: str
    verdict: Verdict
    impact: Impact | None = None
    risk: Risk | None = None
    counted: tuple[Approval, ...] = ()
    needs: tuple[Need, ...] = ()
    people_in_outage: int | None = None

    @property
    def rules(self) -> tuple[tuple[str, str | None], ...]:
        """The rules that determine the verdict, with their reasons."""
        reasons = {rule.id: rule.reason for rule in self.policy.rules}
        return tuple((rule, reasons.get(rule)) for rule in self.verdict.determining)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tended:
    """An intent after an operator's change. `outcome` is what it was judged again to be, where it was."""

    case: Case
    outcome: Outcome | None = None
    approval_id: str | None = None


class Tending:
    """What operators may do. Names of operators, and their roles in the service, are checked by the caller."""

    def __init__(
        self,
        *,
        authorizer: Authorizer,
        queued: QueuedIntents,
        policies: PolicySource,
        activity: Activity,
        recorder: Recorder,
        audit: Boundary,
        clock: Clock,
        ids: Ids,
        on_waiting: Callable[[], None],
    ) -> None:
        self._authorizer = authorizer
        self._queued = queued
        self._policies = policies
        self._activity = activity
        self._recorder = recorder
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._on_waiting = on_waiting

    # --- look -----------------------------------------------------------------------------------------------------

    async def glance(self, intent_ids: Sequence[str]) -> Mapping[str, tuple[Glance, tuple[Need, ...] | None]]:
        """Return what a list shows of each intent, and what its holds need, None where other policies held it.

        Raises: Problem 503.
        """
        try:
            glances = await self._queued.glances(intent_ids)
        except StoreUnreachable as error:
            raise _away("the queue cannot be read now") from error
        policy = self._policies.current()
        return {intent_id: (glance, _needs_at_a_glance(policy, glance)) for intent_id, glance in glances.items()}

    async def look(self, intent_id: str) -> Case:
        """Return an intent with what it takes to permit it. Raises: Problem 404, 503."""
        queued = await self._read(intent_id)
        intent, policy, agent = _as_waiting(queued).ask.intent, self._policies.current(), queued.stored.agent
        classified = policy.classify(intent)
        if isinstance(classified, Deny):
            act_hash = action_of(intent, intent.executor or "").digest()
            return Case(queued=queued, intent=intent, policy=policy, act_hash=act_hash, verdict=classified)
        act_hash = action_of(intent, classified.executor).digest()
        request = await self._request(queued.stored, intent, policy, classified)
        verdict = policy.evaluate(request)
        counted = counting(queued.approvals, policy=policy, agent=agent, intent=intent, act_hash=act_hash)
        impact = _graver(classified.impact, queued.stored.envelope)
        people = tuple(approval.approved_by for approval in counted)
        return Case(
            queued=queued,
            intent=intent,
            policy=policy,
            act_hash=act_hash,
            verdict=verdict,
            impact=impact,
            risk=request.risk,
            counted=counted,
            needs=needs(policy, verdict.determining, people) if isinstance(verdict, Hold) else (),
            people_in_outage=people_in_outage(impact) if _waits_for_evaluation(queued) else None,
        )

    async def _request(self, stored: StoredIntent, intent: Intent, policy: Policy, classified: Classified) -> Request:
        now = self._clock.now()
        await self._activity.recall(stored.agent)
        signals = self._activity.signals(stored.agent, intent, now)
        return Request(
            agent=stored.agent,
            intent=intent,
            classified=classified,
            risk=policy.assess(intent, classified, agent=stored.agent, signals=signals, now=now),
            now=now,
            drained=True,
            queue_age_s=max(0, int((now - stored.created_at).total_seconds())),
            intent_id=stored.intent_id,
        )

    # --- approve --------------------------------------------------------------------------------------------------

    async def approve(
        self, intent_id: str, *, by: str, version: int, act_hash: str, bundle: str, note: str | None
    ) -> Tended:
        """Record one person's yes, and judge the intent again with it.

        Raises: Problem 400 without a note that is needed, 403 for who may not, 404, 409 for what is not as it was
        seen, 503.
        """
        for _ in range(_TRIES):
            case = await self._seen(intent_id, version, {"held", "waiting"})
            self._may_approve(case, by=by, act_hash=act_hash, bundle=bundle, note=note)
            known = next((one for one in case.counted if one.approved_by.casefold() == by.casefold()), None)
            approval = known or self._approval(case, by=by, note=note)
            effect = None if known is not None else ApproveIntent(approval=approval, expect_version=version)
            members = _approved(approval, repeated=known is not None)
            if await self._record("intent.approved", members, effect):
                return await self._judged_again(
                    case, by=by, version=version + (effect is not None), approval_id=approval.approval_id
                )
            await asyncio.sleep(_PAUSE_S)
        raise await self._stale(intent_id)

    def _may_approve(self, case: Case, *, by: str, act_hash: str, bundle: str, note: str | None) -> None:
        # 1. What was seen is what stands.
        stored = case.queued.stored
        if bundle != case.policy.digest:
            raise _conflict("other policies are in force than those that were shown", case.queued)
        if act_hash != case.act_hash:
            raise _conflict("the action is not the one that was shown", case.queued)
        # 2. A rule's no is no question to people, and a fault of one evaluation none either.
        if isinstance(case.verdict, Deny):
            raise Problem(403, ReasonCode.FORBIDDEN, f"policy denies it, which nobody overrides: {case.verdict.detail}")
        if isinstance(case.verdict, Unavailable):
            raise _conflict(case.verdict.detail, case.queued)
        # 3. Nobody approves what their own agent asked for.
        if asked_by(by, policy=case.policy, agent=stored.agent, intent=case.intent):
            raise Problem(403, ReasonCode.FORBIDDEN, "nobody approves what their own agent asked for")
        # 4. The one asked is one of those who are asked.
        held = case.people_in_outage is None
        if held and stored.status != Status.HELD:
            raise _conflict("it waits for a dependency that nobody's approval stands in for", case.queued)
        if held and isinstance(case.verdict, Hold) and not _roles(case, by):
            roles = ", ".join(sorted({need.role for need in case.needs}))
            raise Problem(403, ReasonCode.FORBIDDEN, f"the policies ask for somebody of {roles}")
        # 5. With the reason, where it matters.
        if note is None and (case.impact is None or case.impact in GRAVE):
            raise Problem(400, ReasonCode.REQUEST_MALFORMED, "an approval of high or critical impact needs a `note`")

    def _approval(self, case: Case, *, by: str, note: str | None) -> Approval:
        return Approval(
            approval_id=self._ids.new("apr_"),
            intent_id=case.queued.stored.intent_id,
            act_hash=case.act_hash,
            bundle=case.policy.digest,
            approved_by=by,
            roles=_roles(case, by),
            approved_at=self._clock.now(),
            note=note,
        )

    async def _judged_again(self, case: Case, *, by: str, version: int, approval_id: str | None = None) -> Tended:
        waiting = self._waiting(case.queued, attended=_attended(by, None), version=version)
        intent_id = case.queued.stored.intent_id
        try:
            outcome: Outcome | None = await self._authorizer.reconsider(waiting)
        except MovedOn:
            outcome = None  # somebody else's change came in between; what stands now is shown
        if outcome is not None and outcome.reason_code is ReasonCode.AUDIT_UNAVAILABLE:
            raise _unrecorded()
        if outcome is not None and outcome.status is Status.QUEUED:
            self._on_waiting()
        return Tended(case=await self.look(intent_id), outcome=outcome, approval_id=approval_id)

    # --- refuse ---------------------------------------------------------------------------------------------------

    async def deny(self, intent_id: str, *, by: str, version: int, note: str | None) -> Tended:
        """End a waiting or claimable intent with a no. Raises: Problem 400, 404, 409, 503."""
        if note is None:
            raise Problem(400, ReasonCode.REQUEST_MALFORMED, "a denial needs a `note`")
        return await self._end(
            intent_id, Status.DENIED, ReasonCode.OPERATOR_DENIED, "an operator refused it", by, version, note
        )

    async def cancel(self, intent_id: str, *, by: str, version: int, note: str | None) -> Tended:
        """End a waiting or claimable intent that nobody needs any more. Raises: Problem 404, 409, 503."""
        return await self._end(
            intent_id, Status.CANCELLED, ReasonCode.CANCELLED, "an operator cancelled it", by, version, note
        )

    async def _end(
        self,
        intent_id: str,
        status: Status,
        code: ReasonCode,
        detail: str,
        by: str,
        version: int,
        note: str | None,
    ) -> Tended:
        queued = await self._current(intent_id, version)
        for _ in range(_TRIES):
            if queued.entry is None:
                raise _conflict(f"the intent is {queued.stored.status}", queued)
            waiting = self._waiting(queued, attended=_attended(by, note), version=queued.stored.version)
            try:
                outcome = await self._authorizer.end(waiting, status=status, reason_code=code, detail=detail)
            except MovedOn:
                # A worker was first, or the agent. While the intent is not over, the operator's word is the last.
                queued = await self._read(intent_id)
                continue
            if outcome.status is not status:
                raise _unrecorded()
            return Tended(case=await self.look(intent_id), outcome=outcome)
        raise _conflict("the intent is being moved by others", queued)

    # --- move -----------------------------------------------------------------------------------------------------

    async def reprioritize(self, intent_id: str, *, by: str, version: int, lane: int, note: str | None) -> Tended:
        """Move an intent to a lane: ahead in it by the longest head start there is, unless it is a slower one.

        Raises: Problem 404, 409, 503.
        """
        for _ in range(_TRIES):
            case = await self._seen(intent_id, version, {"waiting", "held", "parked"})
            entry = _entry(case.queued)
            head_start_s = MAX_BOOST_S if lane <= entry.lane else 0.0
            effect = ReorderIntent(
                intent_id=intent_id,
                expect_version=version,
                lane=lane,
                lane_name=LANE_NAMES[lane],
                rank_at=entry.enqueued_at - timedelta(seconds=head_start_s),
                at=self._clock.now(),
            )
            members: dict[str, JSON] = {"intent_id": intent_id, "lane": lane, **_attended(by, note)}
            if await self._record("queue.reprioritized", members, effect):
                self._on_waiting()
                return Tended(case=await self.look(intent_id))
            await asyncio.sleep(_PAUSE_S)
        raise await self._stale(intent_id)

    async def retry(self, intent_id: str, *, by: str, version: int, note: str | None) -> Tended:
        """Let a parked intent be decided again, or judge a held one on the policies in force.

        Raises: Problem 404, 409, 503.
        """
        for _ in range(_TRIES):
            case = await self._seen(intent_id, version, {"parked", "held"})
            if _entry(case.queued).state == "held":
                return await self._judged_again(case, by=by, version=version)
            effect = RequeueIntent(intent_id=intent_id, expect_version=version, at=self._clock.now())
            if await self._record("queue.retried", {"intent_id": intent_id, **_attended(by, note)}, effect):
                self._on_waiting()
                return Tended(case=await self.look(intent_id))
            await asyncio.sleep(_PAUSE_S)
        raise await self._stale(intent_id)

    # --- many -----------------------------------------------------------------------------------------------------

    @staticmethod
    async def each(changes: Iterable[Callable[[], Awaitable[Tended]]]) -> list[Tended | Problem]:
        """Make each change by itself, a few at once; what is refused harms no other. In the order given."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(change: Callable[[], Awaitable[Tended]]) -> Tended | Problem:
            async with turns:
                try:
                    return await change()
                except Problem as problem:
                    return problem

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(change)) for change in changes]
        return [task.result() for task in tasks]

    # --- details --------------------------------------------------------------------------------------------------

    async def _read(self, intent_id: str) -> QueuedIntent:
        try:
            queued = await self._queued.get(intent_id)
        except StoreUnreachable as error:
            raise _away("the intent cannot be read now") from error
        if queued is None:
            raise Problem(404, ReasonCode.NOT_FOUND, "there is no such intent")
        return queued

    async def _current(self, intent_id: str, version: int) -> QueuedIntent:
        queued = await self._read(intent_id)
        if queued.stored.version != version:
            raise _conflict("the intent has changed since it was shown", queued)
        return queued

    async def _seen(self, intent_id: str, version: int, states: set[str]) -> Case:
        """Return the case of an intent that still is what the operator saw. Raises: Problem 404, 409, 503."""
        case = await self.look(intent_id)
        if case.queued.stored.version != version:
            raise _conflict("the intent has changed since it was shown", case.queued)
        entry = case.queued.entry
        if entry is None or entry.state not in states:
            state = case.queued.stored.status if entry is None else entry.state
            raise _conflict(f"the intent is {state}", case.queued)
        if entry.expires_at <= self._clock.now():
            raise _conflict("the time to wait is over", case.queued)
        return case

    async def _stale(self, intent_id: str) -> Problem:
        return _conflict("the intent is being moved by others", await self._read(intent_id))

    def _waiting(self, queued: QueuedIntent, *, attended: Mapping[str, JSON], version: int) -> WaitingIntent:
        entry = _entry(queued)
        return replace(
            _as_waiting(queued),
            version=version,
            held=entry.state == "held",
            expires_at=entry.expires_at,
            place=Place(state="durable", lane=entry.lane, position=None, expires_at=entry.expires_at),
            attended=attended,
        )

    async def _record(self, kind: str, members: Mapping[str, JSON], effect: Effect | None) -> bool:
        """Record on a commit alone. Returns whether the effect was applied. Raises: Problem 503."""
        entry = Entry(kind=kind, at=self._clock.now(), members=members, effect=effect)
        try:
            return (await committed(self._recorder, self._audit, entry)).applied
        except BoundaryUnavailable as error:
            raise _unrecorded() from error


# --- what is said of an intent ----------------------------------------------------------------------------------------


def _roles(case: Case, by: str) -> tuple[str, ...]:
    """Return the roles of an operator that the holding rules ask for."""
    return tuple(sorted({need.role for need in case.needs if by in case.policy.approvers(need.role)}))


def _needs_at_a_glance(policy: Policy, glance: Glance) -> tuple[Need, ...] | None:
    if glance.bundle != policy.digest:
        return None
    counting = (one for one in glance.approvals if (one.act_hash, one.bundle) == (glance.act_hash, glance.bundle))
    return needs(policy, glance.determining, [approval.approved_by for approval in counting])


def _waits_for_evaluation(queued: QueuedIntent) -> bool:
    """Return whether it waits because a dependency of its evaluation was away."""
    stored = queued.stored
    if stored.status != Status.QUEUED or stored.reason_code != ReasonCode.EVALUATION_UNAVAILABLE:
        return False
    return stored.envelope.get("cause") in DEPENDENCY_GONE


def _graver(impact: Impact, envelope: Mapping[str, JSON]) -> Impact:
    """Return the graver of the catalogue's impact and that of the decision, which a classifier may have raised."""
    decided = envelope.get("impact")
    order = tuple(Impact)
    return max(impact, Impact(decided), key=order.index) if isinstance(decided, str) else impact


def _entry(queued: QueuedIntent) -> QueueEntry:
    if queued.entry is None:
        raise _conflict(f"the intent is {queued.stored.status}", queued)
    return queued.entry


def _as_waiting(queued: QueuedIntent) -> WaitingIntent:
    try:
        return waiting_intent(queued.stored, epoch=None)
    except (ValueError, InvalidIntent) as error:
        raise _conflict("the stored submission cannot be read", queued) from error


# --- records and refusals ---------------------------------------------------------------------------------------------


def _attended(by: str, note: str | None) -> dict[str, JSON]:
    attended: dict[str, JSON] = {"by": f"operator:{by}"}
    if note is not None:
        attended["note"] = note
    return attended


def _approved(approval: Approval, *, repeated: bool) -> dict[str, JSON]:
    return {
        "approval_id": approval.approval_id,
        "intent_id": approval.intent_id,
        "act_hash": approval.act_hash,
        "bundle": approval.bundle,
        "roles": list(approval.roles),
        "repeated": repeated,
        **_attended(approval.approved_by, approval.note),
    }


def _conflict(detail: str, queued: QueuedIntent) -> Problem:
    """Refuse what is not as it was seen, and say which version stands."""
    return Problem(409, ReasonCode.CONFLICT, detail, members={"version": queued.stored.version})


def _unrecorded() -> Problem:
    return Problem(503, ReasonCode.AUDIT_UNAVAILABLE, "it could not be recorded", retry_after_s=2)


def _away(detail: str) -> Problem:
    return Problem(503, ReasonCode.SERVICE_UNAVAILABLE, detail, retry_after_s=2)
