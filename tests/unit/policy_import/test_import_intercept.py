"""Intercept policies: every field, what is refused, what is allowed by omission, and the same answers as before."""

from __future__ import annotations

import itertools

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from imported_bundles import STRICTNESS, Bundle, imported, notes, omissions, refusals
from intercept_reference import decide

from console.policy_import.source import NoteKind, UnknownAllowance

AGENT = "imported-agent"

PAYMENTS = """\
version: "1"
description: payments tools
default: deny
hide: [delete_customer]
tools:
  create_charge:
    rules:
      - name: cap
        action: evaluate
        conditions:
          - {path: args.amount, op: lte, value: 50000}
          - {path: args.currency, op: in, value: [eur, usd]}
        on_deny: "over 500.00"
  create_payout:
    rules:
      - name: daily spend
        conditions:
          - {path: state.create_payout.daily_spend, op: lte, value: 1000000}
        state: {counter: daily_spend, window: day, increment_from: args.amount}
  create_refund:
    rules:
      - {name: few, rate_limit: 10/day}
  transfer:
    rules:
      - {name: big, action: require_approval, approval_timeout: 30m,
         conditions: [{path: args.amount, op: gt, value: 100000}]}
      - {name: bigger, action: require_approval, approval_timeout: 2h,
         conditions: [{path: args.amount, op: gt, value: 900000}]}
  close_account:
    rules:
      - {name: never, action: deny, on_deny: "people close accounts"}
  delete_customer: {rules: []}
  read_file: {rules: []}
  "*":
    rules:
      - {name: global, rate_limit: 60/minute}
      - {name: no dry run, conditions: [{path: args.dry_run, op: neq, value: true}]}
"""

OPERATORS = """\
version: "1"
default: deny
tools:
  eq: {rules: [{name: r, conditions: [{path: args.x, op: eq, value: main}]}]}
  neq: {rules: [{name: r, conditions: [{path: args.x, op: neq, value: draft}]}]}
  in: {rules: [{name: r, conditions: [{path: args.x, op: in, value: [1, 2.5, 3]}]}]}
  not_in: {rules: [{name: r, conditions: [{path: args.x, op: not_in, value: [admin, root]}]}]}
  lt: {rules: [{name: r, conditions: [{path: args.x, op: lt, value: 2.5}]}]}
  lte: {rules: [{name: r, conditions: [{path: args.x, op: lte, value: -3.5}]}]}
  gt: {rules: [{name: r, conditions: [{path: args.x, op: gt, value: 2.5}]}]}
  gte: {rules: [{name: r, conditions: [{path: args.x, op: gte, value: 2.5}]}]}
  regex: {rules: [{name: r, conditions: [{path: args.x, op: regex, value: "^feat/|^fix\\\\."}]}]}
  contains: {rules: [{name: r, conditions: [{path: args.x, op: contains, value: "a*b"}]}]}
  contains_number: {rules: [{name: r, conditions: [{path: args.x, op: contains, value: 3}]}]}
  exists: {rules: [{name: r, conditions: [{path: args.x.y, op: exists, value: true}]}]}
  absent: {rules: [{name: r, conditions: [{path: args.x.y, op: exists, value: false}]}]}
  nested: {rules: [{name: r, conditions: [{path: args.x.y, op: eq, value: 5}]}]}
"""

VALUES = (
    *(None, True, False, 0, 1, 2, 3, 4, -3, -4, 2.5, 2.0),
    *("main", "draft", "admin", "", "feat/1", "xfeat/", "fix.", "fixx", "a*b", "za*bz", "ab", "axb", "1"),
    *([], [3], [1, 3], ["a*b"], {}, {"y": 5}, {"y": 6}, {"y": "text"}, {"y": None}, {"z": 1}),
)


def check_call(source: str, bundle: Bundle, tool: str, args: dict, allowed: set[str]) -> None:
    """Compare one call: never looser; stricter only by type, or for tools whose notes say so."""
    before = decide(source, tool, args)
    after = bundle.decide(AGENT, tool, args)
    for counters in (1, 10**12):
        looser_than = decide(source, tool, args, counters=counters, per_minute=False)
        assert STRICTNESS[after] >= STRICTNESS[looser_than], (tool, args)
    if bundle.fits(tool, args) and tool not in allowed:
        assert after == before, (tool, args)


