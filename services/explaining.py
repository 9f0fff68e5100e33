"""Explains a stored decision on the bundle that made it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.decision.explain import Explanation, explain
from services.decision.replay import answer_of, request_of, signals_of
from services.decision.verdict import Deny
from services.outcome import rfc3339
from services.publishing import compiled

if TYPE_CHECKING:
    from holdfast.strict_json import JSON

    from services.decision.policy import Policy
    from services.decision.replay import Recorded
    from services.postgres.bundles import PostgresBundles
    from services.postgres.decisions import PostgresDecisions


class NoSuchDecision(Exception):
    """No intent of that id is stored."""


class NotDecided(Exception):
    """No bundle judged the intent, so there is nothing to explain; the text says what happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A stored decision and its explanation. `as_recorded` is False where approvals, limits or an outage decided."""

    recorded: Recorded
    explanation: Explanation

    @property
    def as_recorded(self) -> bool:
        """Whether the rules alone give the recorded answer."""
        answer = self.explanation.answer
        return (answer.decision.value, answer.reason_code.value, set(answer.determining)) == (
            self.recorded.decision,
            self.recorded.reason_code,
            set(self.recorded.determining),
        )

    def to_json(self) -> dict[str, JSON]:
        """Return the wire form."""
        recorded = self.recorded
        risk = recorded.risk
        return {
            "intent_id": recorded.intent_id,
            "agent": recorded.agent,
            "action": recorded.intent.action,
            "resource": str(recorded.intent.resource),
            "decided_at": rfc3339(recorded.at),
            "bundle": recorded.bundle,
            "recorded": {
                "decision": recorded.decision,
                "reason_code": recorded.reason_code,
                "detail": recorded.detail,
                "determining": [*recorded.determining],
            },
            "risk": None
            if risk is None
            else {
                "score": risk.score,
                "tier": risk.tier.value,
                "factors": [{"name": f.name, "points": f.points, "why": f.why} for f in risk.factors],
            },
            "as_recorded": self.as_recorded,
            **self.explanation.to_json(),
        }


class Explainer:
    """Reads a decision and its bundle, and takes the rules apart. Keeps the last bundle that it compiled."""

    def __init__(self, decisions: PostgresDecisions, bundles: PostgresBundles) -> None:
        self._decisions = decisions
        self._bundles = bundles
        self._last: Policy | None = None

    async def explain(self, intent_id: str, *, agent: str | None = None) -> Explained:
        """Explain an intent; with `agent`, only one of its own.

        Raises: NoSuchDecision, NotDecided, NotExplained, PublishingFailed, BundleInvalid, StoreUnreachable,
        DecisionDamaged.
        """
        recorded = await self._decisions.get(intent_id)
        if recorded is None or (agent is not None and recorded.agent != agent):
            raise NoSuchDecision(f"there is no intent `{intent_id}`")
        if recorded.bundle is None:
            raise NotDecided(f"no policy judged it: {recorded.detail}")
        policy = self._last
        if policy is None or policy.digest != recorded.bundle:
            policy = self._last = await compiled(self._bundles, recorded.bundle)
        explanation = await asyncio.to_thread(_explained, policy, recorded)
        return Explained(recorded=recorded, explanation=explanation)


def _explained(policy: Policy, recorded: Recorded) -> Explanation:
    classified = policy.classify(recorded.intent)
    if isinstance(classified, Deny):
        return Explanation(answer=answer_of(classified))
    risk = recorded.risk or policy.assess(
        recorded.intent,
        classified,
        agent=recorded.agent,
        signals=signals_of(recorded.risk, policy),
        now=recorded.at,
    )
    return explain(policy, request_of(recorded, classified, risk))
