"""The ways around an evaluation that could not be made: only those that policy and people opened in advance.

They replace the evaluation and nothing else. The manifest's ceiling, halts, the record, the signature and the
executor's checks stay. Each is marked in the record and in the token, and opens a review. Source: design 1, 5 and 9.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.reasons import Mode

from services.decision import break_glass, fail_open, review
from services.decision.review import Use
from services.decision.verdict import Allow, Unavailable
from services.notices.notice import ID_PREFIX
from services.opening_notices import of_use
from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from services.activations import BreakGlassUses
    from services.decision.policy import Request
    from services.judgement import Judgement
    from services.notices.notice import Notice
    from services.ports import Clock, Ids, StandingOrders


class Openings:
    """Looks for an opening. One process's; the caps of fail-open are counted here."""

    def __init__(self, orders: StandingOrders, uses: BreakGlassUses, clock: Clock, ids: Ids) -> None:
        self._orders = orders
        self._uses = uses
        self._clock = clock
        self._ids = ids
        self._fail_open = fail_open.Cap()

    async def judge(self, judgement: Judgement, request: Request, idempotency_key: str | None) -> Judgement:
        """Return the judgement as it is, or an allow in its own mode for one that could not be made."""
        verdict = judgement.verdict
        if not isinstance(verdict, Unavailable) or judgement.policy.admit(request) is not None:
            return judgement
        return (
            self._failed_open(judgement, verdict, request)
            or await self._broke_glass(judgement, verdict, request, idempotency_key)
            or judgement
        )

    async def closed_again(self, intent_id: str, judgement: Judgement) -> None:
        """Take back what an opening counted for a token that never leaves."""
        if judgement.mode is Mode.BREAK_GLASS:
            await self._uses.give_back(intent_id)

    def told(self, intent_id: str, agent: str, judgement: Judgement) -> tuple[Notice, ...]:
        """Return what people are told of a token that an opening lets out."""
        use, classified = judgement.use, judgement.classified
        if use is None or classified is None:
            return ()
        notice = of_use(
            use,
            notice_id=self._ids.new(ID_PREFIX),
            at=judgement.at,
            intent_id=intent_id,
            agent=agent,
            impact=classified.impact,
            by=", ".join(judgement.verdict.determining),
        )
        return (notice,)

    def _failed_open(self, judgement: Judgement, verdict: Unavailable, request: Request) -> Judgement | None:
        try:
            self._orders.check()
        except StoreUnreachable:
            return None  # a halt or the end of an override may not have been heard
        opened = fail_open.opened_by(
            judgement.policy, self._orders.current(), request, cause=verdict.cause, now=judgement.at
        )
        if opened is None:
            return None
        classified, most = request.classified, opened.max_per_minute
        if not self._fail_open.take(classified.impact, most=most, now=self._clock.monotonic()):
            return None
        use = Use(
            mode=Mode.FAIL_OPEN,
            review_id=self._ids.new(review.ID_PREFIX),
            activation=opened.order_id,
            instance=self._uses.instance,
            category=classified.category,
            environment=classified.environment,
            review_due_at=judgement.at + review.REVIEW_WITHIN,
        )
        return replace(
            judgement, verdict=Allow(determining=(opened.determining,)), mode=use.mode, instead=verdict, use=use
        )

    async def _broke_glass(
        self, judgement: Judgement, verdict: Unavailable, request: Request, idempotency_key: str | None
    ) -> Judgement | None:
        # An old picture will do: people who saw the outage stand behind it. None at all will not, for it has no halts.
        if not self._orders.are_known():
            return None
        for activation, terms in break_glass.covering(
            judgement.policy, self._orders.current(), request, cause=verdict.cause, now=judgement.at
        ):
            use = await self._uses.take(activation, terms, request, idempotency_key=idempotency_key)
            if use is not None:
                allow = Allow(determining=(f"break_glass:{activation.scope}",))
                return replace(judgement, verdict=allow, mode=use.mode, instead=verdict, use=use)
        return None