def test_every_operator_decides_as_before_on_values_of_every_type():
    """The types are the only difference, and each is noted."""
    result = imported("intercept", OPERATORS)
    bundle = Bundle(result)
    tools = yaml.safe_load(OPERATORS)["tools"]
    for tool, value in itertools.product(tools, VALUES):
        check_call(OPERATORS, bundle, tool, {"x": value}, set())
    for tool in tools:
        check_call(OPERATORS, bundle, tool, {}, set())
        assert any(f"`{tool}` takes `x" in note for note in notes(result, NoteKind.STRICTER))


def test_no_whole_number_equals_a_fraction():
    source = """\
version: "1"
default: deny
tools:
  eq: {rules: [{name: r, conditions: [{path: args.x, op: eq, value: 2.5}]}]}
  neq: {rules: [{name: r, conditions: [{path: args.x, op: neq, value: 2.5}]}]}
  in: {rules: [{name: r, conditions: [{path: args.x, op: in, value: [2.5]}]}]}
  none: {rules: [{name: r, conditions: [{path: args.x, op: in, value: []}]}]}
  any: {rules: [{name: r, conditions: [{path: args.x, op: not_in, value: []}]}]}
"""
    bundle = Bundle(imported("intercept", source))
    for tool, value in itertools.product(yaml.safe_load(source)["tools"], VALUES):
        check_call(source, bundle, tool, {"x": value}, set())
    assert bundle.decide(AGENT, "neq", {"x": 2}) == "allow"
    assert bundle.decide(AGENT, "any", {"x": "a"}) == "allow"


def test_every_operator_still_allows_something():
    """A matrix of denials alone would prove nothing."""
    bundle = Bundle(imported("intercept", OPERATORS))
    allowed = {
        tool
        for tool, value in itertools.product(yaml.safe_load(OPERATORS)["tools"], VALUES)
        if bundle.decide(AGENT, tool, {"x": value}) == "allow"
    }
    assert allowed == {*yaml.safe_load(OPERATORS)["tools"]} - {"exists"} | (allowed & {"exists"})
    assert bundle.decide(AGENT, "exists", {"x": {"y": "text"}}) == "allow"


def test_the_whole_policy_decides_as_before():
    result = imported("intercept", PAYMENTS)
    bundle = Bundle(result)
    stricter = {"create_payout", "create_refund"}
    tools = (*yaml.safe_load(PAYMENTS)["tools"], "unlisted")
    amounts = (None, 0, 50000, 50001, 100000, 100001, 900001, "1", 1.5, True)
    for tool, amount, currency, dry in itertools.product(tools, amounts, ("eur", "gbp", 1), (False, True, "no")):
        if tool != "*":
            args = {"amount": amount, "currency": currency, "dry_run": dry}
            check_call(PAYMENTS, bundle, tool, args, stricter)
            check_call(PAYMENTS, bundle, tool, {"amount": amount}, stricter)
    said = {"amount": 50000, "currency": "eur", "dry_run": False}
    assert bundle.decide(AGENT, "create_charge", said) == "allow"
    assert bundle.decide(AGENT, "transfer", {"amount": 100001, "dry_run": False}) == "hold"


def test_the_limits_of_the_source_are_found_again():
    result = imported("intercept", PAYMENTS)
    settings_file = result.files["holdfast.yaml"].decode()
    assert "rateLimit: {maxCallsPerMinute: 60}" in result.files[f"agents/{AGENT}.yaml"].decode()
    assert "ttl_seconds: 1800" in settings_file
    assert "approvers: []" in settings_file


def test_what_cannot_be_said_forbids_with_the_original_text():
    result = imported("intercept", PAYMENTS)
    rules = result.files["rules/tools.cedar"].decode()
    assert "rate_limit: 10/day" in rules
    assert r"\"state.create_payout.daily_spend\"" in rules
    bundle = Bundle(result)
    assert bundle.decide(AGENT, "create_refund", {"dry_run": False}) == "deny"
    assert bundle.decide(AGENT, "create_payout", {"dry_run": False}) == "deny"


