"""What people are told of the ways around an evaluation, each with the record that it is about.

An activation, its uses and its end are one story to a receiver, each review another: `break_glass:ID`, `review:ID`. The
reviews of what failed open may be many, and are one story together: `review:fail_open`.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from holdfast.reasons import Mode

from services.notices.notice import MAX_DETAIL, MAX_SUMMARY, Kind, Notice, Severity, printable
from services.outcome import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from services.decision.catalog import Impact
    from services.decision.review import Pile, Use


class Told(Enum):
    """What is told of a review."""

    DUE = auto()
    OVERDUE = auto()
    FLAGGED = auto()


_PILE: Final = "review:fail_open"
#: Receivers filter by these words: those of break-glass were there first.
_KINDS: Final[Mapping[Told, tuple[Kind, Kind]]] = {
    Told.DUE: (Kind.BREAK_GLASS_REVIEW_DUE, Kind.REVIEW_DUE),
    Told.OVERDUE: (Kind.BREAK_GLASS_REVIEW_OVERDUE, Kind.REVIEW_OVERDUE),
    Told.FLAGGED: (Kind.BREAK_GLASS_FLAGGED, Kind.REVIEW_FLAGGED),
}
_SEVERITY: Final[Mapping[Kind, Severity]] = {
    Kind.BREAK_GLASS_ACTIVATED: Severity.ERROR,
    Kind.BREAK_GLASS_USED: Severity.ERROR,
    Kind.BREAK_GLASS_REVOKED: Severity.ERROR,  # the ending too: whoever was told of the beginning is told of the end
    Kind.BREAK_GLASS_FLAGGED: Severity.ERROR,
    Kind.BREAK_GLASS_REVIEW_DUE: Severity.WARNING,
    Kind.BREAK_GLASS_REVIEW_OVERDUE: Severity.CRITICAL,
    Kind.FAIL_OPEN_USED: Severity.ERROR,
    Kind.OPERATOR_PERMITTED: Severity.ERROR,
    Kind.REVIEW_FLAGGED: Severity.ERROR,
    Kind.REVIEW_DUE: Severity.WARNING,
    Kind.REVIEW_OVERDUE: Severity.CRITICAL,
}


def of_activation(kind: Kind, *, notice_id: str, at: datetime, activation: str, policy: str, by: str) -> Notice:
    """Return the notice of an activation that begins or ends."""
    what = "break-glass ended" if kind is Kind.BREAK_GLASS_REVOKED else "break-glass is in force"
    details = {"activation": activation, "policy": policy, "by": by}
    return _notice(kind, f"break_glass:{activation}", f"{what}: {policy}, by {by}", notice_id, at, details)


def of_use(use: Use, *, notice_id: str, at: datetime, intent_id: str, agent: str, impact: Impact, by: str) -> Notice:
    """Return the notice of one use. `by` names what opened the way."""
    glass = use.mode is Mode.BREAK_GLASS
    details = {
        **({"activation": use.activation} if glass and use.activation is not None else {"by": by}),
        "review_id": use.review_id,
        "intent_id": intent_id,
        "agent": agent,
        "category": use.category,
    }
    kind, key = {
        Mode.BREAK_GLASS: (Kind.BREAK_GLASS_USED, f"break_glass:{use.activation}"),
        Mode.FAIL_OPEN: (Kind.FAIL_OPEN_USED, f"fail_open:{impact}"),
        Mode.OPERATOR: (Kind.OPERATOR_PERMITTED, f"operator:{intent_id}"),
    }[use.mode]
    way = "by break-glass" if glass else "unevaluated"
    return _notice(kind, key, f"{agent} was let through {way} for {use.category}", notice_id, at, details)


def of_review(
    told: Told, mode: Mode, *, notice_id: str, at: datetime, review: str, details: Mapping[str, str]
) -> Notice:
    """Return the notice of one review: that it is due or overdue, or that policy would not have allowed the use."""
    glass = mode is Mode.BREAK_GLASS
    what = {
        Told.DUE: "waits for a review",
        Told.OVERDUE: f"was not reviewed in time{'; nothing is activated until it is' if glass else ''}",
        Told.FLAGGED: "is not what policy would have allowed",
    }[told]
    whose = f"a use of break-glass by {details['agent']}" if glass else f"what operators permitted {details['agent']}"
    summary, named = f"{whose} {what}", {"review_id": review, **details}
    return _notice(_kind(told, mode), f"review:{review}", summary, notice_id, at, named)


def of_pile(told: Told, pile: Pile, *, notice_id: str, at: datetime) -> Notice:
    """Return the notice of all open reviews of what failed open: to a receiver they are one story."""
    summary = f"{pile.reviews} reviews of what failed open wait, {pile.overdue} of them for too long"
    details = {
        "open": str(pile.reviews),
        "overdue": str(pile.overdue),
        "flagged": str(pile.flagged),
        "first_review_id": pile.first_review_id,
        "due_at": rfc3339(pile.first_due_at),
    }
    return _notice(_kind(told, Mode.FAIL_OPEN), _PILE, summary, notice_id, at, details)


def of_flagged(uses: int, *, notice_id: str, at: datetime, review: str, details: Mapping[str, str]) -> Notice:
    """Return the notice of uses that failed open and that policy would not have allowed; `review` is the first."""
    summary = f"{uses} that failed open are not what policy would have allowed"
    named = {"uses": str(uses), "review_id": review, **details}
    return _notice(_kind(Told.FLAGGED, Mode.FAIL_OPEN), _PILE, summary, notice_id, at, named)


def _kind(told: Told, mode: Mode) -> Kind:
    of_glass, of_others = _KINDS[told]
    return of_glass if mode is Mode.BREAK_GLASS else of_others


def _notice(
    kind: Kind, dedupe_key: str, summary: str, notice_id: str, at: datetime, details: Mapping[str, str]
) -> Notice:
    return Notice(
        notice_id=notice_id,
        kind=kind,
        severity=_SEVERITY[kind],
        dedupe_key=dedupe_key,
        summary=printable(summary, limit=MAX_SUMMARY),
        at=at,
        details={name: printable(value, limit=MAX_DETAIL) for name, value in details.items()},
    )
