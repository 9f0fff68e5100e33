"""When people are reminded of a review."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from world import START

from services.decision.review import Pile, pile_reminder, reminder

HOUR = timedelta(hours=1)


def reminders(review_hours: int, until_hours: int) -> list[tuple[float, bool]]:
    """Return at which hours a clock that looks every ten minutes reminds, and whether as overdue."""
    found, last = [], None
    for minute in range(0, until_hours * 60 + 1, 10):
        now = START + timedelta(minutes=minute)
        due = reminder(used_at=START, due_at=START + review_hours * HOUR, reminded_at=last, now=now)
        if due is not None:
            last = now
            found.append((minute / 60, due.overdue))
    return found


def test_at_once_after_twelve_and_after_twenty_four_hours_and_then_every_hour():
    assert reminders(24, 26) == [(0, False), (12, False), (24, True), (25, True), (26, True)]


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        (4, [(0, False), (4, True), (5, True)]),
        (48, [(0, False), (12, False), (24, False), (48, True), (49, True)]),
    ],
)
def test_reminders_follow_the_use_and_escalation_follows_the_policy(hours, expected):
    assert reminders(hours, expected[-1][0]) == expected


def test_after_a_long_silence_one_reminder_is_enough():
    now = START + 13 * HOUR
    due = reminder(used_at=START, due_at=START + 24 * HOUR, reminded_at=None, now=now)
    assert (due.since, due.overdue) == (START + 12 * HOUR, False)
    assert reminder(used_at=START, due_at=START + 24 * HOUR, reminded_at=now, now=now + HOUR) is None


def test_a_use_from_a_clock_ahead_of_ours_waits():
    assert reminder(used_at=START + HOUR, due_at=START + 25 * HOUR, reminded_at=None, now=START) is None


# --- of what failed open, all at once ---------------------------------------------------------------------------------


def piled(uses: list[float], until_hours: float) -> list[tuple[float, bool]]:
    """Return when a clock that looks every ten minutes reminds of uses at these hours, none of them ever closed."""
    found, last = [], None
    for minute in range(0, int(until_hours * 60) + 1, 10):
        now = START + timedelta(minutes=minute)
        there = [START + use * HOUR for use in uses if use * 60 <= minute]
        if not there:
            continue
        pile = Pile(
            reviews=len(there),
            overdue=sum(use + 24 * HOUR <= now for use in there),
            flagged=0,
            unreminded=sum(last is None or use > last for use in there),
            first_review_id="rev_1",
            first_used_at=there[0],
            first_due_at=there[0] + 24 * HOUR,
            reminded_at=last,
        )
        if (due := pile_reminder(pile, now)) is not None:
            last = now
            found.append((minute / 60, due.overdue))
    return found


def test_one_that_failed_open_reminds_as_any_other():
    assert piled([0], 26) == reminders(24, 26)


def test_a_thousand_that_failed_open_remind_once_an_hour_at_most():
    told = piled([n / 100 for n in range(1000)], 30)
    assert told[:3] == [(0, False), (1, False), (2, False)]
    assert len(told) <= 30
    assert all(later - earlier >= 1 for (earlier, _), (later, _) in pairwise(told))


def test_what_came_since_is_reminded_of_within_the_hour_and_overdue_from_the_first_on():
    assert piled([0, 0.5], 25) == [(0, False), (1, False), (12, False), (24, True), (25, True)]
