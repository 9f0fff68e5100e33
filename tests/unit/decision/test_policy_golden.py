"""Golden tests: what passes, what fails, and what they cover."""

from __future__ import annotations

from bundles import AGENT, files

from services.decision.bundle import read_bundle
from services.decision.coverage import Coverable, Coverage, Source, Use
from services.decision.golden import run_suites
from services.decision.lint import lint
from services.decision.policy import Policy

CASE = """suite: refunds
cases:
  - name: a case
    agent: bot
    intent: {action: payments.refund.create, resource: {type: payment, id: p}, parameters: {amount_cents: 50001, currency: EUR}}
    now: 2026-11-20T10:00:00Z
    approvals: []
    expect: {decision: hold, reason_code: APPROVAL_REQUIRED, determining: [big-refunds], risk: {at_least: 75, at_most: 75}}
"""  # noqa: E501 - as it stands in a bundle


def results(text: str):
    bundle = read_bundle({**files(), "tests/t.yaml": text.encode()})
    return run_suites(Policy.compile(bundle), bundle)


def uses(bundle):
    return {rule.id: rule.use for rule in run_suites(Policy.compile(bundle), bundle).coverage.rules}


def test_an_expected_answer_passes():
    assert results(CASE).passed


def test_each_unexpected_part_of_an_answer_is_named():
    for old, new, difference in (
        ("decision: hold", "decision: allow", "decision: expected allow, got hold (refunds over 500.00 need finance)"),
        ("APPROVAL_REQUIRED", "POLICY_DENIED", "reason_code: expected POLICY_DENIED, got APPROVAL_REQUIRED"),
        ("[big-refunds]", "[big-refunds, x]", "determining: expected big-refunds, x, got big-refunds"),
        ("[big-refunds]", "[]", "determining: expected none, got big-refunds"),
        ("at_least: 75, at_most: 75", "at_most: 74", "risk: expected 0 to 74, got 75"),
        ("approvals: []", "approvals: [alice]", "decision: expected hold, got allow ()"),
        ("T10:", "T23:", "risk: expected 75 to 75, got 85"),
    ):
        ran = results(CASE.replace(old, new))
        assert not ran.passed, new
        assert difference in ran.results[0].differences
        assert (ran.results[0].path, ran.results[0].line) == ("tests/t.yaml", 3)


def test_no_tests_prove_nothing():
    assert not results("suite: empty\ncases: []\n").passed


def test_lint_names_the_rules_that_no_test_turned_on():
    assert [str(found) for found in lint({**files(), "tests/t.yaml": CASE.encode()})] == [
        "rules/refunds.cedar:6: no test covers the rule `huge-refunds`"
    ]


def test_a_lifted_hold_is_covered():
    lifted = CASE.replace("approvals: []", "approvals: [alice]").replace("[big-refunds]", "[agent:bot:tools]")
    bundle = read_bundle({**files(), "tests/t.yaml": lifted.encode()})
    assert uses(bundle)["big-refunds"] is Use.EXERCISED


def test_the_permit_beneath_a_hold_is_covered_and_one_beside_a_denial_is_not():
    """Without the permit the hold would be a denial by default; the denial would stay what it is."""
    held = read_bundle({**files(), "tests/t.yaml": CASE.encode()})
    denied = read_bundle({**files(), "tests/t.yaml": CASE.replace("50001", "1000001").encode()})
    assert uses(held)["agent:bot:tools"] is Use.EXERCISED
    assert uses(denied) == {
        "big-refunds": Use.UNCOVERED,
        "huge-refunds": Use.DETERMINED,
        "agent:bot:tools": Use.UNCOVERED,
    }


def test_every_part_of_a_manifest_is_covered_on_its_own_and_has_its_place():
    manifest = AGENT.replace(
        "  models: [gpt-4]\n",
        """  environments: [production]
  policies:
    - {effect: allow, resource: "payment/*", action: write}
    - {effect: allow, resource: "ticket/*", action: "*"}
  dataAccess:
    - {resource: "knowledge-base/*", action: read}
  schedule: {timezone: UTC, allow: ["Mon-Fri 08:00-18:00"]}
""",
    )
    late = CASE.replace("T10:", "T23:").replace("suite: refunds\ncases:\n", "")
    bundle = read_bundle({**files(bot=manifest), "tests/t.yaml": (CASE + late).encode()})
    found = run_suites(Policy.compile(bundle), bundle).coverage
    assert [(rule.id, rule.path, rule.line, rule.use) for rule in found.rules[2:]] == [
        ("agent:bot:1", "agents/bot.yaml", 8, Use.EXERCISED),
        ("agent:bot:2", "agents/bot.yaml", 9, Use.UNCOVERED),
        ("agent:bot:3", "agents/bot.yaml", 11, Use.UNCOVERED),
        ("agent:bot:environments", "agents/bot.yaml", 6, Use.UNCOVERED),
        ("agent:bot:schedule", "agents/bot.yaml", 12, Use.DETERMINED),
    ]


def test_a_share_is_rounded_down_and_nothing_to_cover_is_not_full_coverage():
    def coverage(*used: Use) -> Coverage:
        return Coverage(rules=tuple(Coverable(id="x", source=Source.RULE, path="p", line=1, use=use) for use in used))

    assert coverage(*[Use.DETERMINED] * 199, Use.UNCOVERED).percent == 99
    assert coverage(Use.DETERMINED, Use.EXERCISED).percent == 100
    assert coverage().percent == 0


def test_a_case_that_is_not_classified_has_no_risk():
    text = CASE.replace("action: payments.refund.create", "action: unknown")
    ran = results(text)
    assert ran.results[0].answer.risk is None
    assert ran.results[0].answer.reason_code == "INTENT_UNCLASSIFIED"
