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
import contextlib
import hmac
import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from holdfast.audit.record import leaf_hash
from holdfast.errors import TokenRejected
from holdfast.intent import Action
from holdfast.reasons import NOT_DECIDED, Cause, Decision, ReasonCode, Status
from holdfast.token import Claims, verify_signature

from services.boundary import BoundaryUnavailable, WrongAnswer
from services.decision.policy import Classified, Request
from services.decision.verdict import Allow, Deny, Hold, Unavailable
from services.outcome import Outcome, Place
from services.ports import Entry, MoveIntent, OpenIntent, QueueRow, RecordingFailed, SigningRefused

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from holdfast.audit.record import Receipt
    from holdfast.intent import Intent
    from holdfast.strict_json import JSON

    from services.boundary import Boundary
    from services.decision.policy import Policy
    from services.decision.risk import Risk
    from services.decision.verdict import Verdict
    from services.ports import (
        Activity,
        Classifier,
        Clock,
        Effect,
        Evaluated,
        Evaluator,
        Ids,
        Pending,
        PolicySource,
        Recorder,
        Settled,
        TokenSigner,
        Waiting,
    )

_log = logging.getLogger(__name__)

#: How far an agent's hint moves an intent within its lane, in seconds. It never changes the lane.
_BOOST_S: Mapping[str, float] = {"low": -30.0, "normal": 0.0, "high": 15.0, "critical": 30.0}


_UNRELEASED_INTENTS = 20_000
_UNRELEASED_PER_INTENT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One submission as received. `agent` comes from the credential, never from the body."""

    intent_id: str
    agent: str
    intent: Intent
    submission: bytes
    request_digest: str
    idempotency_key: str | None
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingIntent:
    """A stored intent that waits, or that may be claimed.

    `epoch` is the worker's lease, None for a claim; `expires_at` is until when a drained one may go on waiting.
    """

    ask: Ask
    version: int
    epoch: int | None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What steps 1 to 3 found, before anything is recorded."""

    verdict: Verdict
    action: Action
    act_hash: str
    at: datetime
    policy: Policy
    classified: Classified | None = None
    risk: Risk | None = None


