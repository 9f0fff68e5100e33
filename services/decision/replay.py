"""A recorded intent, judged again: by the bundle that judged it, or by another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, assert_never

from holdfast.reasons import Decision, ReasonCode

from services.decision.policy import Request
from services.decision.risk import HASTY_CALLS_PER_MINUTE, Risk, Signals
from services.decision.verdict import Allow, Deny, Hold, Unavailable

if TYPE_CHECKING:
    from datetime import datetime

    from holdfast.intent import Intent

    from services.decision.policy import Classified, Policy
    from services.decision.verdict import Verdict

#: From the loosest to the strictest.
_STRICTNESS: Final = {Decision.ALLOW: 0, Decision.HOLD: 1, Decision.DENY: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the service stored of a decision. `drained` when it was judged from the queue; `at` is when."""

    intent_id: str
    agent: str
    intent: Intent
    received_at: datetime
    at: datetime
    drained: bool
    bundle: str | None
    decision: str
    reason_code: str
    detail: str
    determining: tuple[str, ...]
    risk: Risk | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a policy answers."""

    decision: Decision
    reason_code: ReasonCode
    detail: str
    determining: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One intent that two policies answer differently."""

    intent_id: str
    agent: str
    action: str
    old: Answer
    new: Answer

    @property
    def looseness(self) -> int:
        """How many steps looser the new answer is: 2 for deny to allow, negative when it is stricter."""
        return looseness_of(self.old, self.new)


def looseness_of(old: Answer, new: Answer) -> int:
    """Return how many steps looser the new answer is."""
    return _STRICTNESS[old.decision] - _STRICTNESS[new.decision]


def question(policy: Policy, recorded: Recorded, signals: Signals) -> Request | Deny:
    """Return what a recorded intent is to a policy: a question, or not even that."""
    classified = policy.classify(recorded.intent)
    if isinstance(classified, Deny):
        return classified
    risk = policy.assess(recorded.intent, classified, agent=recorded.agent, signals=signals, now=recorded.at)
    return request_of(recorded, classified, risk)


def answer(policy: Policy, asked: Request | Deny) -> Answer:
    """Return what a policy answers to its question."""
    return answer_of(asked if isinstance(asked, Deny) else policy.evaluate(asked))


def ask_beside(candidate: Policy, active: Policy, request: Request) -> Verdict:
    """Return what a candidate answers from the start to what the active policy was asked."""
    classified = candidate.classify(request.intent)
    if isinstance(classified, Deny):
        return classified
    signals = signals_of(request.risk, active)
    risk = candidate.assess(request.intent, classified, agent=request.agent, signals=signals, now=request.now)
    return candidate.evaluate(replace(request, classified=classified, risk=risk))


def request_of(recorded: Recorded, classified: Classified, risk: Risk) -> Request:
    """Return the question as it was asked, without approvals."""
    return Request(
        agent=recorded.agent,
        intent=recorded.intent,
        classified=classified,
        risk=risk,
        now=recorded.at,
        drained=recorded.drained,
        queue_age_s=max(0, int((recorded.at - recorded.received_at).total_seconds())) if recorded.drained else 0,
    )


def signals_of(risk: Risk | None, policy: Policy) -> Signals:
    """Return what the service had seen of the agent, as far as the factors of a risk by `policy` tell."""
    if risk is None:
        return Signals()
    points = {factor.name: factor.points for factor in risk.factors}
    weight = policy.settings.risk.weights.denials
    return Signals(
        recent_denials=points.get("denials", 0) // weight if weight > 0 else 0,
        velocity=HASTY_CALLS_PER_MINUTE + 1 if "velocity" in points else 0,
        novel="novelty" in points,
    )


def answer_of(verdict: Verdict) -> Answer:
    """Return a verdict in the words of the contract."""
    match verdict:
        case Allow():
            code, detail, decision = ReasonCode.ALLOWED, "permitted", Decision.ALLOW
        case Hold():
            code, detail, decision = ReasonCode.APPROVAL_REQUIRED, verdict.detail, Decision.HOLD
        case Deny() | Unavailable():
            code, detail, decision = verdict.reason_code, verdict.detail, Decision.DENY
        case _:
            assert_never(verdict)
    return Answer(decision=decision, reason_code=code, detail=detail, determining=verdict.determining)