def test_the_notes_of_a_whole_policy_are_exact():
    result = imported("intercept", PAYMENTS)
    said = '{"path": "state.create_payout.daily_spend", "op": "lte", "value": 1000000}'
    assert [note for note in notes(result) if "dry_run" not in note] == [
        "source.yaml:11: stricter: `create_charge` takes `amount` as a whole number only, and needs it",
        "source.yaml:12: stricter: `create_charge` takes `currency` as text only, and needs it",
        "source.yaml:16: left out: the counter `daily_spend` is not kept: rules here have no memory",
        (
            "source.yaml:16: stricter: the rule `daily spend` of `create_payout` cannot be said here"
            f" (state: {said}): every call is denied"
        ),
        (
            "source.yaml:22: stricter: the rule `few` of `create_refund` cannot be said here"
            " (rate_limit: 10/day): every call is denied"
        ),
        "source.yaml:26: stricter: `transfer` takes `amount` as a whole number only, and needs it",
        "source.yaml:27: stricter: approval_timeout 2h: everything waits 1800 s at most",
    ]


@pytest.mark.parametrize(
    ("default", "note"),
    [
        (
            "",
            "source.yaml:1: allowed by omission: `default` is missing, which is `allow`: every tool that is not listed",
        ),
        ("default: allow\n", "source.yaml:2: allowed by omission: `default: allow`: every tool that is not listed"),
    ],
)
def test_an_allowing_default_is_a_denial_unless_it_is_kept(default, note):
    """Intercept allows what nobody listed; here somebody has to ask for that."""
    source = f'version: "1"\n{default}hide: [gone]\ntools:\n  a: {{rules: []}}\n  read: {{rules: []}}\n'
    plain, kept = imported("intercept", source), imported("intercept", source, keep=["default"])
    assert omissions(plain) == [f"{note} [default] -> denied"]
    assert omissions(kept) == [f"{note} [default] -> kept"]
    assert Bundle(plain).decide(AGENT, "unlisted") == "deny"
    assert Bundle(kept).decide(AGENT, "unlisted") == "allow"
    for tool in ("gone", "read"):
        assert Bundle(kept).decide(AGENT, tool) == "deny"
    assert Bundle(plain).decide(AGENT, "a") == Bundle(kept).decide(AGENT, "a") == "allow"


def test_a_kept_default_still_obeys_the_rules_for_every_tool():
    source = """\
version: "1"
tools:
  a: {rules: []}
  "*": {rules: [{name: small, conditions: [{path: args.n, op: lt, value: 5}]}]}
"""
    bundle = Bundle(imported("intercept", source, keep=["default"]))
    for tool, value in itertools.product(("a", "unlisted"), (4, 5, "4", None)):
        check_call(source, bundle, tool, {"n": value}, set())
    assert bundle.decide(AGENT, "unlisted", {"n": 4}) == "allow"


def test_a_tool_listed_without_rules_is_an_omission():
    source = 'version: "1"\ndefault: deny\ntools:\n  a: {}\n  b: {rules: []}\n'
    result = imported("intercept", source)
    said = "source.yaml:4: allowed by omission: the tool `a` is listed without `rules` [tools.a] -> denied"
    assert omissions(result) == [said]
    assert Bundle(result).decide(AGENT, "a") == "deny"
    assert Bundle(result).decide(AGENT, "b") == "allow"
    assert Bundle(imported("intercept", source, keep=["tools.a"])).decide(AGENT, "a") == "allow"


def test_hiding_everything_leaves_nothing():
    source = 'version: "1"\nhide: ["*"]\ntools:\n  a: {rules: []}\n'
    bundle = Bundle(imported("intercept", source, keep=["default"]))
    assert {bundle.decide(AGENT, tool) for tool in ("a", "b")} == {"deny"}


def test_an_unknown_allowance_names_the_known_ones():
    with pytest.raises(UnknownAllowance, match="`fallback`; it does so as: `default`"):
        imported("intercept", 'version: "1"\ntools:\n  a: {rules: []}\n', keep=["fallback"])


