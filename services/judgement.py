"""What is said of one intent: the judgement of steps 1 to 3, and what answers and records are made of. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from holdfast.intent import Action
from holdfast.reasons import NOT_DECIDED, Cause, Decision, Mode, ReasonCode, Status
from holdfast.token import Claims

from intent_queue import order
from services.decision.orders import EVERYTHING
from services.decision.verdict import Allow, Deny, Hold, Unavailable
from services.outcome import Outcome
from services.ports import OpenIntent, QueueRow, Superseded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from holdfast.audit.record import Receipt
    from holdfast.intent import Intent
    from holdfast.strict_json import JSON

    from services.decision.orders import Orders
    from services.decision.policy import Classified, Policy
    from services.decision.review import Use
    from services.decision.risk import Risk
    from services.decision.verdict import Verdict
    from services.outcome import Place


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
    supersedes: WaitingIntent | None = None

    @property
    def instead_of(self) -> str | None:
        """The waiting intent whose place it takes."""
        return None if self.supersedes is None else self.supersedes.ask.intent_id


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingIntent:
    """A stored intent that waits, or that may be claimed.

    `epoch` is the worker's lease, None for a claim; `expires_at` is until when a drained one may go on waiting.
    `held` says that it waits for people, so that its agent's limits have counted it; `place` is where it stands.
    `attended` is what the record says of the operator who acts on it, empty where none does.
    """

    ask: Ask
    version: int
    epoch: int | None
    expires_at: datetime | None = None
    held: bool = False
    place: Place | None = None
    attended: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What steps 1 to 3 found, before anything is recorded.

    `mode` says by which way an allow was reached. One that was opened in advance stands `instead` of a verdict that
    could not be reached, and `use` says by whose leave. It rests on `approvals`, if any.

    INVARIANT: what is not normal has its use, which the store keeps for a review.
    """

    verdict: Verdict
    act_hash: str
    at: datetime
    policy: Policy
    classified: Classified | None = None
    risk: Risk | None = None
    mode: Mode = Mode.NORMAL
    instead: Unavailable | None = None
    use: Use | None = None
    approvals: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a way around the evaluation that nobody would review. Raises: ValueError."""
        if self.mode is not (Mode.NORMAL if self.use is None else self.use.mode):
            raise ValueError("what is not normal has a use, of its own mode")

    @property
    def may_rest_on_journal(self) -> bool:
        """Whether a token may leave on the journal's fsync: break-glass alone works while PostgreSQL is away.

        And only where its activation was taken in: nobody else can count its uses then.
        """
        return self.use is not None and self.use.at_home


_DECISIONS: Mapping[type, Decision] = {
    Allow: Decision.ALLOW,
    Deny: Decision.DENY,
    Hold: Decision.HOLD,
    Unavailable: Decision.DENY,
}

COULD_NOT: Mapping[ReasonCode, str] = {
    ReasonCode.CLASSIFICATION_UNAVAILABLE: "the intent could not be classified",
    ReasonCode.EVALUATION_UNAVAILABLE: "the intent could not be evaluated",
    ReasonCode.SIGNING_UNAVAILABLE: "the token could not be signed",
    ReasonCode.AUDIT_UNAVAILABLE: "the decision could not be recorded",
}


def could_not(reason_code: ReasonCode, cause: Cause | None = None) -> Unavailable:
    """Return the verdict of what could not be decided, or not be released."""
    return Unavailable(reason_code=reason_code, cause=cause, detail=COULD_NOT[reason_code])


UNDECIDED = Unavailable(
    reason_code=ReasonCode.EVALUATION_UNAVAILABLE,
    cause=Cause.POLICY_ERROR,
    detail=COULD_NOT[ReasonCode.EVALUATION_UNAVAILABLE],
)


#: A claim has room for so many ids. The record names them all.
_APPROVALS_IN_TOKEN = 16

NO_PROOF = Deny(
    reason_code=ReasonCode.ACTION_NOT_AVAILABLE,
    detail="the action asks for a proof of possession, which this service does not support",
)


def reason_code_of(judgement: Judgement) -> ReasonCode:
    """Return the code of a judgement's verdict."""
    verdict = judgement.verdict
    if isinstance(verdict, Allow):
        return ReasonCode.ALLOWED
    if isinstance(verdict, Hold):
        return ReasonCode.APPROVAL_REQUIRED
    return verdict.reason_code


