"""What happens to an intent. Read this file and you know the system; everything else is a detail of one of its steps.

    1. classify   which category is it? Unknown is rejected.
    2. risk       how much harm could it do?
    3. evaluate   does policy allow it? Too late, unreachable or in error is a denial of its own kind.
    4. record     chain the record, so that its hash is known, and commit it.
    5. sign       beside the commit; the token carries the record's receipt, and is verified after signing.
    6. release    only when 4 and 5 both succeeded.

The order is the point. The record is chained before the signature, so that a token can prove that the log was cut; the
token leaves after the commit, so that no permission is unaccounted for. What fails on the way is a denial that says so.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from holdfast.reasons import Mode, ReasonCode, Status

from services.approved import ApprovedEvaluator, ApprovedInOutage
from services.boundary import BoundaryUnavailable, WrongAnswer
from services.breaker import State
from services.decision.fail_open import DEPENDENCY_GONE
from services.decision.policy import Request
from services.decision.verdict import Allow, Deny, Hold, Unavailable
from services.evidence import durable, is_a_classification, stands
from services.judgement import (
    COULD_NOT,
    NO_PROOF,
    UNDECIDED,
    Ask,
    Judgement,
    WaitingIntent,
    action_of,
    closed,
    could_not,
    log_members,
    may_ask_later,
    opening,
    outcome_of,
    queue_row,
    reason_code_of,
    stopped_by,
    stopped_here,
    token_claims,
    unclassified,
    unrecorded,
)
from services.minting import Mint
from services.openings import Openings
from services.outcome import Outcome, Place
from services.ports import Entry, MoveIntent, QueueRow, RecordingFailed, StoreUnreachable
from services.settling import committed, kept

if TYPE_CHECKING:
    from datetime import datetime

    from holdfast.audit.record import Receipt
    from holdfast.token import Claims

    from services.activations import BreakGlassUses
    from services.boundary import Boundary
    from services.decision.policy import Policy
    from services.ports import (
        Activity,
        Classifier,
        Clock,
        Effect,
        Evaluated,
        Evaluator,
        Ids,
        Pending,
        Places,
        PolicySource,
        Recorder,
        Settled,
        StandingOrders,
        TokenSigner,
        Waiting,
    )
    from services.queued import Approvals

_log = logging.getLogger(__name__)


class AlreadyKnown(Exception):
    """Its key is taken, its action (`act_hash`) waits already (perhaps as `same`), or it superseded too late."""

    def __init__(self, act_hash: str, same: str | None = None) -> None:
        super().__init__(act_hash)
        self.act_hash, self.same = act_hash, same


class MovedOn(Exception):
    """The stored intent was settled by somebody else in between."""


class IdempotencyKeyRequired(Exception):
    """High and critical impact need a key, so that a repeated request cannot act twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundaries:
    """The four boundaries an intent crosses."""

    intent: Boundary
    evaluation: Boundary
    token: Boundary
    audit: Boundary


