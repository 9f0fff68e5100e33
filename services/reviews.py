"""Reviews: what was permitted around the evaluation, somebody else must look at afterwards. Source: design 9."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from holdfast.audit.record import timestamp

from services.ports import Entry

if TYPE_CHECKING:
    from datetime import datetime

REVIEW_WITHIN: Final = timedelta(hours=24)


def review_of_operators(intent_id: str, at: datetime) -> Entry:
    """Return the entry that opens the review of an intent which people permitted without an evaluation."""
    return open_review("operator", intent_id, at=at, due_at=at + REVIEW_WITHIN)


def open_review(kind: str, subject: str, *, at: datetime, due_at: datetime) -> Entry:
    """Return the entry that opens a review of `subject`, what its kind names, to be closed by `due_at`."""
    return Entry(kind="review.opened", at=at, members={"review": kind, "subject": subject, "due_at": timestamp(due_at)})
