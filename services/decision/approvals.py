"""What people approved, and where it counts.

INVARIANT: an approval counts for one action of one intent under one bundle, once for each person, never for who asked.
INVARIANT: approvals lift holds and stand in for an evaluation that a dependency prevented. They override no denial.
Pure. Source: design 1, 4.4 and 5, docs/queue.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from unicodedata import normalize

from services.decision.catalog import Impact
from services.decision.fail_open import DEPENDENCY_GONE
from services.decision.verdict import Allow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from holdfast.intent import Intent
    from holdfast.reasons import Cause

    from services.decision.policy import Policy, Request

#: What needs two people during an outage, and a note with every approval.
GRAVE: Final = frozenset({Impact.HIGH, Impact.CRITICAL})
_USER: Final = "user:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One person's yes to one action of one intent. `roles` are those of the bundle in which they gave it."""

    approval_id: str
    intent_id: str
    act_hash: str
    bundle: str
    approved_by: str
    roles: tuple[str, ...]
    approved_at: datetime
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What lifts one holding rule, and who of those people approved so far."""

    rule: str
    reason: str | None
    role: str
    count: int
    approved_by: tuple[str, ...]

    @property
    def missing(self) -> int:
        """How many more are needed."""
        return max(0, self.count - len(self.approved_by))


def asked_by(username: str, *, policy: Policy, agent: str, intent: Intent) -> bool:
    """Return whether this is the person whose agent asks, or for whom it asks.

    Letter case, blanks around a name and wide or composed forms of its letters make no other person.
    """
    asking = (policy.owner(agent), intent.context.on_behalf_of)
    return _person(username) in {_person(who) for who in asking if who is not None}


def _person(name: str) -> str:
    """Return a person's name as it is compared: without the prefix `user:`, however often it stands there."""
    name = normalize("NFKC", normalize("NFKC", name).casefold()).strip()
    while name.startswith(_USER):
        name = name.removeprefix(_USER).strip()
    return name


def counting(
    given: Iterable[Approval], *, policy: Policy, agent: str, intent: Intent, act_hash: str
) -> tuple[Approval, ...]:
    """Return the approvals that count for this action under this bundle: the first of each person, oldest first."""
    found: dict[str, Approval] = {}
    for approval in sorted(given, key=lambda one: (one.approved_at, one.approval_id)):
        if approval.act_hash != act_hash or approval.bundle != policy.digest:
            continue
        if not asked_by(approval.approved_by, policy=policy, agent=agent, intent=intent):
            found.setdefault(approval.approved_by.casefold(), approval)
    return tuple(found.values())


def lifting(counted: Iterable[Approval], *, policy: Policy, determining: Iterable[str]) -> tuple[Approval, ...]:
    """Return those whose people have a role that one of the holding rules asks for."""
    people = frozenset[str]().union(*(policy.approvers(need.role) for need in needs(policy, determining, ())))
    return tuple(approval for approval in counted if approval.approved_by in people)


def needs(policy: Policy, determining: Iterable[str], approved_by: Sequence[str]) -> tuple[Need, ...]:
    """Return what the holding rules among `determining` ask for."""
    return tuple(
        Need(
            rule=rule.id,
            reason=rule.reason,
            role=rule.approval.role,
            count=rule.approval.count,
            approved_by=tuple(sorted(policy.approvers(rule.approval.role).intersection(approved_by))),
        )
        for rule in policy.holding(determining)
        if rule.approval is not None
    )


def people_in_outage(impact: Impact) -> int:
    """Return how many people it takes to permit what cannot be evaluated."""
    return 2 if impact in GRAVE else 1


def opened_by(policy: Policy, request: Request, counted: Sequence[Approval], *, cause: Cause | None) -> Allow | None:
    """Return what approvals permit while a dependency prevents the evaluation; None where they do not.

    Never where the failure belongs to this one evaluation, and never what the last known policy would not allow with
    these very approvals.
    """
    if cause not in DEPENDENCY_GONE or len(counted) < people_in_outage(request.classified.impact):
        return None
    people = tuple(approval.approved_by for approval in counted)
    if not isinstance(policy.evaluate(replace(request, approvals=people)), Allow):
        return None
    return Allow(determining=tuple(f"operator:{approval.approval_id}" for approval in counted))