def stopped_by(orders: Orders, agent: str, *, category: str | None = None, executor: str | None = None) -> Deny | None:
    """Return the denial of what operators stopped. It beats everything, and is looked at before and after step 1."""
    halt = orders.halt(agent=agent, category=category, executor=executor)
    if halt is not None:
        what = "everything" if halt.scope == EVERYTHING else halt.scope
        return Deny(
            reason_code=ReasonCode.EMERGENCY_HALT,
            detail=f"operators halted {what}",
            determining=(f"halt:{halt.order_id}",),
        )
    suspension = orders.suspension(agent)
    if suspension is None:
        return None
    return Deny(
        reason_code=ReasonCode.AGENT_SUSPENDED,
        detail="operators suspended the agent",
        determining=(f"suspension:{suspension.order_id}",),
    )


def stopped_here(orders: Orders, ask: Ask, classified: Classified) -> Deny | None:
    """Return the denial of what operators stopped, once the intent is classified."""
    return stopped_by(orders, ask.agent, category=classified.category, executor=classified.executor)


def may_ask_later(judgement: Judgement, expires_at: datetime | None) -> bool:
    """Return whether a waiting intent met its agent's limit only because many were drained at once."""
    verdict = judgement.verdict
    if not isinstance(verdict, Deny) or verdict.reason_code is not ReasonCode.RATE_LIMITED or expires_at is None:
        return False
    return judgement.at + timedelta(seconds=verdict.retry_after_s or 0) < expires_at


def unclassified(intent: Intent, verdict: Verdict, *, at: datetime, policy: Policy) -> Judgement:
    """Return the judgement of an intent whose executor nobody resolved: its digest names the one it asked for."""
    return Judgement(verdict=verdict, act_hash=action_of(intent, intent.executor or "").digest(), at=at, policy=policy)


def closed(judgement: Judgement, reason_code: ReasonCode, *, at: datetime) -> Judgement:
    """Return the judgement of an allow that was not released, or whose opening was closed meanwhile."""
    verdict = could_not(reason_code)
    if judgement.instead is not None and reason_code is judgement.instead.reason_code:
        verdict = judgement.instead
    return replace(judgement, verdict=verdict, at=at, mode=Mode.NORMAL, instead=None, use=None)


def action_of(intent: Intent, executor: str) -> Action:
    """Return exactly what will be executed, with the executor that was resolved."""
    return Action(action=intent.action, resource=intent.resource, parameters=intent.parameters, executor=executor)


def _plain(detail: str) -> str:
    """Return `detail` without control characters: it may quote the agent, and no table holds a NUL."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in detail)


def spread_retry_s(intent_id: str) -> int:
    """Spread the retries of many callers over a few seconds, without a random source."""
    return 2 + sum(intent_id.encode("ascii")) % 5


def log_members(
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
        **({} if ask.instead_of is None else {"supersedes": ask.instead_of}),
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
        # Of a token that leaves; a late allow that may yet be claimed has none, nor has one that was thrown away.
        members |= {} if judgement.use is None else {"review_id": judgement.use.review_id}
    members |= _way_around(judgement)
    members |= {"approvals": list(judgement.approvals)} if judgement.approvals else {}
    if drained:
        members["drained"] = True
    if claimed:
        members["claimed"] = True
    return members


def _way_around(judgement: Judgement) -> dict[str, JSON]:
    """Return what the log keeps of an opening: that it was one, instead of which cause, and by whose leave."""
    use = judgement.use
    if use is None:
        return {}
    members: dict[str, JSON] = {"elevated": True}
    if judgement.instead is not None and judgement.instead.cause is not None:
        members["instead_of"] = judgement.instead.cause.value
    if use.mode is Mode.BREAK_GLASS:
        members["break_glass"] = use.activation
    return members


def queue_row(ask: Ask, judgement: Judgement, *, state: str) -> QueueRow:
    """Return where the intent waits: the lane from policy, the place in it moved a little by the agent's hint."""
    policy = judgement.policy
    limits = policy.settings.queue
    ttl_s = min(ask.intent.expires_in or limits.ttl_seconds, limits.ttl_seconds)
    return QueueRow(
        lane=policy.lane(judgement.classified) if judgement.classified else limits.lanes.low,
        rank_at=order.rank_at(judgement.at, order.boost_s(ask.intent.priority, order.MAX_BOOST_S)),
        enqueued_at=judgement.at,
        expires_at=ask.received_at + timedelta(seconds=ttl_s),
        not_before=judgement.at,
        state=state,
    )


