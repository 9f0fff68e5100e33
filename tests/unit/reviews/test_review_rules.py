"""Who may close a review, and what has one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.recording_entries import move_intent
from holdfast.reasons import Mode
from world import START, World

from services.decision.review import REVIEWED, Use, why_not
from services.decision.verdict import Allow
from services.judgement import Judgement, closed, could_not
from services.recording.effects import EffectMalformed, encode


def a_use(mode: Mode = Mode.FAIL_OPEN, **changes) -> Use:
    given = {
        "mode": mode,
        "review_id": "rev_1",
        "activation": "brk_1" if mode is Mode.BREAK_GLASS else None,
        "instance": "api",
        "category": "note.read",
        "environment": "production",
        "review_due_at": START,
        "approvals": ("apr_1",) if mode is Mode.OPERATOR else (),
        "max_uses": 3 if mode is Mode.BREAK_GLASS else None,
    }
    return Use(**given | changes)


@pytest.mark.parametrize(
    ("behind", "by", "may"),
    [
        (None, "alice", True),
        ((), "alice", False),
        (("alice",), "alice", False),
        (("alice", "bob"), "BOB", False),
        (("Alice",), "alice", False),
        (("alice", "bob"), "carol", True),
    ],
)
def test_nobody_closes_what_they_stand_behind_or_where_nobody_knows_who_does(behind, by, may):
    assert (why_not(behind, by) is None) is may


def test_every_mode_but_the_normal_one_has_a_review():
    assert {*REVIEWED} == {*Mode} - {Mode.NORMAL}
    assert [a_use(mode).mode for mode in sorted(REVIEWED)] == sorted(REVIEWED)


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        (Mode.NORMAL, {}),
        (Mode.BREAK_GLASS, {"activation": None}),
        (Mode.BREAK_GLASS, {"max_uses": None}),
        (Mode.FAIL_OPEN, {"max_uses": 3}),
        (Mode.FAIL_OPEN, {"at_home": True}),
        (Mode.FAIL_OPEN, {"approvals": ("apr_1",)}),
        (Mode.OPERATOR, {"approvals": ()}),
        (Mode.OPERATOR, {"at_home": True}),
    ],
)
def test_a_use_that_nobody_could_be_held_to_is_none(mode, changes):
    with pytest.raises(ValueError, match="use"):
        a_use(mode, **changes)


def test_no_judgement_is_in_another_mode_than_its_use():
    """INVARIANT: a way around the evaluation that nobody would review cannot even be said."""
    normal = Judgement(
        verdict=Allow(determining=("r",)), act_hash="sha-256:x", at=START, policy=World().policies.current()
    )
    for mode in REVIEWED:
        with pytest.raises(ValueError, match="use"):
            replace(normal, mode=mode)
        with pytest.raises(ValueError, match="use"):
            replace(normal, use=a_use(mode))
        around = replace(normal, mode=mode, use=a_use(mode), instead=could_not("EVALUATION_UNAVAILABLE"))
        over = closed(around, "AUDIT_UNAVAILABLE", at=START)
        assert (over.mode, over.use) == (Mode.NORMAL, None)


def test_no_stored_intent_is_let_through_by_break_glass():
    with pytest.raises(EffectMalformed):
        encode(move_intent(status="granted", jti="jti_1", use=a_use(Mode.BREAK_GLASS)))
