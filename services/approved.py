"""What people approved, where a judgement rests on it: a hold that is lifted, an outage that somebody answers for.

Approvals are looked up only where they can matter, so that what nobody approved costs nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.reasons import Mode

from services.decision import review
from services.decision.approvals import counting, lifting, opened_by
from services.decision.review import Use
from services.decision.verdict import Hold, Unavailable
from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from services.decision.policy import Policy, Request
    from services.judgement import Judgement
    from services.ports import Evaluated, Evaluator, Ids, StandingOrders
    from services.queued import Approvals


class ApprovedEvaluator:
    """The Evaluator port around another. What it holds is evaluated again, in full, with the approvals that count."""

    def __init__(self, inner: Evaluator, approvals: Approvals) -> None:
        self._inner = inner
        self._approvals = approvals

    async def evaluate(self, policy: Policy, request: Request, act_hash: str, *, charge: bool) -> Evaluated:
        """Judge one request. Raises: StoreUnreachable."""
        evaluated = await self._inner.evaluate(policy, request, act_hash, charge=charge)
        held = evaluated.verdict
        if not isinstance(held, Hold) or not request.drained:
            return evaluated  # what is asked for the first time, nobody has approved
        given = await self._approvals.given(request.intent_id)
        counted = counting(given, policy=policy, agent=request.agent, intent=request.intent, act_hash=act_hash)
        approvals = lifting(counted, policy=policy, determining=held.determining)
        if approvals:
            people = tuple(approval.approved_by for approval in approvals)
            again = await self._inner.evaluate(policy, replace(request, approvals=people), act_hash, charge=False)
            evaluated = replace(again, approvals=tuple(approval.approval_id for approval in approvals))
        verdict = evaluated.verdict
        if isinstance(verdict, Hold) and (others := len(given) - len(approvals)):
            without = f"{others} of the approvals given do not count here"
            evaluated = replace(evaluated, verdict=replace(verdict, detail=f"{verdict.detail}; {without}"))
        return evaluated


class ApprovedInOutage:
    """The way that approvals open around an evaluation that a dependency prevented."""

    def __init__(self, approvals: Approvals, orders: StandingOrders, ids: Ids, *, instance: str) -> None:
        self._approvals = approvals
        self._orders = orders
        self._ids = ids
        self._instance = instance

    async def judge(self, judgement: Judgement, request: Request) -> Judgement:
        """Return the judgement as it is, or an allow in operator mode for one that could not be made."""
        verdict, policy = judgement.verdict, judgement.policy
        if not isinstance(verdict, Unavailable):
            return judgement
        try:
            self._orders.check()  # a halt may not have been heard
            given = await self._approvals.given(request.intent_id)
        except StoreUnreachable:
            return judgement
        counted = counting(
            given, policy=policy, agent=request.agent, intent=request.intent, act_hash=judgement.act_hash
        )
        allow = opened_by(policy, request, counted, cause=verdict.cause)
        if allow is None:
            return judgement
        use = Use(
            mode=Mode.OPERATOR,
            review_id=self._ids.new(review.ID_PREFIX),
            activation=None,
            instance=self._instance,
            category=request.classified.category,
            environment=request.classified.environment,
            review_due_at=judgement.at + review.REVIEW_WITHIN,
            approvals=tuple(approval.approval_id for approval in counted),
        )
        return replace(judgement, verdict=allow, mode=use.mode, instead=verdict, use=use, approvals=use.approvals)