def token_claims(ask: Ask, judgement: Judgement, *, issuer: str, jti: str) -> Claims:
    """Build the token's claims, but for the receipt, which is known once the record is chained."""
    classified, risk, policy = judgement.classified, judgement.risk, judgement.policy
    if classified is None or risk is None:
        raise RuntimeError("an allow has a category and a risk")
    issued_at = int(judgement.at.timestamp())
    return Claims(
        iss=issuer,
        aud=classified.executor,
        sub=ask.agent,
        txn=ask.intent_id,
        jti=jti,
        iat=issued_at,
        nbf=issued_at,
        exp=issued_at + policy.token_lifetime_s(classified.executor),
        env=classified.environment,
        action=ask.intent.action,
        act_hash=judgement.act_hash,
        category=classified.category,
        risk=risk.score,
        mode=judgement.mode.value,
        brk=None if judgement.use is None or judgement.mode is not Mode.BREAK_GLASS else judgement.use.activation,
        apr=",".join(judgement.approvals[:_APPROVALS_IN_TOKEN]) or None,
        pol=policy.digest,
        rcp="",
        obo=ask.intent.context.on_behalf_of,
    )


def outcome_of(
    ask: Ask,
    judgement: Judgement,
    *,
    status: Status,
    place: Place | None = None,
    token_expires_at: datetime | None = None,
) -> Outcome:
    """Return the answer to a judgement, before its record is known."""
    verdict = judgement.verdict
    code = reason_code_of(judgement)
    retry_after_s: int | None = None
    if code in NOT_DECIDED or code is ReasonCode.QUEUE_FULL:
        retry_after_s = spread_retry_s(ask.intent_id)
    elif isinstance(verdict, Deny) and verdict.retry_after_s is not None:
        # The drain comes back by itself, and must not come back late.
        retry_after_s = verdict.retry_after_s + (spread_retry_s(ask.intent_id) if status is Status.DENIED else 0)
    return Outcome(
        intent_id=ask.intent_id,
        status=status,
        decision=_DECISIONS[type(verdict)],
        reason_code=code,
        cause=verdict.cause if isinstance(verdict, Unavailable) else None,
        mode=judgement.mode,
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


def opening(
    ask: Ask,
    judgement: Judgement,
    outcome: Outcome,
    *,
    claims: Mapping[str, JSON] | None = None,
    jti: str | None = None,
    queue: QueueRow | None = None,
    over_jti: str | None = None,
) -> OpenIntent:
    """Return the effect that stores a newly decided intent."""
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
        supersedes=None if ask.supersedes is None else _superseded(ask.supersedes, judgement, outcome.receipt),
        use=judgement.use,
    )


def _superseded(old: WaitingIntent, judgement: Judgement, receipt: Receipt | None) -> Superseded:
    verdict = Deny(reason_code=ReasonCode.SUPERSEDED, detail="the agent put another intent in its place")
    end = unclassified(old.ask.intent, verdict, at=judgement.at, policy=judgement.policy)
    outcome = outcome_of(old.ask, end, status=Status.SUPERSEDED)
    # The record of the new intent is the record of the old one's end.
    return Superseded(
        intent_id=old.ask.intent_id, expect_version=old.version, envelope=replace(outcome, receipt=receipt).to_json()
    )


def unrecorded(ask: Ask, *, at: datetime, detail: str) -> Outcome:
    """Return the answer for what could not even be recorded: refused, and the client keeps it."""
    return Outcome(
        intent_id=ask.intent_id,
        status=Status.UNQUEUED,
        decision=Decision.DENY,
        reason_code=ReasonCode.AUDIT_UNAVAILABLE,
        detail=detail,
        retry_after_s=spread_retry_s(ask.intent_id),
        decided_at=at,
    )
