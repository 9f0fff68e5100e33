"""What is not exactly the expected refusal has failed; a token above all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from holdfast.intent import Intent, Resource

from console.gameday.drills import DRILLS
from console.gameday.judging import Expected, Verdict, judge, worst
from console.gameday.samples import Sample
from services.decision.catalog import Effect, Impact
from services.decision.settings import FailMode, FailModeName, FailModes

EXPECTED = Expected(
    http_status=503,
    reason_codes=frozenset({"EVALUATION_UNAVAILABLE"}),
    statuses=frozenset({"queued"}),
    may_open=True,
)
READ = Sample(
    agent="alpha",
    intent=Intent(action="note.read", resource=Resource(type="note", id="n")),
    executor="notes-api",
    impact=Impact.LOW,
    effect=Effect.READ,
    held=False,
    limited=False,
    origin="here",
)
REFUSED = {"reason_code": "EVALUATION_UNAVAILABLE", "status": "queued", "token": None, "receipt": {}, "mode": "normal"}
PASSED = {"reason_code": "ALLOWED", "status": "granted", "token": "eyJ", "receipt": {}, "mode": "fail_open"}
CLOSED = FailModes()
OPEN = FailModes(low=FailMode(mode=FailModeName.OPEN, max_per_minute=5))


def test_the_expected_refusal_passes():
    assert judge(READ, 503, REFUSED, EXPECTED, CLOSED).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("status", "members"),
    [
        (403, {}),
        (503, {"reason_code": "AUDIT_UNAVAILABLE"}),
        (503, {"status": "denied"}),
        (503, {"receipt": None}),
        (503, {"token": "eyJ"}),
        (200, {}),
        (503, {"reason_code": None}),
    ],
)
def test_anything_else_fails(status, members):
    assert judge(READ, status, {**REFUSED, **members}, EXPECTED, OPEN).verdict is Verdict.FAIL


def test_nothing_that_was_said_fails():
    assert judge(READ, 503, {}, EXPECTED, CLOSED).verdict is Verdict.FAIL


def test_what_nobody_could_record_must_not_claim_a_receipt():
    unrecorded = replace(EXPECTED, recorded=False)
    assert judge(READ, 503, {**REFUSED, "receipt": None}, unrecorded, CLOSED).verdict is Verdict.PASS
    assert judge(READ, 503, REFUSED, unrecorded, CLOSED).verdict is Verdict.FAIL


def test_a_read_that_the_bundle_opened_is_called_what_it_is():
    judged = judge(READ, 200, PASSED, EXPECTED, OPEN)

    assert judged.verdict is Verdict.OPEN
    assert "passes unevaluated" in judged.why


@pytest.mark.parametrize(
    ("sample", "body", "expected", "modes"),
    [
        (READ, PASSED, EXPECTED, CLOSED),
        (READ, {**PASSED, "mode": "normal"}, EXPECTED, OPEN),
        (READ, {**PASSED, "receipt": None}, EXPECTED, OPEN),
        (READ, PASSED, replace(EXPECTED, may_open=False), OPEN),
        (replace(READ, impact=Impact.MEDIUM), PASSED, EXPECTED, OPEN),
        (replace(READ, effect=Effect.EXTERNAL), PASSED, EXPECTED, OPEN),
    ],
)
def test_no_other_token_is_excused_by_a_fail_mode(sample, body, expected, modes):
    assert judge(sample, 200, body, expected, modes).verdict is Verdict.FAIL


def test_one_failure_fails_and_nothing_checked_fails_too():
    assert worst([Verdict.PASS, Verdict.OPEN, Verdict.FAIL]) is Verdict.FAIL
    assert worst([Verdict.PASS, Verdict.OPEN]) is Verdict.OPEN
    assert worst([Verdict.PASS]) is Verdict.PASS
    assert worst([]) is Verdict.FAIL


def test_every_boundary_has_a_drill_and_no_drill_expects_a_token():
    assert {drill.boundary for drill in DRILLS} >= {"intent", "evaluation", "token", "audit", "queue"}
    for drill in DRILLS:
        for expected in (drill.allowed, drill.held):
            assert expected is None or expected.http_status in {403, 503}


@pytest.mark.parametrize("drill", [drill for drill in DRILLS if drill.boundary in {"token", "audit"}])
def test_no_fail_mode_opens_the_signature_or_the_record(drill):
    assert not drill.allowed.may_open
