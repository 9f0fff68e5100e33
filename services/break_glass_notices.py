"""What people are told of break-glass, each with the record that it is about.

The activation, its uses and its end are one story to a receiver, each review another: `break_glass:ID`, `review:ID`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.notices.notice import MAX_DETAIL, MAX_SUMMARY, Kind, Notice, Severity, printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_SEVERITY: Final[Mapping[Kind, Severity]] = {
    Kind.BREAK_GLASS_ACTIVATED: Severity.ERROR,
    Kind.BREAK_GLASS_USED: Severity.ERROR,
    Kind.BREAK_GLASS_REVOKED: Severity.ERROR,  # the ending too: whoever was told of the beginning is told of the end
    Kind.BREAK_GLASS_FLAGGED: Severity.ERROR,
    Kind.BREAK_GLASS_REVIEW_DUE: Severity.WARNING,
    Kind.BREAK_GLASS_REVIEW_OVERDUE: Severity.CRITICAL,
}


def of_activation(kind: Kind, *, notice_id: str, at: datetime, activation: str, policy: str, by: str) -> Notice:
    """Return the notice of an activation that begins or ends."""
    what = "break-glass ended" if kind is Kind.BREAK_GLASS_REVOKED else "break-glass is in force"
    details = {"activation": activation, "policy": policy, "by": by}
    return _notice(kind, f"break_glass:{activation}", f"{what}: {policy}, by {by}", notice_id, at, details)


def of_use(
    *, notice_id: str, at: datetime, activation: str, review: str, intent_id: str, agent: str, category: str
) -> Notice:
    """Return the notice of one use."""
    details = {
        "activation": activation,
        "review_id": review,
        "intent_id": intent_id,
        "agent": agent,
        "category": category,
    }
    summary = f"{agent} was let through by break-glass for {category}"
    return _notice(Kind.BREAK_GLASS_USED, f"break_glass:{activation}", summary, notice_id, at, details)


def of_review(kind: Kind, *, notice_id: str, at: datetime, review: str, details: Mapping[str, str]) -> Notice:
    """Return the notice of a review that is due, overdue, or of a use that policy would not have allowed."""
    what = {
        Kind.BREAK_GLASS_REVIEW_DUE: "waits for a review",
        Kind.BREAK_GLASS_REVIEW_OVERDUE: "was not reviewed in time; nothing is activated until it is",
        Kind.BREAK_GLASS_FLAGGED: "is not what policy would have allowed",
    }[kind]
    summary = f"a use of break-glass by {details['agent']} {what}"
    return _notice(kind, f"review:{review}", summary, notice_id, at, {"review_id": review, **details})


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
