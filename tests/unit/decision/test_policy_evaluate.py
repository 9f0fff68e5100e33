"""What a manifest, a rule and an approval make of a request."""

# ruff: noqa: E501 - a case holds a whole line of Cedar or YAML

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bundles import AGENT, CATALOG, NOON, agent, ask, intent, policy
from holdfast.reasons import Cause, ReasonCode

from services.decision.cedar import check_resource
from services.decision.policy import Classified, Request
from services.decision.verdict import Allow, ApprovalNeeded, Deny, Hold, Unavailable

POLICY = policy()


# --- nothing permits ---------------------------------------------------------------------------------------------------


def test_a_bundle_without_agents_permits_nothing():
    verdict = ask(policy(bot=None), intent())
    assert isinstance(verdict, Deny)
    assert verdict.reason_code is ReasonCode.ACTION_NOT_AVAILABLE


def test_an_agent_without_tools_can_do_nothing():
    for action, resource in (("payments.refund.create", "payment/1"), ("kb.search", "knowledge-base/1")):
        verdict = ask(policy(bot=agent()), intent(action, resource))
        assert verdict.reason_code is ReasonCode.ACTION_NOT_AVAILABLE


def test_a_permit_in_the_rules_does_not_lift_the_list_of_tools():
    of = policy(bot=agent(spec="tools: [kb.search]"), refunds='@id("all") permit (principal, action, resource);')
    assert ask(of, intent()).reason_code is ReasonCode.ACTION_NOT_AVAILABLE
    assert isinstance(ask(of, intent("kb.search", "knowledge-base/1")), Allow)


@pytest.mark.parametrize(
    "entries", ["policies: []", "dataAccess: []", 'policies: [{effect: deny, resource: "x/*", action: "*"}]']
)
def test_a_manifest_that_lists_entries_permits_only_what_they_allow(entries):
    of = policy(bot=AGENT + f"  {entries}\n")
    verdict = ask(of, intent("kb.search", "knowledge-base/1"))
    assert isinstance(verdict, Deny)
    assert verdict.reason_code is ReasonCode.NO_MATCHING_POLICY
    assert verdict.determining == ()


# --- the manifest ----------------------------------------------------------------------------------------------------


def test_listed_tools_are_permitted_where_there_are_no_entries():
    verdict = ask(POLICY, intent("kb.search", "knowledge-base/1"))
    assert verdict == Allow(determining=("agent:bot:tools",))


def test_the_permit_of_the_listed_tools_names_them_in_cedar_too():
    (permit,) = policy(bot=agent(spec="tools: [logs.query, kb.search]")).manifest_rules("bot")
    assert permit.text == (
        '@id("agent:bot:tools")\npermit (principal == Agent::"bot", action in [Action::"kb.search", Action::"logs.*"], resource)'
        ' when { context.operation == "logs.query" || context.operation == "kb.search" };'
    )


def test_entries_are_numbered_from_one_over_policies_then_data_access():
    of = policy(
        bot=agent(
            spec="""tools: [kb.search, ticket.create, logs.*]
  policies:
    - {effect: allow, resource: "ticket/*", action: write}
    - {effect: deny, resource: "ticket/locked-*", action: "*"}
  dataAccess:
    - {resource: "knowledge-base/*", action: read}
    - {resource: "*", action: "logs.q*"}"""
        )
    )
    assert ask(of, intent("ticket.create", "ticket/1")) == Allow(determining=("agent:bot:1",))
    denied = ask(of, intent("ticket.create", "ticket/locked-1"))
    assert (denied.reason_code, denied.determining) == (ReasonCode.POLICY_DENIED, ("agent:bot:2",))
    assert "manifest" in denied.detail
    assert ask(of, intent("kb.search", "knowledge-base/1")) == Allow(determining=("agent:bot:3",))
    assert ask(of, intent("logs.query", "host/1")) == Allow(determining=("agent:bot:4",))
    assert ask(of, intent("logs.tail", "host/1")).reason_code is ReasonCode.NO_MATCHING_POLICY


