"""Whether an intent that could not be evaluated may pass all the same. Closed everywhere unless somebody opened it.

INVARIANT: only reads of low impact, and of medium impact under an override; never more in a minute than the cap.
INVARIANT: never where the failure belongs to the one evaluation: an agent must not be able to cause its own exception.
INVARIANT: never what the last known policy would not permit by itself.
Pure. Source: design 5, docs/fail-modes.md.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from holdfast.reasons import Cause

from services.decision.catalog import Effect, Impact
from services.decision.settings import FailModeName
from services.decision.verdict import Allow

if TYPE_CHECKING:
    from datetime import datetime

    from services.decision.orders import Order, Orders
    from services.decision.policy import Policy, Request

#: The causes that speak of a dependency. A late or failed evaluation may be the doing of the intent itself.
DEPENDENCY_GONE: Final = frozenset(
    {Cause.STORE_UNREACHABLE, Cause.CIRCUIT_OPEN, Cause.STALE_BUNDLE, Cause.LIMITS_UNREACHABLE}
)
OVERRIDABLE: Final = frozenset({Impact.LOW, Impact.MEDIUM})
_MINUTE_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What opened the way: the override's order, or with None the bundle's fail mode; as a determining id; its cap."""

    determining: str
    max_per_minute: int
    order_id: str | None = None


class Cap:
    """How many passed in the last minute, by impact tier. Of one process; time is seconds that never move backwards."""

    def __init__(self) -> None:
        self._passed: dict[Impact, deque[float]] = {}

    def take(self, impact: Impact, *, most: int, now: float) -> bool:
        """Count one and return True, or return False when `most` passed within the minute."""
        passed = self._passed.setdefault(impact, deque())
        while passed and now - passed[0] >= _MINUTE_S:
            passed.popleft()
        if len(passed) >= most:
            return False
        passed.append(now)
        return True


def opened_by(
    policy: Policy, orders: Orders, request: Request, *, cause: Cause | None, now: datetime
) -> Opening | None:
    """Return what opened the way; None where it is closed."""
    classified = request.classified
    if cause not in DEPENDENCY_GONE or classified.effect is not Effect.READ or classified.dispute is not None:
        return None
    opened = _opening(policy, orders.override(classified.impact, now), classified.impact)
    if opened is None or not isinstance(policy.evaluate(request), Allow):
        return None
    return opened


def _opening(policy: Policy, override: Order | None, impact: Impact) -> Opening | None:
    if impact not in OVERRIDABLE:
        return None
    if override is not None:
        most = override.document.get("max_per_minute")
        if type(most) is not int:
            return None
        order_id = override.order_id
        return Opening(determining=f"override:{order_id}", max_per_minute=most, order_id=order_id)
    mode = policy.settings.fail_modes.of(impact)
    if mode.mode is not FailModeName.OPEN or mode.max_per_minute is None:
        return None
    return Opening(determining=f"fail_mode:{impact}", max_per_minute=mode.max_per_minute)