def test_an_untranslatable_expression_denies_or_holds():
    """A trigger that is partly lost is wider, never narrower."""
    source = """\
version: "1"
default: deny
tools:
  a: {rules: [{name: odd, conditions: [{path: args.x, op: regex, value: "^[a-z]+$"}]}]}
  b: {rules: [{name: odd, action: require_approval, conditions: [
      {path: args.x, op: regex, value: "(?i)prod"}, {path: args.n, op: gt, value: 5}]}]}
  c: {rules: [{name: mixed, conditions: [{path: args.x, op: in, value: [1, a]}]}]}
  d: {rules: [{name: one, conditions: [{path: args.x, op: eq, value: 1}]},
              {name: two, conditions: [{path: args.x, op: eq, value: a}]}]}
"""
    result = imported("intercept", source)
    bundle = Bundle(result)
    assert bundle.decide(AGENT, "a", {"x": "abc"}) == "deny"
    assert bundle.decide(AGENT, "b", {"x": "prod", "n": 6}) == "hold"
    assert bundle.decide(AGENT, "b", {"x": "prod", "n": 5}) == "allow"
    assert bundle.decide(AGENT, "c", {"x": 1}) == "deny"
    assert bundle.decide(AGENT, "d", {"x": 1}) == "deny"
    assert sum("cannot be said here" in note for note in notes(result)) == 5


def test_spending_limits_and_webhooks_are_not_dropped_silently():
    source = """\
version: "1"
default: deny
approvals: {webhook: "https://example.org/hook"}
spend: {daily: 50.0}
tools:
  a:
    spend: {per_call: 0.5}
    rules: []
  b: {rules: [{name: s, spend: {per_call: 1}}]}
"""
    result = imported("intercept", source)
    bundle = Bundle(result)
    assert {bundle.decide(AGENT, tool) for tool in ("a", "b")} == {"deny"}
    assert sum("spend" in note for note in notes(result, NoteKind.STRICTER)) == 3
    assert sum("`approvals`" in note for note in notes(result, NoteKind.LEFT_OUT)) == 1


CONDITIONAL_DENY = "{name: x, action: deny, conditions: [{path: args.a, op: eq, value: 1}]}"
HOSTILE = 'x"; permit (principal, action, resource); //\n*/ ${x} \u202e'


def test_hostile_names_and_texts_stay_texts():
    """A name in the source is never Cedar or YAML in the bundle."""
    policy = {
        "version": "1",
        "default": "deny",
        "description": HOSTILE,
        "tools": {
            "a": {
                "rules": [
                    {
                        "name": HOSTILE,
                        "on_deny": HOSTILE,
                        "conditions": [
                            {"path": f"args.{HOSTILE.replace('.', '')}", "op": "eq", "value": HOSTILE},
                            {"path": 'args.we"ird', "op": "contains", "value": HOSTILE},
                        ],
                    }
                ]
            },
            'b"]': {"rules": [{"name": "n", "action": "deny"}]},
        },
    }
    result = imported("intercept", yaml.safe_dump(policy, allow_unicode=False))
    bundle = Bundle(result)
    assert len(bundle.policy.rules) == 2
    assert all(rule.forbids for rule in bundle.policy.rules)
    assert bundle.decide(AGENT, 'b"]') == "deny"


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ('version: "2"', "source.yaml:1: `version` must be '1'"),
        ("version: 1", "source.yaml:1: `version` must be '1'"),
        ('version: "1"\nallow: [a]', "source.yaml:2: unknown field `allow`"),
        ('version: "1"\ntools:\n  a: {rule: []}', "source.yaml:3: unknown field `rule`"),
        ('version: "1"\ntools:\n  a:\n    rules:\n      - {nam: x}', "source.yaml:5: unknown field `nam`"),
        (
            'version: "1"\ntools:\n  a: {rules: [{name: x, conditions: [{path: args.a, op: like, value: 1}]}]}',
            "source.yaml:3: `op` must be 'eq', 'neq', 'in', 'not_in', 'lt', 'lte', 'gt', 'gte', 'regex', 'contains' or",
        ),
        (
            'version: "1"\ntools:\n  a: {rules: [{name: x, conditions: [{path: env.a, op: eq, value: 1}]}]}',
            "source.yaml:3: the path `env.a` must start with `args.` or `state.`",
        ),
        (
            'version: "1"\ntools:\n  a: {rules: [{name: x, rate_limit: 10/week}]}',
            "source.yaml:3: `10/week` is not a rate limit such as `10/day`",
        ),
        (
            'version: "1"\ntools:\n  a: {rules: [{name: x, rate_limit: 1/day, action: deny}]}',
            "source.yaml:3: the rule `x`: `rate_limit` cannot be combined with `action: deny`",
        ),
        (
            'version: "1"\ntools:\n  a: {rules: [{name: x, conditions: [{path: args.a, op: lt, value: b}]}]}',
            "source.yaml:3: the rule `x`: `lt` needs a number",
        ),
        (
            'version: "1"\ntools:\n  a: {rules: [{name: x}]}',
            "source.yaml:3: the rule `x`: evaluate rules need at least one condition",
        ),
        (
            f'version: "1"\ntools:\n  a:\n    rules:\n      - {CONDITIONAL_DENY}',
            "source.yaml:5: the rule `x`: deny rules have no conditions",
        ),
        ('version: "1"\ndefault: deny', "source.yaml:1: the policy names no tool that can be imported"),
    ],
)
def test_what_the_format_does_not_know_is_refused_with_its_line(line, refusal):
    found = refusals("intercept", line + "\n")
    assert len(found) >= 1
    assert any(one.startswith(refusal) for one in found), found


