"""Codes are never renamed and never used again: the vector and the enumeration say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from holdfast.reasons import NOT_DECIDED, Cause, Decision, Mode, ReasonCode, Status, http_status

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "reason_codes.json").read_text(encoding="utf-8"))


def test_the_codes_are_those_of_the_vector():
    assert {code.value for code in ReasonCode} == {*VECTOR["outcomes"], *VECTOR["others"]}


@pytest.mark.parametrize(("code", "status"), VECTOR["outcomes"].items())
def test_an_outcome_has_its_http_status(code, status):
    assert http_status(ReasonCode(code)) == status


def test_only_an_allow_is_200():
    assert [code for code, status in VECTOR["outcomes"].items() if status == 200] == ["ALLOWED"]


def test_what_could_not_be_decided_is_always_503():
    assert {http_status(code) for code in NOT_DECIDED} == {503}


@pytest.mark.parametrize(
    ("name", "values"), [("statuses", Status), ("decisions", Decision), ("modes", Mode), ("causes", Cause)]
)
def test_the_other_closed_sets_are_those_of_the_vector(name, values):
    assert VECTOR[name] == [value.value for value in values]
