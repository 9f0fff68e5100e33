"""Where a mistake stands, told once, and what may have been meant."""

from __future__ import annotations

import pytest
from bundles import AGENT, CATALOG, RULES, SETTINGS, errors_of, files

from services.decision.bundle import read_bundle
from services.decision.finding import BundleInvalid
from services.decision.hint import MAX_NAMES, meant
from services.decision.rules import read_rules

CASE = """suite: s
cases:
  - name: n
    agent: bot
    intent: {action: kb.search, resource: {type: knowledge-base, id: a}}
    expct: {decision: allow}
"""


@pytest.mark.parametrize(
    ("changed", "wrong", "right"),
    [
        ({"bot": AGENT.replace("tools:", "tool:")}, "tool", "tools"),
        ({"bot": AGENT + "  data_access: []\n"}, "data_access", "dataAccess"),
        ({"bot": AGENT + "  rateLimit: {maxCallPerMinute: 1}\n"}, "maxCallPerMinute", "maxCallsPerMinute"),
        ({"catalog": CATALOG.replace("impact: high", "impcat: high")}, "impcat", "impact"),
        ({"catalog": CATALOG.replace("max_length: 20", "maxlength: 20")}, "maxlength", "max_length"),
        (
            {"catalog": CATALOG.replace("iban: {type: string, required", "iban: {type: string, requird")},
            "requird",
            None,
        ),
        ({"holdfast": SETTINGS + "risk: {weights: {impact: {lo: 1}}}\n"}, "lo", "low"),
        ({"bot": AGENT.replace("kb.search", "kb.serch")}, "kb.serch", "kb.search"),
        ({"catalog": CATALOG.replace("category: finance.refund", "category: finance.refnd")}, "finance.refnd", None),
        ({"catalog": CATALOG.replace("executor: kb-api", "executor: kb-pai", 1)}, "kb-pai", "kb-api"),
        ({"refunds": RULES.replace('approval("finance")', 'approval("finace")')}, "finace", "finance"),
        ({"refunds": RULES.replace("payments.refund.create", "payment.refund.create")}, "payment.refund.create", None),
    ],
)
def test_a_name_that_nothing_defines_gets_the_nearest_that_something_does(changed, wrong, right):
    found = [error for error in errors_of(files(**changed)) if wrong in error and "did you mean" in error]
    expected = (
        right
        or {
            "requird": "required",
            "finance.refnd": "finance.refund",
            "payment.refund.create": "payments.refund.create",
        }[wrong]
    )
    assert found
    assert found[0].endswith(f": did you mean `{expected}`?")


def test_a_field_of_a_test_gets_a_hint():
    errors = errors_of({**files(), "tests/t.yaml": CASE.encode()})
    assert "tests/t.yaml:6: unknown field `expct`: did you mean `expect`?" in errors


def test_there_is_no_hint_where_nothing_is_near_or_too_much_to_compare():
    assert meant("zebra", ["kb.search"]) == ""
    assert meant("kb.serch", [f"kb.search{number}" for number in range(MAX_NAMES + 1)]) == ""


def test_a_fault_of_a_rule_is_told_once_for_all_its_actions_at_its_own_place():
    rule = '@id("x")\npermit (principal, action, resource)\nwhen { true && context.foo == 1 };\n'
    with pytest.raises(BundleInvalid) as refused:
        read_bundle(files(refunds="// words\n" + rule))
    (found,) = refused.value.findings
    assert (found.path, found.line, found.column) == ("rules/refunds.cedar", 4, 24)
    assert found.message.endswith("not found (and for 3 more actions)")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_rule_behind_a_comment_is_read_whatever_ends_the_line(end):
    """Cedar ends a comment at a carriage return, too: a reader that does not would drop the forbid in silence."""
    lines = [
        "// words",
        '@id("no")',
        "forbid (principal, action, resource);",
        '@id("yes") permit (principal, action, resource);',
    ]
    rules = read_rules("rules/r.cedar", end.join(lines).encode())
    assert [(rule.id, rule.line) for rule in rules] == [("no", 2), ("yes", 4)]


def test_what_cedar_reads_and_the_splitter_does_not_is_refused(monkeypatch):
    monkeypatch.setattr("services.decision.rules._statements", lambda _: iter([(1, RULES.split("\n\n")[1])]))
    with pytest.raises(BundleInvalid, match="Cedar reads other rules"):
        read_rules("rules/r.cedar", RULES.encode())
