"""The review that each use of break-glass opens: when people are reminded of it, and what changes it.

Pure: time is an argument. Source: design 9, docs/break-glass.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.strict_json import JSON

ID_PREFIX: Final = "rev_"
_REMINDERS: Final = (timedelta(0), timedelta(hours=12), timedelta(hours=24))
_ESCALATION: Final = timedelta(hours=1)


class ReviewVerdict(StrEnum):
    """What a reviewer found."""

    JUSTIFIED = "justified"
    UNJUSTIFIED = "unjustified"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenReview:
    """A review that nobody closed. One activation has as many as uses."""

    review_id: str
    activation: str
    due_at: datetime

    def is_overdue(self, now: datetime) -> bool:
        """Return whether it should have been closed."""
        return self.due_at <= now


@dataclass(frozen=True, slots=True, kw_only=True)
class Reminder:
    """That people should be reminded now: since when, and whether the review is overdue."""

    since: datetime
    overdue: bool


def reminder(*, used_at: datetime, due_at: datetime, reminded_at: datetime | None, now: datetime) -> Reminder | None:
    """Return the reminder that is due, the latest of several; None when all that are due were given.

    At the use, 12 and 24 hours later, as far as the review is not overdue by then; from then on every hour.
    """
    if now >= due_at:
        latest = due_at + (now - due_at) // _ESCALATION * _ESCALATION
    else:
        passed = [used_at + after for after in _REMINDERS if used_at + after <= now]
        if not passed:
            return None
        latest = passed[-1]
    if reminded_at is not None and reminded_at >= latest:
        return None
    return Reminder(since=latest, overdue=now >= due_at)


# --- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReview:
    """Effect: close a review. Refused if it is closed or unknown, and for who stands behind the activation."""

    review_id: str
    closed_by: str
    closed_at: datetime
    verdict: ReviewVerdict
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemindReview:
    """Effect: note that people were reminded. Refused unless `expected` was the last time, and if it is closed."""

    review_id: str
    reminded_at: datetime
    expected: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileUse:
    """Effect: keep what policy says of a use after the fact. Refused if it was said before."""

    review_id: str
    reconciled_at: datetime
    would: Mapping[str, JSON]
    flagged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SumUpActivation:
    """Effect: keep the sum of an activation that is over. Refused unless it counts more uses than the last one."""

    activation: str
    summed_at: datetime
    uses: int
    document: Mapping[str, JSON]


ReviewEffect = CloseReview | RemindReview | ReconcileUse | SumUpActivation