class Authorizer:
    """Decides, records, signs, releases. Safe for concurrent use on one event loop."""

    def __init__(
        self,
        *,
        issuer: str,
        policies: PolicySource,
        orders: StandingOrders,
        uses: BreakGlassUses,
        classifier: Classifier,
        evaluator: Evaluator,
        approvals: Approvals,
        activity: Activity,
        waiting: Waiting,
        places: Places,
        recorder: Recorder,
        signer: TokenSigner,
        boundaries: Boundaries,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._issuer = issuer
        self._policies = policies
        self._classifier = classifier
        self._evaluator = ApprovedEvaluator(evaluator, approvals)
        self._approved = ApprovedInOutage(approvals, orders, ids, instance=uses.instance)
        self._activity = activity
        self._waiting = waiting
        self._places = places
        self._recorder = recorder
        self._mint = Mint(signer, boundaries.token)
        self._openings = Openings(orders, uses, clock, ids)
        self._orders = orders
        self._boundaries = boundaries
        self._clock = clock
        self._ids = ids

    # --- the three ways in ----------------------------------------------------------------------------------------

    async def submit(self, ask: Ask) -> Outcome:
        """Decide a new intent and release a token if it is allowed.

        Raises: AlreadyKnown, IdempotencyKeyRequired. Every other trouble is an outcome without a token.
        """
        try:
            judgement = await self._judge(ask, drained=False)
            self._require_key(ask, judgement)
            if isinstance(judgement.verdict, Allow):
                return await self._grant(ask, judgement)
            return await self._answer_no(ask, judgement)
        except (AlreadyKnown, IdempotencyKeyRequired):
            raise
        except Exception:  # noqa: BLE001 - the second of the two places
            # The last line of defence: a fault in this very code is a denial, and it is loud.
            _log.exception("the authorizer failed on %s", ask.intent_id)
            return unrecorded(ask, at=self._clock.now(), detail="the service failed while deciding")

    async def reconsider(self, waiting: WaitingIntent) -> Outcome:
        """Evaluate a waiting intent again from the start, on the active bundle. A late allow is claimable, not minted.

        Raises: MovedOn when the lease was lost. An outcome in NOT_DECIDED, or QUEUED, has changed nothing, but for an
        intent that was held: what is not decided now waits in line until it can be.
        """
        approved = bool(waiting.attended) and not waiting.held
        judgement = await self._judge(waiting.ask, drained=True, charge=not waiting.held, approved=approved)
        verdict = judgement.verdict
        if isinstance(verdict, Unavailable) and waiting.held and verdict.cause in DEPENDENCY_GONE:
            outcome = outcome_of(waiting.ask, judgement, status=Status.QUEUED, place=waiting.place)
            return await self._move(waiting, judgement, outcome, queue_state="waiting", claim_by=None)
        if isinstance(verdict, Unavailable) or may_ask_later(judgement, waiting.expires_at):
            return outcome_of(waiting.ask, judgement, status=Status.QUEUED)
        if isinstance(verdict, Allow):
            status, queue_state = Status.CLAIMABLE, "claimable"
            claim_by = judgement.at + timedelta(seconds=judgement.policy.settings.queue.claim_seconds)
        else:
            status, queue_state, claim_by = Status.DENIED, None, None
            if isinstance(verdict, Hold):
                status, queue_state = Status.HELD, "held"
        place = waiting.place if status is Status.HELD else None
        outcome = outcome_of(waiting.ask, judgement, status=status, place=place)
        return await self._move(waiting, judgement, outcome, queue_state=queue_state, claim_by=claim_by)

    async def claim(self, waiting: WaitingIntent) -> Outcome:
        """Mint the token of a claimable intent, after judging it once more as of now.

        Raises: MovedOn when it was claimed or ended in between.
        """
        judgement = await self._judge(waiting.ask, drained=True, charge=False, approved=True)
        if isinstance(judgement.verdict, Allow):
            return await self._grant(waiting.ask, judgement, claiming=waiting)
        if isinstance(judgement.verdict, Unavailable):
            return outcome_of(waiting.ask, judgement, status=Status.CLAIMABLE)
        status = Status.HELD if isinstance(judgement.verdict, Hold) else Status.DENIED
        outcome = outcome_of(waiting.ask, judgement, status=status)
        return await self._move(
            waiting, judgement, outcome, queue_state="held" if status is Status.HELD else None, claim_by=None
        )

    async def end(self, waiting: WaitingIntent, *, status: Status, reason_code: ReasonCode, detail: str) -> Outcome:
        """Record that a waiting intent ends without being evaluated: expired, cancelled, refused. Raises: MovedOn."""
        judgement = unclassified(
            waiting.ask.intent,
            Deny(reason_code=reason_code, detail=detail),
            at=self._clock.now(),
            policy=self._policies.current(),
        )
        outcome = outcome_of(waiting.ask, judgement, status=status)
        return await self._move(waiting, judgement, outcome, queue_state=None, claim_by=None)

    # --- 1, 2, 3: judge -------------------------------------------------------------------------------------------

    async def _judge(self, ask: Ask, *, drained: bool, charge: bool = True, approved: bool = False) -> Judgement:
        """Classify, score and evaluate. Never raises for a boundary: what could not be decided is a verdict.

        With `approved` the approvals of operators may stand in for an evaluation that a dependency prevents.
        Raises: IdempotencyKeyRequired where a submission without a key could else use an opening.
        """
        at = self._clock.now()  # read once: every rule of this decision sees the same time
        intent = ask.intent
        policy, orders = self._policies.current(), self._orders.current()
        if (stopped := stopped_by(orders, ask.agent)) is not None:
            return unclassified(intent, stopped, at=at, policy=policy)
        judgement: Judgement | None = None
        request: Request | None = None
        try:
            # 1. Classify. The catalogue closes the open world of tool names.
            classified = await self._boundaries.intent.call(
                lambda: self._classifier.classify(policy, intent), proves=is_a_classification
            )
            if isinstance(classified, Deny):
                return unclassified(intent, classified, at=at, policy=policy)
            judgement = Judgement(
                verdict=UNDECIDED,
                act_hash=action_of(intent, classified.executor).digest(),
                at=at,
                policy=policy,
                classified=classified,
            )
            # The catalogue may ask for a key-bound token, and this service cannot bind one: then no token at all.
            unbindable = NO_PROOF if classified.proof_of_possession else None
            if (refused := stopped_here(orders, ask, classified) or unbindable) is not None:
                return replace(judgement, verdict=refused)

            # 2. Risk. From the server's own knowledge; what the caller says can only add.
            await self._activity.recall(ask.agent)
            signals = self._activity.signals(ask.agent, intent, at)
            risk = policy.assess(intent, classified, agent=ask.agent, signals=signals, now=at)
            judgement = replace(judgement, risk=risk)

            # 3. Evaluate.
            request = Request(
                agent=ask.agent,
                intent=intent,
                classified=classified,
                risk=risk,
                now=at,
                drained=drained,
                queue_age_s=max(0, int((at - ask.received_at).total_seconds())) if drained else 0,
                intent_id=ask.intent_id,
                undisputed_risk=None
                if classified.dispute is None
                else policy.assess(intent, policy.undisputed(classified), agent=ask.agent, signals=signals, now=at),
            )
            evaluated = await self._evaluate(policy, request, judgement, charge=charge)
            judgement = replace(judgement, verdict=evaluated.verdict, approvals=evaluated.approvals)
        except BoundaryUnavailable as error:
            _log.info("%s not decided: %s", ask.intent_id, error.detail)
            verdict = could_not(error.reason_code, error.cause)
            if judgement is None:
                return unclassified(intent, verdict, at=at, policy=policy)
            judgement = replace(judgement, verdict=verdict)
        # What is asked now may have a way opened in advance; what waits can wait, unless people answer for it.
        if request is None or (drained and not approved):
            return judgement
        if not drained:
            self._require_key(ask, judgement)  # before a use is counted
        key = ask.idempotency_key
        way = self._approved.judge(judgement, request) if drained else self._openings.judge(judgement, request, key)
        return await way

    async def _evaluate(self, policy: Policy, request: Request, judgement: Judgement, *, charge: bool) -> Evaluated:
        """Return what the active policy says, in time and about this very action. Raises: BoundaryUnavailable."""
        act_hash = judgement.act_hash

        async def evaluate() -> Evaluated:
            self._policies.check_lease()
            self._orders.check()
            return await self._evaluator.evaluate(policy, request, act_hash, charge=charge)

        def is_about_this(evaluated: Evaluated) -> None:
            if evaluated.act_hash != act_hash or evaluated.bundle != policy.digest:
                raise WrongAnswer("the verdict is about another action or bundle")
            if not isinstance(evaluated.verdict, (Allow, Deny, Hold, Unavailable)):
                raise WrongAnswer("the verdict is not one")

        return await self._boundaries.evaluation.call(evaluate, proves=is_about_this)

    @staticmethod
    def _require_key(ask: Ask, judgement: Judgement) -> None:
        classified = judgement.classified
        if ask.idempotency_key is None and classified is not None and classified.impact in {"high", "critical"}:
            raise IdempotencyKeyRequired(f"`{classified.category}` has {classified.impact} impact")

    # --- 4, 5, 6: record, sign, release ---------------------------------------------------------------------------

    async def _grant(self, ask: Ask, judgement: Judgement, *, claiming: WaitingIntent | None = None) -> Outcome:
        """Record the allow, sign beside the commit, release when both hold."""
        claims = token_claims(ask, judgement, issuer=self._issuer, jti=self._ids.token_id())
        outcome = outcome_of(
            ask, judgement, status=Status.GRANTED, token_expires_at=_at(judgement.at, claims.exp - claims.iat)
        )

        def effect(receipt: Receipt) -> Effect:
            # The row keeps the claims, so that a repeated request gets the same token: Ed25519 is deterministic.
            stored = replace(claims, rcp=str(receipt)).to_json()
            recorded = replace(outcome, receipt=receipt)
            if claiming is not None:
                return MoveIntent(
                    intent_id=ask.intent_id,
                    expect_version=claiming.version,
                    status=Status.GRANTED,
                    reason_code=ReasonCode.ALLOWED,
                    envelope=recorded.to_json(),
                    decided_at=judgement.at,
                    claims=stored,
                    jti=claims.jti,
                    use=judgement.use,
                )
            return opening(ask, judgement, recorded, claims=stored, jti=claims.jti)

        # 4. Record. Chained now, durable when `settled` returns. What nobody would wait for is not even chained.
        if (blocked := self._blocked(judgement)) is not None:
            return await self._not_released(ask, judgement, blocked.reason_code, blocked.detail, claiming)
        try:
            pending = self._recorder.append(
                Entry(
                    kind="decision",
                    at=judgement.at,
                    members=log_members(ask, judgement, outcome, jti=claims.jti, claimed=claiming is not None),
                    effect=effect,
                    journal_may_release=judgement.may_rest_on_journal and ask.instead_of is None,
                    notices=self._openings.told(ask.intent_id, ask.agent, judgement),
                )
            )
        except RecordingFailed as error:
            return await self._not_released(ask, judgement, ReasonCode.AUDIT_UNAVAILABLE, str(error), claiming)
        claims = replace(claims, rcp=str(pending.receipt))
        # 5. Sign, beside the commit.
        settled, signed = await asyncio.gather(self._settle(pending, judgement), self._sign(claims))

        # 6. Release only on both.
        if isinstance(settled, BoundaryUnavailable):
            return await self._not_released(
                ask, judgement, settled.reason_code, settled.detail, claiming, over_jti=claims.jti
            )
        if not settled.applied and judgement.mode is Mode.BREAK_GLASS:
            # Used up or revoked elsewhere meanwhile, or the intent is known: then the denial is refused as well.
            self._mint.throw_away(ask.intent_id, claims.jti)
            code, why = ReasonCode.EVALUATION_UNAVAILABLE, "its break-glass activation is used up or over"
            return await self._not_released(ask, judgement, code, why, None)
        if not settled.applied:
            raise MovedOn if claiming is not None else AlreadyKnown(judgement.act_hash)
        if isinstance(signed, BoundaryUnavailable):
            return await self._not_released(
                ask, judgement, signed.reason_code, signed.detail, claiming, over_jti=claims.jti
            )
        self._mint.released(ask.intent_id)
        self._activity.note(ask.agent, ask.intent, judgement.at, judgement.verdict)
        return replace(outcome, receipt=settled.receipt, token=signed)

    def stopped(self, claims: Claims) -> Deny | None:
        """Return why operators stopped what these claims permit. Raises: StoreUnreachable when that is not known."""
        self._orders.check()
        return stopped_by(self._orders.current(), claims.sub, category=claims.category, executor=claims.aud)

    async def sign_again(self, claims: Claims) -> str:
        """Return the token of stored claims once more. Raises: BoundaryUnavailable."""
        token = await self._mint.sign(claims)
        self._mint.released(claims.txn)
        return token

    def _blocked(self, judgement: Judgement) -> BoundaryUnavailable | None:
        audit, token = self._boundaries.audit, self._boundaries.token
        # The journal is the log while PostgreSQL is away.
        on_journal = judgement.may_rest_on_journal and audit.state.state is not State.FORCED_OPEN
        if not (audit.is_closed or on_journal):
            return audit.refusal()
        return None if token.is_closed else token.refusal()

    async def _settle(self, pending: Pending, judgement: Judgement) -> Settled | BoundaryUnavailable:
        rests_on_journal = judgement.may_rest_on_journal
        proves = stands if rests_on_journal else durable
        try:
            return await self._boundaries.audit.call(
                pending.settled, proves=lambda settled: proves(pending, settled), though_open=rests_on_journal
            )
        except BoundaryUnavailable as error:
            return error

    async def _sign(self, claims: Claims) -> str | BoundaryUnavailable:
        try:
            return await self._mint.sign(claims)
        except BoundaryUnavailable as error:
            return error

    async def _not_released(
        self,
        ask: Ask,
        judgement: Judgement,
        reason_code: ReasonCode,
        operators_detail: str,
        claiming: WaitingIntent | None,
        *,
        over_jti: str | None = None,
    ) -> Outcome:
        """Answer for an allow that was not released: the token, if any, is thrown away, and the log says so."""
        _log.warning("%s allowed but not released: %s", ask.intent_id, operators_detail)
        if over_jti is not None:
            self._mint.throw_away(ask.intent_id, over_jti)
        await self._openings.closed_again(ask.intent_id, judgement)
        judgement = closed(judgement, reason_code, at=self._clock.now())
        if claiming is None:
            return await self._answer_no(ask, judgement, over_jti=over_jti)
        # Where nothing was granted, a claim that failed leaves the intent claimable, and only the failure is recorded.
        # A grant that is stored, or may be, is taken back: the intent waits again, and its token is dead. It would
        # otherwise be over with a token that nobody ever had.
        row = queue_row(ask, judgement, state="waiting")
        # It was decided in time: it may wait for as long again as it could have been claimed.
        again = timedelta(seconds=judgement.policy.settings.queue.claim_seconds)
        row = replace(row, expires_at=max(row.expires_at, judgement.at + again))
        place = Place(state="durable", lane=row.lane, position=None, expires_at=row.expires_at)
        waits = outcome_of(ask, judgement, status=Status.QUEUED, place=place)
        taken_back = over_jti is not None and reason_code is ReasonCode.SIGNING_UNAVAILABLE
        outcome = waits if taken_back else outcome_of(ask, judgement, status=Status.CLAIMABLE)

        def effect(receipt: Receipt) -> Effect:
            return opening(ask, judgement, replace(waits, receipt=receipt), queue=row, over_jti=over_jti)

        entry = Entry(
            kind="claim_failed",
            at=judgement.at,
            members=log_members(ask, judgement, outcome, jti=over_jti),
            effect=effect if over_jti is not None else None,
            journal_may_release=True,
        )
        try:
            return replace(outcome, receipt=(await kept(self._recorder, self._boundaries.audit, entry)).receipt)
        except BoundaryUnavailable as error:
            _log.warning("%s: the failed claim was not recorded: %s", ask.intent_id, error.detail)
            return outcome

    # --- every other answer ---------------------------------------------------------------------------------------

    async def _answer_no(self, ask: Ask, judgement: Judgement, *, over_jti: str | None = None) -> Outcome:
        """Record a denial or a hold, parked where it may wait, and answer it. A denial may rest on the journal."""
        judgement, status, row = self._parking(ask, judgement)
        full = reason_code_of(judgement) is ReasonCode.QUEUE_FULL
        if over_jti is None and (full or row is not None):
            same = self._waiting.same(ask.agent, judgement.act_hash, instead_of=ask.instead_of)
            if same is not None or (full and await self._has_a_place(ask, judgement)):
                raise AlreadyKnown(judgement.act_hash, same)
        outcome = outcome_of(ask, judgement, status=status, place=self._place(ask, row))

        def effect(receipt: Receipt) -> Effect:
            return opening(ask, judgement, replace(outcome, receipt=receipt), queue=row, over_jti=over_jti)

        entry = Entry(
            kind="signing_failed" if reason_code_of(judgement) is ReasonCode.SIGNING_UNAVAILABLE else "decision",
            at=judgement.at,
            members=log_members(ask, judgement, outcome, jti=over_jti),
            effect=effect,
            # Both intents change in one commit, or neither does: a journal cannot promise that.
            journal_may_release=ask.instead_of is None,
        )
        try:
            settled = await kept(self._recorder, self._boundaries.audit, entry)
        except BoundaryUnavailable as error:
            _log.error("%s: the denial could not be recorded: %s", ask.intent_id, error.detail)
            return unrecorded(ask, at=self._clock.now(), detail=COULD_NOT[ReasonCode.AUDIT_UNAVAILABLE])
        if not settled.applied:
            raise AlreadyKnown(judgement.act_hash)
        self._activity.note(ask.agent, ask.intent, judgement.at, judgement.verdict)
        place = outcome.place
        if row is not None:
            in_journal = judgement.act_hash if settled.in_journal else None
            self._waiting.waits(ask.agent, row.lane, ask.intent_id, in_journal=in_journal)
        if place is not None and settled.in_journal:
            place = replace(place, state="journal")
        return replace(outcome, receipt=settled.receipt, place=place)

    async def _move(
        self,
        waiting: WaitingIntent,
        judgement: Judgement,
        outcome: Outcome,
        *,
        queue_state: str | None,
        claim_by: datetime | None,
    ) -> Outcome:
        """Record a new status of a stored intent.

        An allow, and what an agent is told, rest on a commit alone: the row is in the database anyway. A no of the
        drain may rest on the journal, as every denial: where its commit is in doubt and yet stood, the log must not
        call void what the database calls final. The lease's epoch keeps it harmless where it came too late.
        """
        may_rest_on_journal = waiting.epoch is not None and outcome.status is not Status.CLAIMABLE

        def effect(receipt: Receipt) -> Effect:
            return MoveIntent(
                intent_id=waiting.ask.intent_id,
                expect_version=waiting.version,
                status=outcome.status,
                reason_code=outcome.reason_code,
                envelope=replace(outcome, receipt=receipt).to_json(),
                decided_at=judgement.at,
                claim_by=claim_by,
                epoch=waiting.epoch,
                queue_state=queue_state,
            )

        entry = Entry(
            kind="decision",
            at=judgement.at,
            members={**log_members(waiting.ask, judgement, outcome, drained=True), **waiting.attended},
            effect=effect,
            journal_may_release=may_rest_on_journal,
        )

        record = kept if may_rest_on_journal else committed
        try:
            settled = await record(self._recorder, self._boundaries.audit, entry, though_open=False)
        except BoundaryUnavailable as error:
            return self._not_recorded(waiting, judgement, error.detail)
        if not settled.applied:
            raise MovedOn
        self._activity.note(waiting.ask.agent, waiting.ask.intent, judgement.at, judgement.verdict)
        return replace(outcome, receipt=settled.receipt)

    def _not_recorded(self, waiting: WaitingIntent, judgement: Judgement, detail: str) -> Outcome:
        _log.warning("%s: the decision was not recorded: %s", waiting.ask.intent_id, detail)
        judgement = replace(judgement, verdict=could_not(ReasonCode.AUDIT_UNAVAILABLE))
        return outcome_of(waiting.ask, judgement, status=Status.QUEUED)

    # --- the details of an answer ---------------------------------------------------------------------------------

    def _parking(self, ask: Ask, judgement: Judgement) -> tuple[Judgement, Status, QueueRow | None]:
        """Say whether the intent waits, and where. A rule's no never waits."""
        if isinstance(judgement.verdict, Deny):
            return judgement, Status.DENIED, None
        held = isinstance(judgement.verdict, Hold)
        if not ask.intent.queue:
            return judgement, Status.DENIED if held else Status.UNQUEUED, None
        policy = judgement.policy
        limits = policy.settings.queue
        full = self._waiting.full(ask.agent, max_per_agent=limits.max_per_agent, max_total=limits.max_total)
        if full and ask.instead_of is None:
            verdict = Deny(reason_code=ReasonCode.QUEUE_FULL, detail="too many intents wait already")
            return replace(judgement, verdict=verdict), Status.DENIED, None
        row = queue_row(ask, judgement, state="held" if held else "waiting")
        return judgement, Status.HELD if held else Status.QUEUED, row

    async def _has_a_place(self, ask: Ask, judgement: Judgement) -> bool:
        """Return whether the action waits already: then it needs no room. A store known to be away is not asked."""
        if not self._boundaries.audit.is_closed:
            return False
        try:
            return await self._places.waiting_for(ask.agent, judgement.act_hash) is not None
        except StoreUnreachable:
            return False

    def _place(self, ask: Ask, row: QueueRow | None) -> Place | None:
        if row is None:
            return None
        position = self._waiting.parked(ask.agent, row.lane)
        return Place(state="durable", lane=row.lane, position=position, expires_at=row.expires_at)


def _at(moment: datetime, seconds: int) -> datetime:
    return moment.replace(microsecond=0) + timedelta(seconds=seconds)
