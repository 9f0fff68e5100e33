"""The review that each token around an evaluation opens: who may close it, when people are reminded, what changes it.

INVARIANT: nobody reviews what they stand behind; where it is not known who does, nobody reviews it.
Pure: time is an argument. Source: design 1 and 9, docs/reviews.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from holdfast.reasons import Mode

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from holdfast.strict_json import JSON

ID_PREFIX: Final = "rev_"
#: How long a review may stay open, where no policy of the bundle says.
REVIEW_WITHIN: Final = timedelta(hours=24)
#: The modes of tokens that have a review.
REVIEWED: Final = frozenset(Mode) - {Mode.NORMAL}
_REMINDERS: Final = (timedelta(0), timedelta(hours=12), timedelta(hours=24))
_ESCALATION: Final = timedelta(hours=1)


class ReviewVerdict(StrEnum):
    """What a reviewer found."""

    JUSTIFIED = "justified"
    UNJUSTIFIED = "unjustified"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One token around the evaluation, with the review that it opens.

    `activation` is the order that opened the way: an activation of break-glass, or an override; None where the bundle
    did, or approvals. `approvals` are the ids of those that it rests on, in operator mode.

    Of break-glass alone: `max_uses`, which the store holds it to, and `at_home`: the activation was taken in by this
    very process's instance. Only there a use may rest on the journal, for only there it is counted while PostgreSQL is
    away.
    """

    mode: Mode
    review_id: str
    activation: str | None
    instance: str
    category: str
    environment: str
    review_due_at: datetime
    approvals: tuple[str, ...] = ()
    max_uses: int | None = None
    at_home: bool = False

    def __post_init__(self) -> None:
        """Refuse a use that nobody could be held to. Raises: ValueError."""
        if self.mode not in REVIEWED:
            raise ValueError("a use is a way around the evaluation")
        glass = self.mode is Mode.BREAK_GLASS
        if glass != (self.max_uses is not None) or (glass and self.activation is None) or (self.at_home and not glass):
            raise ValueError("a use of break-glass, and no other, has an activation with a cap")
        if (self.mode is Mode.OPERATOR) != bool(self.approvals):
            raise ValueError("a use in operator mode, and no other, rests on approvals")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenReview:
    """A review of break-glass that nobody closed. One activation has as many as uses."""

    review_id: str
    activation: str
    due_at: datetime

    def is_overdue(self, now: datetime) -> bool:
        """Return whether it should have been closed."""
        return self.due_at <= now


def why_not(behind: Collection[str] | None, by: str) -> str | None:
    """Return why a person may not close a review; None where they may. Letter case makes no other person.

    `behind` are the people who stand behind the use: its activation, its override, or its approvals. None: nobody
    does, for the bundle opened the way. Empty: it is not known who does.
    """
    if behind is None:
        return None
    if not behind:
        return "nobody is known to stand behind this, so nobody can review it"
    if by.casefold() in {name.casefold() for name in behind}:
        return "who stands behind this cannot review it"
    return None


# --- reminders --------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pile:
    """The open reviews of what failed open: they may be many, so people are reminded of all of them at once.

    `first` is the one that is due first. `unreminded` came since `reminded_at`, the last reminder of any of them.
    """

    reviews: int
    overdue: int
    flagged: int
    unreminded: int
    first_review_id: str
    first_used_at: datetime
    first_due_at: datetime
    reminded_at: datetime | None


def pile_reminder(pile: Pile, now: datetime) -> Reminder | None:
    """Return the reminder of all that is due: as of the first of them; of others that came since, once an hour."""
    due = reminder(used_at=pile.first_used_at, due_at=pile.first_due_at, reminded_at=pile.reminded_at, now=now)
    if due is not None or not pile.unreminded or pile.reminded_at is None:
        return due
    since = pile.reminded_at + _ESCALATION
    return Reminder(since=since, overdue=pile.overdue > 0) if since <= now else None


# --- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReview:
    """Effect: close a review. Refused if it is closed or unknown, and for whom `why_not` would refuse."""

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
class RemindPile:
    """Effect: note that people were reminded of all open reviews of what failed open by then.

    Refused unless `expected` was the last time for any of them, and if none is open.
    """

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


ReviewEffect = CloseReview | RemindReview | RemindPile | ReconcileUse | SumUpActivation