class AlreadyKnown(Exception):
    """Another submission with this idempotency key, or this very intent, was stored first."""


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
        classifier: Classifier,
        evaluator: Evaluator,
        activity: Activity,
        waiting: Waiting,
        recorder: Recorder,
        signer: TokenSigner,
        boundaries: Boundaries,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._issuer = issuer
        self._policies = policies
        self._classifier = classifier
        self._evaluator = evaluator
        self._activity = activity
        self._waiting = waiting
        self._recorder = recorder
        self._signer = signer
        self._boundaries = boundaries
        self._clock = clock
        self._ids = ids
        # By intent, newest first: tokens that may have been signed and were never released. The signer gives an intent
        # another one only in the place of these. What a restart forgets, the signer forgets when it expires.
        self._thrown_away: OrderedDict[str, tuple[str, ...]] = OrderedDict()

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
            return self._unrecorded(ask, "the service failed while deciding")

    async def reconsider(self, waiting: WaitingIntent) -> Outcome:
        """Evaluate a waiting intent again from the start, on the active bundle. A late allow is claimable, not minted.

        Raises: MovedOn when the lease was lost. An outcome in NOT_DECIDED, or QUEUED, has changed nothing.
        """
        judgement = await self._judge(waiting.ask, drained=True)
        verdict = judgement.verdict
        if isinstance(verdict, Unavailable) or _may_ask_later(judgement, waiting.expires_at):
            return self._outcome(waiting.ask, judgement, status=Status.QUEUED)
        if isinstance(verdict, Allow):
            status, queue_state = Status.CLAIMABLE, "claimable"
            claim_by = judgement.at + timedelta(seconds=judgement.policy.settings.queue.claim_seconds)
        else:
            status, queue_state, claim_by = Status.DENIED, None, None
            if isinstance(verdict, Hold):
                status, queue_state = Status.HELD, "held"
        outcome = self._outcome(waiting.ask, judgement, status=status)
        return await self._move(waiting, judgement, outcome, queue_state=queue_state, claim_by=claim_by)

    async def claim(self, waiting: WaitingIntent) -> Outcome:
        """Mint the token of a claimable intent, after judging it once more as of now.

        Raises: MovedOn when it was claimed or ended in between.
        """
        judgement = await self._judge(waiting.ask, drained=True, charge=False)
        if isinstance(judgement.verdict, Allow):
            return await self._grant(waiting.ask, judgement, claiming=waiting)
        if isinstance(judgement.verdict, Unavailable):
            return self._outcome(waiting.ask, judgement, status=Status.CLAIMABLE)
        status = Status.HELD if isinstance(judgement.verdict, Hold) else Status.DENIED
        outcome = self._outcome(waiting.ask, judgement, status=status)
        return await self._move(
            waiting, judgement, outcome, queue_state="held" if status is Status.HELD else None, claim_by=None
        )

    async def end(self, waiting: WaitingIntent, *, status: Status, reason_code: ReasonCode, detail: str) -> Outcome:
        """Record that a waiting intent ends without a decision: expired, cancelled, superseded. Raises: MovedOn."""
        at = self._clock.now()
        intent = waiting.ask.intent
        action = _action(intent, intent.executor or "")
        verdict = Deny(reason_code=reason_code, detail=detail)
        judgement = Judgement(
            verdict=verdict, action=action, act_hash=action.digest(), at=at, policy=self._policies.current()
        )
        outcome = self._outcome(waiting.ask, judgement, status=status)
        return await self._move(waiting, judgement, outcome, queue_state=None, claim_by=None)

    # --- 1, 2, 3: judge -------------------------------------------------------------------------------------------

    async def _judge(self, ask: Ask, *, drained: bool, charge: bool = True) -> Judgement:
        """Classify, score and evaluate. Never raises for a boundary: what could not be decided is a verdict."""
        at = self._clock.now()  # read once: every rule of this decision sees the same time
        intent = ask.intent
        action = _action(intent, intent.executor or "")
        policy = self._policies.current()
        judgement = Judgement(verdict=_UNDECIDED, action=action, act_hash=action.digest(), at=at, policy=policy)
        try:
            # 1. Classify. The catalogue closes the open world of tool names.
            classified = await self._boundaries.intent.call(
                lambda: self._classifier.classify(policy, intent), proves=_is_a_classification
            )
            if isinstance(classified, Deny):
                return replace(judgement, verdict=classified)
            action = _action(intent, classified.executor)
            judgement = replace(judgement, classified=classified, action=action, act_hash=action.digest())
            if classified.proof_of_possession:
                # The catalogue asks for a key-bound token, and this service cannot bind one: no token at all.
                return replace(judgement, verdict=_NO_PROOF)

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
            act_hash = judgement.act_hash

            async def evaluate() -> Evaluated:
                self._policies.check_lease()
                return await self._evaluator.evaluate(policy, request, act_hash, charge=charge)

            def is_about_this(evaluated: Evaluated) -> None:
                if evaluated.act_hash != act_hash or evaluated.bundle != policy.digest:
                    raise WrongAnswer("the verdict is about another action or bundle")
                if not isinstance(evaluated.verdict, (Allow, Deny, Hold, Unavailable)):
                    raise WrongAnswer("the verdict is not one")

            evaluated = await self._boundaries.evaluation.call(evaluate, proves=is_about_this)
            return replace(judgement, verdict=evaluated.verdict)
        except BoundaryUnavailable as error:
            _log.info("%s not decided: %s", ask.intent_id, error.detail)
            detail = _COULD_NOT[error.reason_code]
            verdict = Unavailable(reason_code=error.reason_code, cause=error.cause, detail=detail)
            return replace(judgement, verdict=verdict)

    @staticmethod
    def _require_key(ask: Ask, judgement: Judgement) -> None:
        classified = judgement.classified
        if ask.idempotency_key is None and classified is not None and classified.impact in {"high", "critical"}:
            raise IdempotencyKeyRequired(f"`{classified.category}` has {classified.impact} impact")

    # --- 4, 5, 6: record, sign, release ---------------------------------------------------------------------------

    async def _grant(self, ask: Ask, judgement: Judgement, *, claiming: WaitingIntent | None = None) -> Outcome:
        """Record the allow, sign beside the commit, release when both hold."""
        claims = self._claims(ask, judgement)
        outcome = self._outcome(
            ask, judgement, status=Status.GRANTED, token_expires_at=_at(judgement.at, claims.exp - claims.iat)
        )

        def effect(receipt: Receipt) -> Effect:
            # The row keeps the claims, so that a repeated request gets the same token: Ed25519 is deterministic.
            stored = replace(claims, rcp=str(receipt)).to_json()
            envelope = replace(outcome, receipt=receipt).to_json()
            if claiming is not None:
                return MoveIntent(
                    intent_id=ask.intent_id,
                    expect_version=claiming.version,
                    status=Status.GRANTED,
                    reason_code=ReasonCode.ALLOWED,
                    envelope=envelope,
                    decided_at=judgement.at,
                    claims=stored,
                    jti=claims.jti,
                )
            return self._open(ask, judgement, replace(outcome, receipt=receipt), claims=stored, jti=claims.jti)

        # 4. Record. Chained now, durable when `settled` returns. What nobody would wait for is not even chained.
        if not self._boundaries.audit.is_closed:
            detail = "the audit boundary is open"
            return await self._not_released(ask, judgement, ReasonCode.AUDIT_UNAVAILABLE, detail, claiming)
        try:
            pending = self._recorder.append(
                Entry(
                    kind="decision",
                    at=judgement.at,
                    members=_members(ask, judgement, outcome, jti=claims.jti, claimed=claiming is not None),
                    effect=effect,
                )
            )
        except RecordingFailed as error:
            return await self._not_released(ask, judgement, ReasonCode.AUDIT_UNAVAILABLE, str(error), claiming)
        claims = replace(claims, rcp=str(pending.receipt))
        # 5. Sign, beside the commit.
        settled, token = await asyncio.gather(self._settle(pending), self._sign(claims))

        # 6. Release only on both.
        if isinstance(settled, BoundaryUnavailable):
            return await self._not_released(
                ask, judgement, settled.reason_code, settled.detail, claiming, over_jti=claims.jti
            )
        if not settled.applied:
            raise MovedOn if claiming is not None else AlreadyKnown
        if isinstance(token, BoundaryUnavailable):
            return await self._not_released(
                ask, judgement, token.reason_code, token.detail, claiming, over_jti=claims.jti
            )
        self._thrown_away.pop(ask.intent_id, None)
        self._activity.note(ask.agent, ask.intent, judgement.at, judgement.verdict)
        return replace(outcome, receipt=settled.receipt, token=token)

    async def sign_again(self, claims: Claims) -> str:
        """Return the token of stored claims once more. Raises: BoundaryUnavailable."""
        token = await self._sign(claims)
        if isinstance(token, BoundaryUnavailable):
            raise token
        self._thrown_away.pop(claims.txn, None)
        return token

    async def _settle(self, pending: Pending) -> Settled | BoundaryUnavailable:
        try:
            return await self._boundaries.audit.call(pending.settled, proves=lambda settled: _durable(pending, settled))
        except BoundaryUnavailable as error:
            return error

    async def _sign(self, claims: Claims) -> str | BoundaryUnavailable:
        def is_exactly_this(token: str) -> None:
            try:
                if verify_signature(token, self._signer.verify_keys()) != claims:
                    raise WrongAnswer("the signer signed other claims")
            except TokenRejected as error:
                raise WrongAnswer("the signer's token does not verify") from error

        async def sign() -> str:
            for unreleased in self._thrown_away.get(claims.txn, ()):
                # Whether the signer ever saw this one is not known; if it remembers another, it says no.
                with contextlib.suppress(SigningRefused):
                    return await self._signer.sign(claims, replaces=unreleased)
            return await self._signer.sign(claims)

        try:
            return await self._boundaries.token.call(sign, proves=is_exactly_this)
        except BoundaryUnavailable as error:
            return error

    def _throw_away(self, intent_id: str, jti: str) -> None:
        earlier = self._thrown_away.pop(intent_id, ())
        self._thrown_away[intent_id] = (jti, *earlier[:_UNRELEASED_PER_INTENT])
        while len(self._thrown_away) > _UNRELEASED_INTENTS:
            self._thrown_away.popitem(last=False)

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
            self._throw_away(ask.intent_id, over_jti)
        verdict = Unavailable(reason_code=reason_code, cause=None, detail=_COULD_NOT[reason_code])
        judgement = replace(judgement, verdict=verdict, at=self._clock.now())
        if claiming is None:
            return await self._answer_no(ask, judgement, over_jti=over_jti)
        # A claim that failed leaves the intent as it stands: claimable, or granted with claims that can be signed
        # again. Only the failure itself is recorded. Where the record of the grant is void, though, the grant may be
        # stored all the same: then the intent goes back to wait, and its token is dead.
        outcome = self._outcome(ask, judgement, status=Status.CLAIMABLE)
        queued = self._outcome(ask, judgement, status=Status.QUEUED)
        row = self._row(ask, judgement, state="waiting")

        def effect(receipt: Receipt) -> Effect:
            return self._open(ask, judgement, replace(queued, receipt=receipt), queue=row, over_jti=over_jti)

        in_doubt = reason_code is ReasonCode.AUDIT_UNAVAILABLE and over_jti is not None
        entry = Entry(
            kind="claim_failed",
            at=judgement.at,
            members=_members(ask, judgement, outcome, jti=over_jti),
            effect=effect if in_doubt else None,
            journal_may_release=True,
        )
        try:
            return replace(outcome, receipt=(await self._record(entry)).receipt)
        except BoundaryUnavailable as error:
            _log.warning("%s: the failed claim was not recorded: %s", ask.intent_id, error.detail)
            return outcome

    # --- every other answer ---------------------------------------------------------------------------------------

    async def _answer_no(self, ask: Ask, judgement: Judgement, *, over_jti: str | None = None) -> Outcome:
        """Record a denial or a hold, parked where it may wait, and answer it. A denial may rest on the journal."""
        judgement, status, row = self._parking(ask, judgement)
        outcome = self._outcome(ask, judgement, status=status, place=self._place(ask, row, journal=False))

        def effect(receipt: Receipt) -> Effect:
            return self._open(ask, judgement, replace(outcome, receipt=receipt), queue=row, over_jti=over_jti)

        entry = Entry(
            kind="signing_failed" if _code(judgement) is ReasonCode.SIGNING_UNAVAILABLE else "decision",
            at=judgement.at,
            members=_members(ask, judgement, outcome, jti=over_jti),
            effect=effect,
            journal_may_release=True,
        )
        try:
            settled = await self._record(entry)
        except BoundaryUnavailable as error:
            _log.error("%s: the denial could not be recorded: %s", ask.intent_id, error.detail)
            return self._unrecorded(ask, _COULD_NOT[ReasonCode.AUDIT_UNAVAILABLE])
        if not settled.applied:
            raise AlreadyKnown
        self._activity.note(ask.agent, ask.intent, judgement.at, judgement.verdict)
        place = outcome.place
        if place is not None and settled.in_journal:
            place = replace(place, state="journal")
        return replace(outcome, receipt=settled.receipt, place=place)

    async def _record(self, entry: Entry) -> Settled:
        """Append an entry whose answer may rest on the journal. Raises: BoundaryUnavailable."""

        async def attempt() -> tuple[Pending, Settled]:
            pending = self._recorder.append(entry)
            return pending, await pending.settled()

        _, settled = await self._boundaries.audit.call(
            attempt, proves=lambda answer: _stands(*answer), though_open=True
        )
        return settled

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
            members=_members(waiting.ask, judgement, outcome, drained=True),
            effect=effect,
            journal_may_release=may_rest_on_journal,
        )

        async def attempt() -> tuple[Pending, Settled]:
            pending = self._recorder.append(entry)
            return pending, await pending.settled()

        try:
            proves = _stands if may_rest_on_journal else _durable
            _, settled = await self._boundaries.audit.call(attempt, proves=lambda answer: proves(*answer))
        except BoundaryUnavailable as error:
            return self._not_recorded(waiting, judgement, error.detail)
        if not settled.applied:
            raise MovedOn
        self._activity.note(waiting.ask.agent, waiting.ask.intent, judgement.at, judgement.verdict)
        return replace(outcome, receipt=settled.receipt)

    def _not_recorded(self, waiting: WaitingIntent, judgement: Judgement, detail: str) -> Outcome:
        _log.warning("%s: the decision was not recorded: %s", waiting.ask.intent_id, detail)
        code = ReasonCode.AUDIT_UNAVAILABLE
        verdict = Unavailable(reason_code=code, cause=None, detail=_COULD_NOT[code])
        return self._outcome(waiting.ask, replace(judgement, verdict=verdict), status=Status.QUEUED)

    def _unrecorded(self, ask: Ask, detail: str) -> Outcome:
        """Answer what could not even be recorded: refused, and the client keeps it."""
        return Outcome(
            intent_id=ask.intent_id,
            status=Status.UNQUEUED,
            decision=Decision.DENY,
            reason_code=ReasonCode.AUDIT_UNAVAILABLE,
            detail=detail,
            retry_after_s=_retry_after_s(ask.intent_id),
            decided_at=self._clock.now(),
        )

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
        if self._waiting.full(ask.agent, max_per_agent=limits.max_per_agent, max_total=limits.max_total):
            verdict = Deny(reason_code=ReasonCode.QUEUE_FULL, detail="too many intents wait already")
            return replace(judgement, verdict=verdict), Status.DENIED, None
        row = self._row(ask, judgement, state="held" if held else "waiting")
        return judgement, Status.HELD if held else Status.QUEUED, row

    @staticmethod
    def _row(ask: Ask, judgement: Judgement, *, state: str) -> QueueRow:
        policy = judgement.policy
        limits = policy.settings.queue
        ttl_s = min(ask.intent.expires_in or limits.ttl_seconds, limits.ttl_seconds)
        return QueueRow(
            lane=policy.lane(judgement.classified) if judgement.classified else limits.lanes.low,
            rank_at=judgement.at - timedelta(seconds=_BOOST_S[ask.intent.priority]),
            enqueued_at=judgement.at,
            expires_at=ask.received_at + timedelta(seconds=ttl_s),
            not_before=judgement.at,
            state=state,
        )

    def _place(self, ask: Ask, row: QueueRow | None, *, journal: bool) -> Place | None:
        if row is None:
            return None
        return Place(
            state="journal" if journal else "durable",
            lane=row.lane,
            position=self._waiting.parked(ask.agent, row.lane),
            expires_at=row.expires_at,
        )

    def _claims(self, ask: Ask, judgement: Judgement) -> Claims:
        """Build the token's claims, but for the receipt, which is known once the record is chained."""
        classified, risk, policy = judgement.classified, judgement.risk, judgement.policy
        if classified is None or risk is None:
            raise RuntimeError("an allow has a category and a risk")
        issued_at = int(judgement.at.timestamp())
        return Claims(
            iss=self._issuer,
            aud=classified.executor,
            sub=ask.agent,
            txn=ask.intent_id,
            jti=self._ids.token_id(),
            iat=issued_at,
            nbf=issued_at,
            exp=issued_at + policy.token_lifetime_s(classified.executor),
            env=classified.environment,
            action=ask.intent.action,
            act_hash=judgement.act_hash,
            category=classified.category,
            risk=risk.score,
            mode="normal",
            pol=policy.digest,
            rcp="",
            obo=ask.intent.context.on_behalf_of,
        )

    def _outcome(
        self,
        ask: Ask,
        judgement: Judgement,
        *,
        status: Status,
        place: Place | None = None,
        token_expires_at: datetime | None = None,
    ) -> Outcome:
        verdict = judgement.verdict
        code = _code(judgement)
        retry_after_s: int | None = None
        if code in NOT_DECIDED or code is ReasonCode.QUEUE_FULL:
            retry_after_s = _retry_after_s(ask.intent_id)
        elif isinstance(verdict, Deny):
            retry_after_s = verdict.retry_after_s
        return Outcome(
            intent_id=ask.intent_id,
            status=status,
            decision=_DECISIONS[type(verdict)],
            reason_code=code,
            cause=verdict.cause if isinstance(verdict, Unavailable) else None,
            detail="permitted" if isinstance(verdict, Allow) else _plain(verdict.detail),
            classified=judgement.classified,
            risk=judgement.risk,
            bundle=judgement.policy.digest,
            determining=verdict.determining,
            token_expires_at=token_expires_at,
            place=place,
            retry_after_s=retry_after_s,
            decided_at=judgement.at,
        )

    @staticmethod
    def _open(
        ask: Ask,
        judgement: Judgement,
        outcome: Outcome,
        *,
        claims: Mapping[str, JSON] | None = None,
        jti: str | None = None,
        queue: QueueRow | None = None,
        over_jti: str | None = None,
    ) -> OpenIntent:
        return OpenIntent(
            intent_id=ask.intent_id,
            agent=ask.agent,
            idempotency_key=ask.idempotency_key,
            request_digest=ask.request_digest,
            submission=ask.submission,
            act_hash=judgement.act_hash,
            status=outcome.status,
            reason_code=outcome.reason_code,
            envelope=outcome.to_json(),
            claims=claims,
            jti=jti,
            created_at=ask.received_at,
            decided_at=judgement.at,
            queue=queue,
            over_jti=over_jti,
        )