def test_the_bundle_is_the_same_every_time():
    assert imported("intercept", PAYMENTS) == imported("intercept", PAYMENTS)


texts = st.sampled_from(["", "a", "main", "a*b", "feat/x", 'q"\\', "ü\n"])
numbers = st.one_of(st.integers(-5, 5), st.sampled_from([0.5, 2.0, -1.5, 2**53]))
patterns = st.sampled_from(["^a", "a$", "^main$", "a", ".*a", "^a.*$", "a|b", "^(a|main)$", r"a\*b", "[ab]", ""])


@st.composite
def conditions(draw):
    path = draw(st.sampled_from(["args.x", "args.y", "args.o.x", "args.o"]))
    op = draw(st.sampled_from(["eq", "neq", "in", "not_in", "lt", "lte", "gt", "gte", "regex", "contains", "exists"]))
    scalars = st.one_of(texts, numbers, st.booleans())
    value = {
        "eq": scalars,
        "neq": scalars,
        "in": st.one_of(st.lists(texts, max_size=3), st.lists(numbers, max_size=3), st.lists(scalars, max_size=3)),
        "not_in": st.one_of(st.lists(texts, max_size=3), st.lists(numbers, max_size=3)),
        "regex": patterns,
        "contains": scalars,
        "exists": st.booleans(),
    }.get(op, numbers)
    return {"path": path, "op": op, "value": draw(value)}


rules = st.builds(
    lambda found, action: {"name": "r", "action": action, "conditions": found},
    st.lists(conditions(), min_size=1, max_size=3),
    st.sampled_from(["evaluate", "evaluate", "require_approval"]),
)
policies = st.builds(
    lambda tool, everything: {
        "version": "1",
        "default": "deny",
        "tools": {"t": {"rules": tool}, "u": {"rules": []}, "*": {"rules": everything}},
    },
    st.lists(rules, max_size=2),
    st.lists(rules, max_size=1),
)
arguments = st.one_of(texts, numbers, st.booleans(), st.none(), st.lists(st.one_of(texts, numbers), max_size=2))
calls = st.fixed_dictionaries(
    {},
    optional={
        "x": arguments,
        "y": arguments,
        "o": st.one_of(arguments, st.fixed_dictionaries({}, optional={"x": arguments})),
    },
)


@settings(max_examples=200)
@given(policies, st.lists(calls, min_size=1, max_size=12))
def test_an_import_is_never_looser_and_only_stricter_where_a_note_says_so(policy, asked):
    """The source's own semantics, over made-up policies and calls."""
    source = yaml.safe_dump(policy, allow_unicode=False)
    result = imported("intercept", source)
    bundle = Bundle(result)
    lost = {
        tool
        for tool in ("t", "u")
        for note in notes(result, NoteKind.STRICTER)
        if "cannot be said here" in note and (f"`{tool}`" in note or "any tool" in note)
    }
    for tool, args in itertools.product(("t", "u"), asked):
        check_call(source, bundle, tool, args, lost)
