"""The ways around an evaluation that could not be made: only those that policy and people opened in advance.

They replace the evaluation and nothing else. The manifest's ceiling, halts, the record, the signature and the
executor's checks stay. Each is marked in the record and in the token. Source: design 1, 5 and 9.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.reasons import Mode

from services.break_glass_notices import of_use
from services.decision import break_glass, fail_open
from services.decision.verdict import Allow, Unavailable
from services.notices.notice import ID_PREFIX, MAX_DETAIL, MAX_SUMMARY, Kind, Notice, Severity, printable
from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from services.decision.policy import Request
    from services.judgement import Judgement
    from services.ports import BreakGlassUses, Clock, Ids, StandingOrders


class Openings:
    """Looks for an opening. One process's; the caps of fail-open are counted here."""

    def __init__(self, orders: StandingOrders, uses: BreakGlassUses, clock: Clock) -> None:
        self._orders = orders
        self._uses = uses
        self._clock = clock
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
        if judgement.break_glass is not None:
            await self._uses.give_back(intent_id)

    @staticmethod
    def told(intent_id: str, agent: str, judgement: Judgement, ids: Ids) -> tuple[Notice, ...]:
        """Return what people are told of a token that an opening lets out."""
        use, classified = judgement.break_glass, judgement.classified
        if use is not None:
            return (
                of_use(
                    notice_id=ids.new(ID_PREFIX),
                    at=judgement.at,
                    activation=use.activation,
                    review=use.review_id,
                    intent_id=intent_id,
                    agent=agent,
                    category=use.category,
                ),
            )
        if judgement.mode is Mode.NORMAL or classified is None:
            return ()
        fell_open = judgement.mode is Mode.FAIL_OPEN
        whose = ", ".join(judgement.verdict.determining)
        return (
            Notice(
                notice_id=ids.new(ID_PREFIX),
                kind=Kind.FAIL_OPEN_USED if fell_open else Kind.OPERATOR_PERMITTED,
                severity=Severity.ERROR,
                dedupe_key=f"fail_open:{classified.impact}" if fell_open else f"operator:{intent_id}",
                summary=printable(f"{agent} was let through unevaluated for {classified.category}", limit=MAX_SUMMARY),
                at=judgement.at,
                details={
                    "intent_id": intent_id,
                    "agent": printable(agent, limit=MAX_DETAIL),
                    "category": printable(classified.category, limit=MAX_DETAIL),
                    "by": printable(whose, limit=MAX_DETAIL),
                },
            ),
        )

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
        determining, most = opened
        if not self._fail_open.take(request.classified.impact, most=most, now=self._clock.monotonic()):
            return None
        return replace(judgement, verdict=Allow(determining=(determining,)), mode=Mode.FAIL_OPEN, instead=verdict)

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
                return replace(judgement, verdict=allow, mode=Mode.BREAK_GLASS, instead=verdict, break_glass=use)
        return None
