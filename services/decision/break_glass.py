"""Break-glass: which activation lets an intent pass whose evaluation could not be made.

A policy of the bundle says in advance for what, for whom and how far; people activate it. The terms are copied into the
activation, so that a later bundle cannot widen it; the bundle that is active still has to say the same or more.

INVARIANT: only where a dependency is gone; never where the failure belongs to the one evaluation, which an agent could
cause.
Pure: time is an argument. Source: design 9, docs/break-glass.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from services.decision.fail_open import DEPENDENCY_GONE
from services.decision.pattern import matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from holdfast.reasons import Cause
    from holdfast.strict_json import JSON

    from services.decision.orders import Order, Orders
    from services.decision.policy import Policy, Request
    from services.decision.settings import BreakGlass

ID_PREFIX: Final = "brk_"
#: How long an activation may wait for the people that it needs.
PENDING: Final = timedelta(minutes=15)
#: Longer ago than this, an activation is no earlier one of any: no policy allows a longer one.
LONGEST: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an activation covers."""

    categories: frozenset[str]
    agents: tuple[str, ...]
    environments: frozenset[str]
    max_uses: int
    review_hours: int

    def admit(self, request: Request) -> bool:
        """Return whether a request is covered."""
        classified = request.classified
        # Whoever disputes the catalogue's category names another one: then both must be covered.
        disputed = frozenset() if classified.dispute is None else frozenset({classified.dispute.category})
        return (
            self.categories >= disputed | {classified.category}
            and classified.environment in self.environments
            and any(matches(pattern, request.agent) for pattern in self.agents)
        )


def terms_of(rule: BreakGlass) -> Terms:
    """Return the terms of a policy."""
    return Terms(
        categories=frozenset(rule.categories),
        agents=rule.agents,
        environments=frozenset(rule.environments),
        max_uses=rule.max_uses,
        review_hours=rule.review_hours,
    )


def document(
    rule: BreakGlass, *, bundle: str, home: str, incident: str, minutes: int, earlier: AbstractSet[str]
) -> dict[str, JSON]:
    """Return what an activation keeps. `earlier` are the people behind those that it would renew."""
    return {
        "bundle": bundle,
        "home": home,
        "incident": incident,
        "minutes": minutes,
        "earlier": [*sorted(earlier)],
        "categories": [*rule.categories],
        "agents": [*rule.agents],
        "environments": [*rule.environments],
        "max_uses": rule.max_uses,
        "review_hours": rule.review_hours,
    }


def agreed(activation: Order) -> Terms | None:
    """Return the terms under which an activation was made; None where they cannot be read: then it covers nothing."""
    match activation.document:
        case {
            "categories": list(categories),
            "agents": list(agents),
            "environments": list(environments),
            "max_uses": int(max_uses),
            "review_hours": int(review_hours),
        }:
            return Terms(
                categories=frozenset(str(name) for name in categories),
                agents=tuple(str(name) for name in agents),
                environments=frozenset(str(name) for name in environments),
                max_uses=max_uses,
                review_hours=review_hours,
            )
        case _:
            return None


def rule_named(policy: Policy, name: str) -> BreakGlass | None:
    """Return a break-glass policy of the bundle."""
    return next((rule for rule in policy.settings.break_glass if rule.name == name), None)


def covering(
    policy: Policy, orders: Orders, request: Request, *, cause: Cause | None, now: datetime
) -> Iterator[tuple[Order, Terms]]:
    """Yield the activations that cover a request, oldest first, each under the narrower of the terms."""
    if cause not in DEPENDENCY_GONE:
        return
    for activation in orders.activations(now):
        rule, at_first = rule_named(policy, activation.scope), agreed(activation)
        if rule is None or at_first is None or not has_somebody_new(activation):
            continue
        today = terms_of(rule)
        if at_first.admit(request) and today.admit(request):
            yield activation, min(at_first, today, key=lambda terms: terms.max_uses)


# --- renewal ----------------------------------------------------------------------------------------------------------


def people_before(activations: Iterable[Order], rule: BreakGlass, *, now: datetime) -> frozenset[str]:
    """Return who stood behind activations of this policy that are in force, or ended within its longest time."""
    reach = timedelta(minutes=rule.max_minutes)
    return frozenset(
        name
        for activation in activations
        if activation.scope == rule.name
        and activation.in_force_at is not None
        and (end := end_of(activation)) is not None
        and now - end < reach
        for name in activation.behind()
    )


def end_of(activation: Order) -> datetime | None:
    """Return when an activation ended, or will."""
    ends = [moment for moment in (activation.ended_at, activation.expires_at) if moment is not None]
    return min(ends, default=None)


def earlier_people(activation: Order) -> frozenset[str]:
    """Return who stood behind what an activation renews."""
    found = activation.document.get("earlier")
    return frozenset(str(name) for name in found) if isinstance(found, list) else frozenset()


def has_somebody_new(activation: Order) -> bool:
    """Return whether somebody stands behind it who stood behind none of those that it renews."""
    return bool(activation.behind() - earlier_people(activation))


def may_confirm(activation: Order, by: str) -> bool:
    """Return whether this person may be the next behind it: of a renewal, the first must be somebody new.

    The first, not the last: two replicas that each take one confirmation never put a renewal in force without.
    """
    return has_somebody_new(activation) or by not in earlier_people(activation)


def minutes_of(activation: Order) -> int:
    """Return for how long an activation was asked. Raises: ValueError."""
    found = activation.document.get("minutes")
    if type(found) is not int or found < 1:
        raise ValueError("the activation does not say for how long")
    return found