# --- evidence ---------------------------------------------------------------------------------------------------------


def _is_a_classification(answer: Classified | Deny) -> None:
    if not isinstance(answer, (Classified, Deny)):
        raise WrongAnswer("the answer is not a classification")


def _stands(pending: Pending, settled: Settled) -> None:
    """Refuse a settlement that is not of these very bytes."""
    if settled.receipt != pending.receipt or not hmac.compare_digest(leaf_hash(pending.body), settled.receipt.hash):
        raise WrongAnswer("the receipt is not of this record")


def _durable(pending: Pending, settled: Settled) -> None:
    """Refuse what a permission may not rest on."""
    _stands(pending, settled)
    if settled.in_journal:
        raise WrongAnswer("a permission rests on a commit, not on the journal")


# --- small pure pieces ------------------------------------------------------------------------------------------------

_DECISIONS: Mapping[type, Decision] = {
    Allow: Decision.ALLOW,
    Deny: Decision.DENY,
    Hold: Decision.HOLD,
    Unavailable: Decision.DENY,
}

_COULD_NOT: Mapping[ReasonCode, str] = {
    ReasonCode.CLASSIFICATION_UNAVAILABLE: "the intent could not be classified",
    ReasonCode.EVALUATION_UNAVAILABLE: "the intent could not be evaluated",
    ReasonCode.SIGNING_UNAVAILABLE: "the token could not be signed",
    ReasonCode.AUDIT_UNAVAILABLE: "the decision could not be recorded",
}

