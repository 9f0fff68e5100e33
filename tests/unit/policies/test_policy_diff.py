"""What changes from one bundle to another, looser changes first."""

from __future__ import annotations

import pytest
from policy_bundles import AGENT, CATALOG, RULES, files

from services.decision.bundle import read_bundle
from services.decision.diff import Direction, diff


def changes(new, old=None):
    return diff(read_bundle(old or files()), read_bundle(new))


PERMIT, FORBID = RULES.partition("\n\n")[0], RULES.partition("\n\n")[2]


@pytest.mark.parametrize(
    ("new", "direction"),
    [
        (files(agent=AGENT.replace("kb.search]", 'kb.search, "kb.*"]')), Direction.LOOSER),
        (files(agent=AGENT.replace(", kb.search]", "]")), Direction.STRICTER),
        (files(agent=AGENT.replace("[gpt-4]", "[gpt-4, gpt-5]")), Direction.LOOSER),
        (files(agent=AGENT + "  rateLimit: {maxCallsPerMinute: 5}\n"), Direction.STRICTER),
        (files(agent=AGENT + "    - {effect: allow, resource: '*', action: '*'}\n"), Direction.LOOSER),
        (files(agent=AGENT + "    - {effect: deny, resource: '*', action: '*'}\n"), Direction.STRICTER),
        (files(catalog=CATALOG.replace("max: 100000", "max: 200000")), Direction.LOOSER),
        (files(catalog=CATALOG.replace("min: 1,", "min: 5,")), Direction.STRICTER),
        (files(catalog=CATALOG.replace("impact: medium", "impact: low")), Direction.LOOSER),
        (files(catalog=CATALOG.replace("max_token_seconds: 45", "max_token_seconds: 30")), Direction.STRICTER),
        (files(rules=PERMIT), Direction.LOOSER),
        (files(rules=FORBID), Direction.STRICTER),
        (files(rules=RULES.replace(' @requires_approval("finance")', "")), Direction.STRICTER),
        (files(rules=RULES.replace("> 4000", "> 3000")), Direction.EITHER),
    ],
)
def test_a_change_is_looser_stricter_or_either(new, direction):
    found = changes(new)

    assert [change.direction for change in found] == [direction]


def test_looser_changes_are_listed_first():
    new = files(agent=AGENT.replace(", kb.search]", "]"), catalog=CATALOG.replace("impact: medium", "impact: low"))

    assert [change.direction for change in changes(new)] == [Direction.LOOSER, Direction.STRICTER]


def test_comments_and_tests_change_no_meaning():
    assert changes({**files(catalog="# a comment\n" + CATALOG), "tests/refunds.yaml": b"suite: s\ncases: []\n"}) == ()