def test_read_and_write_are_effects():
    of = policy(bot=AGENT + '  policies: [{effect: allow, resource: "*", action: read}]\n')
    assert isinstance(ask(of, intent("kb.search", "knowledge-base/1")), Allow)
    assert isinstance(ask(of, intent("logs.query", "host/1")), Allow)
    assert ask(of, intent("ticket.create", "ticket/1")).reason_code is ReasonCode.NO_MATCHING_POLICY
    assert ask(of, intent()).reason_code is ReasonCode.NO_MATCHING_POLICY
    of = policy(bot=AGENT + '  policies: [{effect: allow, resource: "*", action: write}]\n')
    assert isinstance(ask(of, intent()), Allow)
    assert isinstance(ask(of, intent("ticket.create", "ticket/1")), Allow)
    assert ask(of, intent("kb.search", "knowledge-base/1")).reason_code is ReasonCode.NO_MATCHING_POLICY


def test_a_tool_may_name_a_part_of_a_catalogue_s_glob():
    of = policy(bot=agent(spec="tools: [logs.query]"))
    assert isinstance(ask(of, intent("logs.query", "host/1")), Allow)
    for other in ("logs.query2", "logs.tail", "logs.*"):
        assert ask(of, intent(other, "host/1")).reason_code is ReasonCode.ACTION_NOT_AVAILABLE, other


def test_models_are_a_ceiling():
    for model, listed in (("gpt-4", True), ("gpt-4o", False), ("", False)):
        what = intent("kb.search", "knowledge-base/1", context={"model": model})
        verdict = ask(POLICY, what)
        assert isinstance(verdict, Allow if listed else Deny), model
    without = policy(bot=AGENT.replace("  models: [gpt-4]\n", ""))
    verdict = ask(without, intent("kb.search", "knowledge-base/1", context={"model": "gpt-4"}))
    assert verdict.reason_code is ReasonCode.ACTION_NOT_AVAILABLE
    older = policy(bot=AGENT.replace("models: [gpt-4]", "model: gpt-4"))
    assert isinstance(ask(older, intent("kb.search", "knowledge-base/1", context={"model": "gpt-4"})), Allow)


def test_environments_bound_the_agent():
    of = policy(bot=AGENT + "  environments: [staging]\n")
    denied = ask(of, intent("ticket.create", "ticket/1"))
    assert (denied.reason_code, denied.determining) == (ReasonCode.POLICY_DENIED, ("agent:bot:environments",))
    assert isinstance(ask(of, intent("ticket.create", "ticket/1", context={"environment": "staging"})), Allow)
    # The payment is in production, whatever the agent says.
    assert isinstance(ask(of, intent(context={"environment": "staging"})), Deny)


def test_an_empty_list_of_environments_is_none_of_them():
    denied = ask(policy(bot=AGENT + "  environments: []\n"), intent("ticket.create", "ticket/1"))
    assert denied.determining == ("agent:bot:environments",)


@pytest.mark.parametrize(
    ("window", "moment", "inside"),
    [
        ("Mon-Fri 09:00-17:00", "2026-11-20T08:00:00Z", True),  # nine in Berlin, in winter
        ("Mon-Fri 09:00-17:00", "2026-11-20T07:59:59Z", False),
        ("Mon-Fri 09:00-17:00", "2026-11-20T16:00:00Z", False),  # the end is outside
        ("Mon-Fri 09:00-17:00", "2026-07-20T07:00:00Z", True),  # nine in Berlin, in summer
        ("Mon-Fri 09:00-17:00", "2026-11-21T10:00:00Z", False),
        ("Sat,Sun 00:00-24:00", "2026-11-21T22:59:00Z", True),
        ("Fri-Mon 10:00-11:00", "2026-11-22T09:30:00Z", True),
        ("Fri 22:00-06:00", "2026-11-21T04:59:00Z", True),  # Saturday, still Friday's window
        ("Fri 22:00-06:00", "2026-11-21T05:00:00Z", False),
        ("22:00-06:00", "2026-11-18T21:00:00Z", True),
    ],
)
def test_the_schedule_is_read_by_the_wall_clock_of_its_zone(window, moment, inside):
    of = policy(bot=AGENT + f'  schedule: {{timezone: Europe/Berlin, allow: ["{window}"]}}\n')
    verdict = ask(of, intent("ticket.create", "ticket/1"), now=datetime.fromisoformat(moment))
    if inside:
        assert isinstance(verdict, Allow)
    else:
        assert (verdict.reason_code, verdict.determining) == (ReasonCode.POLICY_DENIED, ("agent:bot:schedule",))