_UNDECIDED = Unavailable(
    reason_code=ReasonCode.EVALUATION_UNAVAILABLE,
    cause=Cause.POLICY_ERROR,
    detail=_COULD_NOT[ReasonCode.EVALUATION_UNAVAILABLE],
)


_NO_PROOF = Deny(
    reason_code=ReasonCode.ACTION_NOT_AVAILABLE,
    detail="the action asks for a proof of possession, which this service does not support",
)


def _code(judgement: Judgement) -> ReasonCode:
    verdict = judgement.verdict
    if isinstance(verdict, Allow):
        return ReasonCode.ALLOWED
    if isinstance(verdict, Hold):
        return ReasonCode.APPROVAL_REQUIRED
    return verdict.reason_code


def _may_ask_later(judgement: Judgement, expires_at: datetime | None) -> bool:
    """Return whether a waiting intent met its agent's limit only because many were drained at once."""
    verdict = judgement.verdict
    if not isinstance(verdict, Deny) or verdict.reason_code is not ReasonCode.RATE_LIMITED or expires_at is None:
        return False
    return judgement.at + timedelta(seconds=verdict.retry_after_s or 0) < expires_at


def _action(intent: Intent, executor: str) -> Action:
    return Action(action=intent.action, resource=intent.resource, parameters=intent.parameters, executor=executor)


