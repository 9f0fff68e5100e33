"""Patterns: one meaning in Python and in Cedar."""

from __future__ import annotations

import json
import re

import cedarpy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.decision import cedar
from services.decision.pattern import MostSpecific, is_glob, matches, overlap, specificity, ties

few = st.text(alphabet="ab/.*", max_size=8)
names = st.text(alphabet="ab/.", max_size=10)


def as_regex(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(".*" if character == "*" else re.escape(character) for character in pattern), re.DOTALL)


@given(few, names)
def test_a_pattern_matches_what_its_regular_expression_does(pattern, name):
    assert matches(pattern, name) == (as_regex(pattern).fullmatch(name) is not None)


def test_the_text_around_a_star_does_not_overlap_itself():
    assert not matches("a*a", "a")
    assert not matches("ab*b", "ab")
    assert matches("a*a", "aa")


def test_many_stars_take_no_more_than_a_moment():
    assert not matches("*a" * 200 + "b", "a" * 5000)


@given(few, few, names)
def test_two_patterns_that_match_a_common_name_overlap(first, second, name):
    if matches(first, name) and matches(second, name):
        assert overlap(first, second)
        assert overlap(second, first)


@given(st.text(alphabet="ab*", min_size=1, max_size=4), st.text(alphabet="ab*", min_size=1, max_size=4))
def test_two_patterns_that_overlap_match_a_common_name(first, second):
    # Names of up to eight letters are enough for patterns of up to four.
    every = [""]
    for _ in range(8):
        every += [name + letter for name in every if len(name) == len(every[-1]) for letter in "ab"]
    common = any(matches(first, name) and matches(second, name) for name in every)
    assert overlap(first, second) == common


@given(st.lists(few.filter(bool), max_size=6, unique=True), names)
def test_the_most_specific_pattern_is_found(patterns, name):
    found = MostSpecific({pattern: pattern for pattern in patterns}).find(name)
    matching = [pattern for pattern in patterns if matches(pattern, name)]
    if not matching:
        assert found is None
        return
    assert found is not None
    assert matches(found[0], name)
    assert specificity(found[0]) == max(map(specificity, matching))


@given(st.lists(few.filter(bool), max_size=6, unique=True), names)
def test_without_ties_the_winner_is_the_only_one_of_its_specificity(patterns, name):
    assume(not list(ties(patterns)))
    globs = [pattern for pattern in patterns if is_glob(pattern) and matches(pattern, name)]
    if globs:
        best = max(map(specificity, globs))
        assert sum(specificity(pattern) == best for pattern in globs) == 1


kinds = st.text(alphabet="ab.", min_size=1, max_size=4)
identities = st.text(alphabet='ab/.*"\\é🙂', min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab/.*"\\é', min_size=1, max_size=8), kinds, identities)
def test_a_resource_pattern_means_the_same_in_cedar(pattern, kind, identity):
    condition = cedar.resource_matches(pattern)
    text = "permit (principal, action, resource)" + (f" when {{ {condition} }};" if condition else ";")
    resource = {"uid": {"type": "Resource", "id": "r"}, "attrs": {"type": kind, "id": identity}, "parents": []}
    answer = cedarpy.is_authorized(
        {"principal": 'Agent::"a"', "action": 'Action::"x"', "resource": 'Resource::"r"', "context": "{}"},
        text,
        json.dumps([resource]),
    )
    assert not answer.diagnostics.errors
    assert answer.allowed == matches(pattern, f"{kind}/{identity}")


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_cedar_literal(text):
    assume(not any(0xD800 <= ord(character) <= 0xDFFF for character in text))
    condition = f"context.text == {cedar.quoted(text)}"
    answer = cedarpy.is_authorized(
        {
            "principal": 'Agent::"a"',
            "action": 'Action::"x"',
            "resource": 'Resource::"r"',
            "context": json.dumps({"text": text}),
        },
        f"permit (principal, action, resource) when {{ {condition} }};",
        "[]",
    )
    assert answer.allowed