def test_an_empty_schedule_is_never():
    verdict = ask(policy(bot=AGENT + "  schedule: {allow: []}\n"), intent("ticket.create", "ticket/1"))
    assert verdict.determining == ("agent:bot:schedule",)


def test_rate_limits_are_the_manifest_s():
    limit = policy(bot=AGENT + "  rateLimit: {maxCallsPerMinute: 10, maxTokensPerDay: 100000}\n").rate_limit("bot")
    assert limit is not None
    assert (limit.max_calls_per_minute, limit.max_tokens_per_day) == (10, 100_000)
    assert POLICY.rate_limit("bot") is None


@pytest.mark.parametrize(
    "name",
    [
        'a"b',
        "a\\b",
        "a*b",
        'x" } ; permit(principal,action,resource);',
        "ünïcode",
        "日本",
        "🙂",
        "a'b",
        "{}",
        "\\u{41}",
    ],
)
def test_text_of_an_agent_is_never_cedar(name):
    """A resource's name reaches the rules as it is, and matches only itself."""
    literal = name.replace("\\", "\\\\").replace('"', '\\"')
    of = policy(refunds=f'@id("this") forbid (principal, action, resource) when {{ resource.id == "{literal}" }};')
    assert ask(of, intent("ticket.create", f"ticket/{name}")).determining == ("this",)
    assert isinstance(ask(of, intent("ticket.create", "ticket/other")), Allow)
    by_name = policy(refunds=f'@id("this") forbid (principal, action, resource == Resource::"ticket/{literal}");')
    assert ask(by_name, intent("ticket.create", f"ticket/{name}")).determining == ("this",)
    assert isinstance(ask(by_name, intent("ticket.create", f"ticket/{name}x")), Allow)


def test_a_manifest_s_pattern_matches_special_characters_as_they_are():
    pattern = 'ticket/a"b\\c*'
    of = policy(bot=AGENT + f"  policies: [{{effect: allow, resource: {json.dumps(pattern)}, action: write}}]\n")
    assert isinstance(ask(of, intent("ticket.create", 'ticket/a"b\\c1')), Allow)
    assert isinstance(ask(of, intent("ticket.create", 'ticket/a"bXc1')), Deny)


# --- rules and approvals ---------------------------------------------------------------------------------------------


def refund(cents: int):
    return intent(amount_cents=cents)


def test_a_small_refund_is_allowed():
    assert ask(POLICY, refund(50_000)) == Allow(determining=("agent:bot:tools",))


def test_a_big_refund_is_held_and_says_what_it_needs():
    verdict = ask(POLICY, refund(50_001))
    assert verdict == Hold(
        determining=("big-refunds",),
        needed=(ApprovalNeeded(rule="big-refunds", role="finance", count=1),),
        detail="refunds over 500.00 need finance",
    )


def test_one_of_the_role_lifts_the_hold():
    assert ask(POLICY, refund(50_001), approvals=("bob",)) == Allow(determining=("agent:bot:tools",))


def test_people_of_another_role_lift_nothing():
    assert isinstance(ask(POLICY, refund(50_001), approvals=("carol", "mallory", "Alice", "")), Hold)


def test_a_forbid_without_approval_denies_whatever_else_says():
    verdict = ask(POLICY, refund(1_000_001), approvals=("alice", "bob"))
    assert (verdict.reason_code, verdict.determining, verdict.detail) == (
        ReasonCode.POLICY_DENIED,
        ("huge-refunds",),
        "never",
    )


TWO = '@id("two") @requires_approval("finance:2") forbid (principal, action == Action::"payments.refund.create", resource);\n'


def test_a_person_counts_once():
    of = policy(refunds=TWO)
    assert isinstance(ask(of, refund(1), approvals=("alice", "alice")), Hold)
    assert isinstance(ask(of, refund(1), approvals=("alice", "carol")), Hold)
    assert isinstance(ask(of, refund(1), approvals=("alice", "bob")), Allow)


