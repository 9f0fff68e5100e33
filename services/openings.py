"""The ways around an evaluation that could not be made: only those that policy and people opened in advance.

They replace the evaluation and nothing else. The manifest's ceiling, halts, the record, the signature and the
executor's checks stay. Each is marked in the record and in the token. Source: design 1, 5 and 9.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.reasons import Mode

from services.decision import fail_open
from services.decision.verdict import Allow, Unavailable
from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from services.decision.policy import Request
    from services.judgement import Judgement
    from services.ports import Clock, StandingOrders


class Openings:
    """Looks for an opening. One process's; its caps are counted here."""

    def __init__(self, orders: StandingOrders, clock: Clock) -> None:
        self._orders = orders
        self._clock = clock
        self._fail_open = fail_open.Cap()

    def judge(self, judgement: Judgement, request: Request) -> Judgement:
        """Return the judgement as it is, or an allow in its own mode for one that could not be made."""
        verdict = judgement.verdict
        if not isinstance(verdict, Unavailable) or judgement.policy.admit(request) is not None:
            return judgement
        return self._failed_open(judgement, verdict, request) or judgement

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
        return replace(judgement, verdict=Allow(determining=(determining,)), mode=Mode.FAIL_OPEN)
