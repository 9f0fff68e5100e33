"""Regular expressions are translated exactly, or not at all."""

from __future__ import annotations

import json
import re

import cedarpy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from console.policy_import import regex


def found(condition: str, text: str) -> bool:
    """Ask Cedar itself."""
    policy = f"permit (principal, action, resource) when {{ {condition} }};"
    request = {
        "principal": 'A::"a"',
        "action": 'Action::"a"',
        "resource": 'A::"a"',
        "context": json.dumps({"x": text}),
    }
    result = cedarpy.is_authorized(request, policy, [])
    assert result.diagnostics.errors == []
    return result.decision is cedarpy.Decision.Allow


pieces = st.sampled_from(
    ["a", "b", "*", r"\*", r"\.", ".*", "^", "$", "|", "(", ")", "(?:", "\n", '"', "\\\\", "ü", "-"]
)


@given(st.lists(pieces, max_size=6).map("".join), st.text(alphabet='ab*.\n"\\ü-^$', max_size=6))
@example("^a.*", "a\nb")
@example("a|", "zzz")
@example(r"\*", "a")
@example("^(a|b)$", "a\n")
def test_a_translation_finds_what_the_expression_finds(pattern, text):
    condition = regex.condition(pattern, "context.x")
    if condition is None:
        return
    # RE2's `$` is the end of the text; Python's is that, or the line break before it.
    python = re.sub(r"((?:^|[^\\])(?:\\\\)*)\$", r"\1\\Z", pattern)
    assert found(condition, text) is (re.search(python, text) is not None), condition


@pytest.mark.parametrize(
    "pattern",
    ["[a]", "a+", "a?", "a{2}", r"\d", r"a\b", "(?i)a", "a.c", "^a.*b$", "(a)(b)", "(a|(b))", "x(a)", "a\\", r"\Q*"],
)
def test_everything_else_is_left_to_people(pattern):
    assert regex.condition(pattern, "x") is None