def test_every_holding_rule_is_named_until_it_is_lifted():
    of = policy(
        refunds=TWO
        + '@id("sec") @requires_approval("security") forbid (principal, action, resource) when { resource.labels.contains("pci") };'
    )
    assert ask(of, refund(1)).determining == ("sec", "two")
    assert ask(of, refund(1), approvals=("alice", "bob")).determining == ("sec",)
    assert isinstance(ask(of, refund(1), approvals=("alice", "bob", "carol")), Allow)


def test_what_no_rule_would_permit_is_not_held():
    of = policy(bot=AGENT + "  policies: []\n", refunds=TWO)
    for approvals in ((), ("alice", "bob")):
        verdict = ask(of, refund(1), approvals=approvals)
        assert isinstance(verdict, Deny)
        assert verdict.reason_code is ReasonCode.NO_MATCHING_POLICY


def test_a_deny_of_the_manifest_beats_a_hold():
    of = policy(
        bot=AGENT
        + '  policies: [{effect: allow, resource: "*", action: "*"}, {effect: deny, resource: "payment/*", action: "*"}]\n',
        refunds=TWO,
    )
    assert ask(of, refund(1), approvals=("alice", "bob")).determining == ("agent:bot:2",)


def test_rules_see_agent_action_resource_and_context():
    condition = """
      principal in AgentGroup::"support" && principal.owner == "support-team" && principal.labels.contains("tier=2")
      && action in Action::"category:finance.refund" && action in Action::"impact:high" && action in Action::"effect:external"
      && resource == Resource::"payment/pay_1" && resource.type == "payment" && resource.id == "pay_1"
      && resource.sensitivity == "confidential" && resource.labels.contains("pci")
      && context.operation == "payments.refund.create" && context.environment == "production" && context.executor == "payments-api"
      && context.parameters.amount_cents == 4200 && context.parameters has rate && context.parameters.rate.lessThan(decimal("0.6"))
      && context.parameters has tags && context.parameters.tags.contains("a")
      && context.parameters has target && context.parameters.target.iban == "DE02"
      && context.parameters has urgent && !context.parameters.urgent && !(context.parameters has note)
      && context.risk.score == 75 && context.risk.tier == "high"
      && context has on_behalf_of && context.on_behalf_of == "user:alice" && context has model && context.model == "gpt-4"
      && context.time.epoch == 1795176000 && context.time.hour == 12 && context.time.weekday == "Fri"
      && context.drained && context.queue_age_seconds == 7
    """
    of = policy(
        refunds=f'@id("sees") forbid (principal, action == Action::"payments.refund.create", resource) when {{ {condition} }};'
    )
    what = intent(
        rate="0.5",
        tags=["a"],
        target={"iban": "DE02"},
        urgent=False,
        context={"on_behalf_of": "user:alice", "model": "gpt-4"},
    )
    assert ask(of, what, now=NOON, drained=True, queue_age_s=7).determining == ("sees",)
    assert isinstance(ask(of, what, now=NOON, drained=True, queue_age_s=8), Allow)
    assert isinstance(ask(of, what, now=NOON, drained=False, queue_age_s=7), Allow)


def test_a_glob_action_appears_under_its_pattern_with_the_operation_in_the_context():
    of = policy(
        refunds='@id("no-secrets") forbid (principal, action == Action::"logs.*", resource) when { context.operation == "logs.secrets" };'
    )
    assert isinstance(ask(of, intent("logs.query", "host/1")), Allow)
    assert ask(of, intent("logs.secrets", "host/1")).determining == ("no-secrets",)


def test_a_rule_that_uses_the_context_as_a_whole_sees_all_of_it():
    of = policy(
        refunds='@id("whole") forbid (principal, action, resource) when { {c: context}.c.queue_age_seconds == 7 };'
    )
    assert ask(of, intent("ticket.create", "ticket/1"), queue_age_s=7).determining == ("whole",)
    assert isinstance(ask(of, intent("ticket.create", "ticket/1"), queue_age_s=8), Allow)


# --- an error leaves the question open ---------------------------------------------------------------------------------

OVERFLOW = '@id("over") {effect} (principal, action == Action::"payments.refund.create", resource) when {{ context.parameters.amount_cents * 9223372036854775807 > 0 }};\n'


