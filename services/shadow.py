"""A candidate beside the active bundle, on live traffic: it is asked the same, and changes nothing.

It is asked once the verdict is on its way, on the event loop's next turn, without limits and without effect. Counts go
to the store in batches, outside the way of any decision; what cannot be written waits for the next one, up to a bound.
What the catalogue of the active bundle does not know never gets as far as an evaluation, and is not compared.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from services.decision.replay import answer_of, ask_beside, looseness_of
from services.decision.simulation import change_name
from services.ports import StoreUnreachable
from services.postgres.shadows import ShadowDifference

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.decision.policy import Policy, Request
    from services.policies import Candidate
    from services.ports import Evaluated, Evaluator
    from services.postgres.shadows import PostgresShadows

_log = logging.getLogger(__name__)

_INTERVAL_S: Final = 1.0
_MAX_WAITING: Final = 200


class ShadowEvaluator:
    """The Evaluator port around another: the active verdict goes through untouched."""

    def __init__(self, inner: Evaluator, candidate: Callable[[], Candidate | None]) -> None:
        self._inner = inner
        self._candidate = candidate
        self._counts: Counter[tuple[int, str]] = Counter()
        self._differences: deque[ShadowDifference] = deque(maxlen=_MAX_WAITING)

    async def evaluate(self, policy: Policy, request: Request, act_hash: str, *, charge: bool) -> Evaluated:
        """Judge one request; then ask the candidate, and only count what it says. Raises: StoreUnreachable."""
        evaluated = await self._inner.evaluate(policy, request, act_hash, charge=charge)
        if (candidate := self._candidate()) is not None:
            # INVARIANT: nothing that the candidate does can reach this call, nor its deadline.
            asyncio.get_running_loop().call_soon(self._compare, candidate, policy, request, evaluated)
        return evaluated

    def _compare(self, candidate: Candidate, active: Policy, request: Request, evaluated: Evaluated) -> None:
        act_hash = evaluated.act_hash
        try:
            other = ask_beside(candidate.policy, active, request)
        except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
            _log.warning("the candidate %s failed on %s: %s", candidate.policy.digest, act_hash, error)
            self._counts[candidate.run, "errors"] += 1
            return
        old, new = answer_of(evaluated.verdict), answer_of(other)
        if (old.decision, old.reason_code) == (new.decision, new.reason_code):
            self._counts[candidate.run, "same"] += 1
            return
        looseness = looseness_of(old, new)
        self._counts[candidate.run, change_name(looseness)] += 1
        self._differences.append(
            ShadowDifference(
                run=candidate.run,
                at=request.now,
                intent_id=request.intent_id,
                agent=request.agent,
                act_hash=act_hash,
                action=request.intent.action,
                old=old,
                new=new,
            )
        )

    # --- to the store -----------------------------------------------------------------------------------------------

    async def run(self, shadows: PostgresShadows, *, instance: str) -> None:
        """Write what was counted until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            await self.flush(shadows, instance=instance)

    async def flush(self, shadows: PostgresShadows, *, instance: str) -> None:
        """Write what was counted since the last time; keep it if the store does not take it."""
        counts, differences = self._counts, [*self._differences]
        if not counts:
            return
        self._counts = Counter()
        self._differences.clear()
        try:
            await shadows.add(instance, counts, differences)
        except StoreUnreachable as error:
            _log.debug("the shadow's counts wait: %s", error)
            self._counts.update(counts)
            self._differences.extendleft(reversed(differences[: _MAX_WAITING - len(self._differences)]))