def _plain(detail: str) -> str:
    """Return `detail` without control characters: it may quote the agent, and no table holds a NUL."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in detail)


def _at(moment: datetime, seconds: int) -> datetime:
    return moment.replace(microsecond=0) + timedelta(seconds=seconds)


def _retry_after_s(intent_id: str) -> int:
    """Spread the retries of many callers over a few seconds, without a random source."""
    return 2 + sum(intent_id.encode("ascii")) % 5


def _members(
    ask: Ask,
    judgement: Judgement,
    outcome: Outcome,
    *,
    jti: str | None = None,
    drained: bool = False,
    claimed: bool = False,
) -> dict[str, JSON]:
    """Return what the log keeps of a decision. Nothing that decides may be missing; absent is omitted."""
    classified, risk, policy = judgement.classified, judgement.risk, judgement.policy
    members: dict[str, JSON] = {
        "intent_id": ask.intent_id,
        "agent": ask.agent,
        "action": ask.intent.action,
        "resource": {"type": ask.intent.resource.type, "id": ask.intent.resource.id},
        "act_hash": judgement.act_hash,
        "decision": outcome.decision.value,
        "status": outcome.status.value,
        "reason_code": outcome.reason_code.value,
        "mode": outcome.mode.value,
        "bundle": policy.digest,
        "determining": list(outcome.determining),
    }
    if outcome.cause is not None:
        members["cause"] = outcome.cause.value
    if classified is not None:
        members["category"] = classified.category
        members["impact"] = classified.impact
        members["executor"] = classified.executor
        members["environment"] = classified.environment
        if (dispute := classified.dispute) is not None:
            version: dict[str, JSON] = {} if dispute.version is None else {"version": dispute.version}
            members["classifier"] = {
                "category": dispute.category,
                "confidence_percent": dispute.confidence_percent,
                **version,
            }
        logged = policy.logged(ask.intent, classified)
        members["parameters"] = [{"name": name, "value": value} for name, value in sorted(logged.clear.items())]
        members["parameter_digests"] = [
            {"name": name, "sha256": digest} for name, digest in sorted(logged.digests.items())
        ]
        members["personal_parameters"] = list(logged.personal)
    if risk is not None:
        members["risk"] = {
            "score": risk.score,
            "tier": risk.tier,
            "factors": [{"name": factor.name, "points": factor.points} for factor in risk.factors],
        }
    if jti is not None:
        members["jti"] = jti
    if drained:
        members["drained"] = True
    if claimed:
        members["claimed"] = True
    return members
