"""Step 3 in detail: heartbeat, manifest, limits, Cedar, in that order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from holdfast.reasons import Cause, ReasonCode

from services.decision.verdict import Deny, Unavailable
from services.ports import Charge, Evaluated, LimitsUnreachable

if TYPE_CHECKING:
    from holdfast.intent import Intent

    from services.decision.policy import Classified, Policy, Request
    from services.decision.verdict import Verdict
    from services.ports import Limits


class Store(Protocol):
    """The evaluation boundary's first dependency."""

    def check(self) -> None:
        """Return while the store is reachable. Raises: StoreUnreachable."""
        ...


class CatalogueClassifier:
    """Classifies by the bundle's catalogue."""

    async def classify(self, policy: Policy, intent: Intent) -> Classified | Deny:
        """Return the category, or the denial of what the catalogue does not know."""
        return policy.classify(intent)


class PolicyEvaluator:
    """Evaluates one request against the active bundle."""

    def __init__(self, *, store: Store, limits: Limits) -> None:
        self._store = store
        self._limits = limits

    async def evaluate(self, policy: Policy, request: Request, act_hash: str, *, charge: bool) -> Evaluated:
        """Judge one request. Raises: StoreUnreachable."""
        self._store.check()
        verdict = policy.admit(request) or await self._limited(policy, request, charge=charge)
        return Evaluated(verdict=verdict or policy.evaluate(request), act_hash=act_hash, bundle=policy.digest)

    async def _limited(self, policy: Policy, request: Request, *, charge: bool) -> Verdict | None:
        limit = policy.rate_limit(request.agent)
        if limit is None or not charge:
            return None
        call = Charge(
            agent=request.agent,
            intent_id=request.intent_id,
            limit=limit,
            model_tokens=request.intent.context.model_tokens or 0,
            now=request.now,
        )
        try:
            wait_s = await self._limits.charge(call)
        except LimitsUnreachable:
            return Unavailable(
                reason_code=ReasonCode.EVALUATION_UNAVAILABLE,
                cause=Cause.LIMITS_UNREACHABLE,
                detail="the agent's limits could not be read",
            )
        if wait_s == 0:
            return None
        return Deny(
            reason_code=ReasonCode.RATE_LIMITED,
            detail="a limit of the agent's manifest is reached",
            determining=(f"agent:{request.agent}:rate_limit",),
            retry_after_s=wait_s,
        )