@pytest.mark.parametrize("effect", ["permit", "forbid", '@requires_approval("finance") forbid'])
def test_an_erring_rule_beside_a_permit_is_no_allow(effect):
    of = policy(refunds=OVERFLOW.format(effect=effect))
    verdict = ask(of, refund(4200), approvals=("alice",))
    assert isinstance(verdict, Unavailable)
    assert (verdict.reason_code, verdict.cause) == (ReasonCode.EVALUATION_UNAVAILABLE, Cause.POLICY_ERROR)


def test_an_erring_rule_beside_a_matching_forbid_is_no_decision_either():
    of = policy(refunds=OVERFLOW.format(effect="forbid") + '@id("no") forbid (principal, action, resource);')
    assert isinstance(ask(of, refund(4200)), Unavailable)


def test_an_erring_rule_about_another_action_stops_nothing():
    of = policy(refunds=OVERFLOW.format(effect="forbid"))
    assert isinstance(ask(of, intent("ticket.create", "ticket/1")), Allow)


def test_what_another_bundle_classified_is_not_decided():
    other = policy(
        catalog=CATALOG.replace("ticket.create:", "ticket.open:"), bot=AGENT.replace("ticket.create", "ticket.open")
    )
    what = intent("ticket.create", "ticket/1")
    classified = POLICY.classify(what)
    assert isinstance(classified, Classified)
    risk = POLICY.assess(what, classified, agent="bot", now=NOON)
    for action in ("ticket.create", "kb.search", "", "effect:read"):
        request = Request(agent="bot", intent=what, classified=replace(classified, action=action), risk=risk, now=NOON)
        assert not isinstance(other.evaluate(request), Allow)


@pytest.mark.parametrize(
    "wrong",
    [
        {"parameters": {"currency": "EUR"}},  # a required attribute is missing
        {"parameters": {"amount_cents": "4200", "currency": "EUR"}},  # of the wrong type
        {"parameters": {"amount_cents": 4200.5, "currency": "EUR"}},
        {"parameters": {"amount_cents": None, "currency": "EUR"}},
        {"parameters": {"amount_cents": 2**63, "currency": "EUR"}},
        {"parameters": {"amount_cents": 4200, "currency": "EUR", "undeclared": 1}},
        {"parameters": {"amount_cents": {"__extn": {"fn": "decimal", "arg": "x"}}, "currency": "EUR"}},
        {"labels": (1,)},
        {"labels": ("pci", None)},
        {"labels": ({"__entity": {"type": "Agent", "id": "bot"}},)},
    ],
)
def test_a_malformed_request_is_never_allowed(wrong):
    """The schema stands behind the checks: what slips through them is no decision, not a rule that does not match."""
    what = intent()
    classified = POLICY.classify(what)
    assert isinstance(classified, Classified)
    risk = POLICY.assess(what, classified, agent="bot", now=NOON)
    request = Request(agent="bot", intent=what, classified=replace(classified, **wrong), risk=risk, now=NOON)
    assert isinstance(POLICY.evaluate(request), Unavailable)


@pytest.mark.parametrize(
    "wrong",
    [{"labels": "pci"}, {"labels": [1]}, {"id": None}, {"type": ["payment"]}, {"sensitivity": 1}, {"more": "x"}],
)
def test_only_a_resource_of_the_schema_s_shape_is_handed_to_cedar(wrong):
    right = {"type": "payment", "id": "p", "sensitivity": "internal", "labels": ["pci"]}
    check_resource(right)
    with pytest.raises(TypeError):
        check_resource({**right, **wrong})
    with pytest.raises(TypeError):
        check_resource({name: right[name] for name in ("type", "id", "sensitivity")})


def test_the_same_question_has_the_same_answer():
    assert [ask(POLICY, refund(50_001)) for _ in range(3)] == [ask(policy(), refund(50_001))] * 3


def test_times_are_utc_for_rules():
    of = policy(refunds='@id("noon") forbid (principal, action, resource) when { context.time.hour == 12 };')
    berlin = datetime.fromisoformat("2026-11-20T13:00:00+01:00")
    assert ask(of, intent("ticket.create", "ticket/1"), now=berlin).determining == ("noon",)
    assert isinstance(ask(of, intent("ticket.create", "ticket/1"), now=datetime(2026, 11, 20, 13, tzinfo=UTC)), Allow)
