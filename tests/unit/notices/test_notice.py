"""What a notice may say."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from fakes.recording_entries import notice

from services.notices.notice import Kind, Notice, Severity, printable

GOOD = {
    "notice_id": "ntc_" + "0" * 26,
    "kind": Kind.TEST,
    "severity": Severity.INFO,
    "dedupe_key": "test",
    "summary": "a test",
    "at": datetime(2026, 11, 20, 14, 0, tzinfo=timezone(timedelta(hours=2))),
}


@pytest.mark.parametrize(
    "changes",
    [
        {"notice_id": "ntc_1"},
        {"dedupe_key": ""},
        {"dedupe_key": "a b"},
        {"summary": ""},
        {"summary": "x" * 201},
        {"summary": "two\nlines"},
        {"summary": "right-to-left \u202e override"},
        {"at": datetime(2026, 11, 20)},  # noqa: DTZ001 - naive on purpose
        {"details": {"Name": "x"}},
        {"details": {"name": "x\x00"}},
        {"details": {"name": "x" * 257}},
        {"details": {f"n{n}": "x" for n in range(17)}},
    ],
)
def test_what_a_receiver_could_misread_is_no_notice(changes):
    with pytest.raises(ValueError, match=r"a notice|a summary|a dedupe|a detail"):
        Notice(**(GOOD | changes))


def test_a_notice_does_not_change_after_it_was_made():
    details = {"boundary": "audit"}
    made = Notice(**(GOOD | {"details": details}))
    details["boundary"] = "token"
    assert made.document()["details"] == {"boundary": "audit"}
    with pytest.raises(TypeError):
        made.details["boundary"] = "token"


def test_the_time_of_a_notice_is_utc():
    assert Notice(**GOOD).document()["at"] == "2026-11-20T12:00:00.000000Z"


def test_severities_are_ordered():
    order = list(Severity)
    assert [[a.reaches(b) for b in order] for a in order] == [[n >= m for m in range(4)] for n in range(4)]


def test_words_of_others_are_made_fit_for_a_notice():
    line = printable("first\nsecond\x1b[31m " + "x" * 300, limit=200)
    assert line.startswith("first second [31m ")
    assert len(line) == 200
    Notice(**(GOOD | {"summary": line}))


def test_the_fake_notice_is_one():
    assert notice(1).notice_id < notice(2).notice_id
