"""Whatever a classifier in front of the catalogue says, it can only raise: it turns no rule soft."""

from __future__ import annotations

from datetime import UTC, datetime

from holdfast.intent import Intent, Resource
from hypothesis import given
from hypothesis import strategies as st

from services.decision.bundle import read_bundle
from services.decision.policy import Classified, Dispute, Policy, Request, Signals
from services.decision.verdict import Allow, Deny, Hold, Unavailable

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
IMPACTS = ("low", "medium", "high", "critical")

_CATALOG = """
version: 1
categories:
  c.low: {description: c, impact: low, effect: read, reversible: true}
  c.medium: {description: c, impact: medium, effect: external, reversible: true}
  c.high: {description: c, impact: high, effect: external, reversible: false}
  c.critical: {description: c, impact: critical, effect: external, reversible: false}
executors:
  x: {description: x}
actions:
  act.low: {category: c.low, executor: x, resource: "*"}
  act.medium: {category: c.medium, executor: x, resource: "*"}
  act.high: {category: c.high, executor: x, resource: "*"}
  act.critical: {category: c.critical, executor: x, resource: "*"}
"""
_AGENT = """
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: bot}
spec:
  tools: ["act.*"]
"""
_BARE = _AGENT + "  policies: []\n"
_SETTINGS = "version: 1\napprovals: {roles: {one: [alice], two: [bob]}}\n"

#: Rules that a raise could soften, if it took the place of the catalogue: permits of danger, forbids of calm.
CONDITIONS = st.sampled_from(
    [
        *(f'action in Action::"impact:{impact}"' for impact in IMPACTS),
        *(f'action in Action::"category:c.{impact}"' for impact in IMPACTS),
    ]
)
WHEN = st.sampled_from(
    [
        "",
        *(f"when {{ context.risk.score {op} {score} }}" for op in ("<", ">=") for score in (20, 40, 60, 80)),
        *(f'when {{ context.risk.tier == "{tier}" }}' for tier in IMPACTS),
        *(f'unless {{ context.risk.tier == "{tier}" }}' for tier in IMPACTS),
    ]
)
EFFECTS = st.sampled_from(
    ["permit", "permit", "forbid", '@requires_approval("one") forbid', '@requires_approval("two") forbid']
)
RULES = st.lists(st.tuples(EFFECTS, CONDITIONS, WHEN), max_size=5)
STRICTNESS = {Allow: 0, Hold: 1, Unavailable: 2, Deny: 3}


def policy(rules, *, bare):
    text = "\n".join(
        f'@id("r{n}") {effect} (principal, {scope}, resource) {when};' for n, (effect, scope, when) in enumerate(rules)
    )
    files = {"catalog.yaml": _CATALOG, "agents/bot.yaml": _BARE if bare else _AGENT, "holdfast.yaml": _SETTINGS}
    files["rules/r.cedar"] = text
    return Policy.compile(read_bundle({name: content.encode() for name, content in files.items()}))


def question(of, classified, intent, approvals, signals, *, undisputed_risk=None):
    risk = of.assess(intent, classified, agent="bot", signals=signals, now=NOW)
    return Request(
        agent="bot",
        intent=intent,
        classified=classified,
        risk=risk,
        now=NOW,
        approvals=approvals,
        undisputed_risk=undisputed_risk,
    )


@given(
    rules=RULES,
    bare=st.booleans(),
    own=st.sampled_from(IMPACTS),
    said=st.sampled_from(IMPACTS),
    approvals=st.sampled_from([(), ("alice",), ("bob",), ("alice", "bob")]),
    signals=st.builds(Signals, recent_denials=st.integers(0, 12), novel=st.booleans()),
)
def test_a_dispute_lowers_no_risk_and_softens_no_verdict(rules, bare, own, said, approvals, signals):
    of = policy(rules, bare=bare)
    intent = Intent(action=f"act.{own}", resource=Resource(type="t", id="1"))
    classified = of.classify(intent)
    assert isinstance(classified, Classified)
    alone = question(of, classified, intent, approvals, signals)
    disputed = of.disputed(classified, Dispute(category=f"c.{said}", confidence_percent=90))
    asked = question(of, disputed, intent, approvals, signals, undisputed_risk=alone.risk)

    before, after = of.evaluate(alone), of.evaluate(asked)

    assert asked.risk.score >= alone.risk.score
    assert STRICTNESS[type(after)] >= STRICTNESS[type(before)]
    assert disputed.category == classified.category
    assert of.lane(disputed) <= of.lane(classified)
    assert of.undisputed(disputed) == classified
    assert of.evaluate(alone) == before, "a dispute leaves nothing behind for the next intent"
    if isinstance(before, Hold) and isinstance(after, Hold):
        assert set(before.needed) <= set(after.needed)


@given(own=st.sampled_from(IMPACTS), said=st.sampled_from(IMPACTS))
def test_a_graver_category_meets_the_rules_of_the_graver_impact(own, said):
    """Not vacuous: what the classifier says matters where it is graver."""
    of = policy([("forbid", f'action in Action::"impact:{said}"', "")], bare=False)
    intent = Intent(action=f"act.{own}", resource=Resource(type="t", id="1"))
    classified = of.classify(intent)
    assert isinstance(classified, Classified)
    alone = question(of, classified, intent, (), Signals())
    disputed = of.disputed(classified, Dispute(category=f"c.{said}", confidence_percent=90))
    assert isinstance(of.evaluate(alone), Deny) == (said == own)

    verdict = of.evaluate(question(of, disputed, intent, (), Signals(), undisputed_risk=alone.risk))

    assert isinstance(verdict, Deny) == (IMPACTS.index(said) >= IMPACTS.index(own))


@given(rules=RULES, own=st.sampled_from(IMPACTS))
def test_a_dispute_without_the_catalogues_own_risk_allows_nothing(rules, own):
    of = policy(rules, bare=False)
    intent = Intent(action=f"act.{own}", resource=Resource(type="t", id="1"))
    classified = of.classify(intent)
    assert isinstance(classified, Classified)
    disputed = of.disputed(classified, Dispute(category="c.critical", confidence_percent=90))

    assert isinstance(of.evaluate(question(of, disputed, intent, ("alice", "bob"), Signals())), Unavailable)
