"""Cordum policies and fragments: every field, omissions, and first-match answers as before."""

from __future__ import annotations

import itertools
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from imported_bundles import STRICTNESS, Bundle, imported, notes, omissions, refusals

from console.policy_import.source import NoteKind

AGENT = "imported-agent"

SAFETY = """\
version: v1
tier: global
default_decision: deny
default_tenant: default
input_policy: {fail_mode: open, max_scan_bytes: 2097152}
rules:
  - id: reads
    match: {topics: ["job.read.*", job.ping]}
    decision: allow
    reason: reading
  - id: bank-transfer-review
    match:
      tenants: []
      topics: ["job.bank.*"]
      capabilities: []
      risk_tags: []
      requires: []
      pack_ids: []
      actor_ids: []
      actor_types: []
      agent_risk_tiers: []
      agent_data_classifications: []
      labels: {}
      label_allowlist: {}
      label_threshold: {}
      mcp: {allow_servers: [], deny_tools: []}
    decision: require_approval
    reason: "between 100 and 299"
    remediations: [{id: x, title: t, summary: s, replacement_topic: job.safe}]
  - id: no-banking
    match: {topics: ["job.*"], tenants: [guest]}
    decision: deny
  - id: bursts
    match: {topics: ["job.burst"]}
    velocity: {max_requests: 5, window_seconds: 60, key: "tenant:topic"}
    decision: throttle
  - id: boxed
    match: {topics: ["job.box"]}
    decision: allow_with_constraints
    constraints:
      {budgets: {max_runtime_ms: 0, max_retries: 0}, sandbox: {}, toolchain: {}, diff: {}, redaction_level: ""}
  - id: depth
    match: {topics: ["job.deep"], predicate: "delegation.depth > 2", secrets_present: true, risk_tags: [review]}
    decision: deny
  - id: labelled
    match: {topics: ["job.label"], labels: {_source: workflow}, label_threshold: {amount: 300}}
    decision: allow
  - id: rest
    match: {topics: ["job.*"]}
    decision: allow
input_rules:
  - id: inj
    severity: high
    match: {topics: ["job.chat.*"], scanners: [prompt_injection], content_patterns: [], keywords: []}
    decision: require_approval
    reason: r
output_policy: {enabled: true, fail_mode: closed}
output_rules:
  - {id: leak, match: {topics: ["job.leaky"], scanners: [secret]}, decision: quarantine, severity: critical, reason: r}
require_human: {min_severity_for_deny: high, min_confidence_for_deny: 0.8, downgrade_when_prompt_only: false}
tenants:
  default:
    allow_topics: ["job.*"]
    deny_topics: ["job.banned"]
    max_concurrent_jobs: 0
    mcp: {allow_servers: [], deny_servers: []}
  busy: {max_concurrent_jobs: 3}
"""
TOPICS = (
    *("job.read.a", "job.ping", "job.bank.transfer", "job.burst", "job.box", "job.deep", "job.label", "job.other"),
    *("job.chat.a", "job.leaky", "job.banned", "job.a/b", "sys.a", ""),
)


def glob(pattern: str, topic: str) -> bool:
    """path.Match for patterns of `*` and `?`: neither crosses a slash."""
    text = "".join({"*": "[^/]*", "?": "[^/]"}.get(one, re.escape(one)) for one in pattern)
    return re.fullmatch(text, topic, re.DOTALL) is not None


def cordum(source: str, tenant: str, topic: str, *, unknown: bool) -> str:
    """First match wins. What depends on more than topic and tenant is `unknown`: it matches, or it does not."""
    policy = yaml.safe_load(source)
    of_tenant = policy.get("tenants", {}).get(tenant, {})
    if any(glob(one, topic) for one in of_tenant.get("deny_topics", [])):
        return "deny"
    if of_tenant.get("allow_topics") and not any(glob(one, topic) for one in of_tenant["allow_topics"]):
        return "deny"
    answer = {"allow": "allow"}.get(policy.get("default_decision", "deny"), "deny")
    for rule in policy.get("rules", []):
        match = rule.get("match", {})
        if match.get("topics") and not any(glob(one, topic) for one in match["topics"]):
            continue
        if match.get("tenants") and tenant not in match["tenants"]:
            continue
        rest = {name: value for name, value in match.items() if name not in ("topics", "tenants", "mcp") and value}
        if (rest or "velocity" in rule) and not unknown:
            continue
        answer = {"require_approval": "hold", "allow": "allow", "allow_with_constraints": "allow"}.get(
            rule["decision"], "deny"
        )
        break
    for rule in policy.get("input_rules", []):
        if unknown and any(glob(one, topic) for one in rule["match"]["topics"]):
            answer = max(answer, "hold" if rule["decision"] == "require_approval" else "deny", key=STRICTNESS.get)
    return answer


def test_a_safety_policy_is_never_looser_and_only_stricter_where_a_note_says_so():
    result = imported("cordum", SAFETY)
    bundle = Bundle(result)
    noted = {"job.burst", "job.box", "job.deep", "job.label", "job.chat.a", "job.leaky"}
    seen = set()
    for topic, (tenant, agent) in itertools.product(
        TOPICS, {"default": AGENT, "guest": f"{AGENT}-guest", "busy": f"{AGENT}-busy"}.items()
    ):
        after = bundle.decide(agent, topic)
        seen.add(after)
        for unknown in (False, True):
            before = cordum(SAFETY, tenant, topic, unknown=unknown)
            assert STRICTNESS[after] >= STRICTNESS[before], (tenant, topic, unknown)
            assert after == before or topic in noted or tenant == "busy", (tenant, topic, unknown)
    assert seen == {"allow", "hold", "deny"}


def test_the_notes_of_a_safety_policy_name_what_is_lost():
    said = "\n".join(notes(imported("cordum", SAFETY), NoteKind.STRICTER))
    for name in ("bursts", "boxed", "depth", "labelled", "inj", "leak", "busy"):
        assert f"`{name}`" in said, name
    assert "`input_policy.fail_mode: open`" in said
    assert "delegation.depth > 2" in said
    left_out = "\n".join(notes(imported("cordum", SAFETY), NoteKind.LEFT_OUT))
    for text in ("`bank-transfer-review`", "`require_human`", "`output_policy`"):
        assert text in left_out


def test_the_original_of_what_is_lost_stands_in_the_reason():
    rules = imported("cordum", SAFETY).files["rules/rules.cedar"].decode()
    assert "delegation.depth > 2" in rules
    assert r"{\"max_requests\": 5, \"window_seconds\": 60, \"key\": \"tenant:topic\"}" in rules


def test_an_allow_of_a_pack_is_an_omission():
    source = """\
rules:
  - {id: pack-deny, match: {topics: ["job.pack.drop"]}, decision: deny}
  - {id: pack-allow, match: {topics: ["job.pack.*"]}, decision: allow}
"""
    plain, kept = imported("cordum", source), imported("cordum", source, keep=["pack-allow"])
    said = "source.yaml:3: allowed by omission: the rule `pack-allow` is an allow of a pack [pack-allow]"
    assert omissions(plain) == [f"{said} -> denied"]
    assert omissions(kept) == [f"{said} -> kept"]
    topics = ("job.pack.a", "job.pack.drop", "job.other")
    assert [Bundle(plain).decide(AGENT, topic) for topic in topics] == ["deny", "deny", "deny"]
    assert [Bundle(kept).decide(AGENT, topic) for topic in topics] == ["allow", "deny", "deny"]


def test_a_permissive_default_and_an_allow_of_everything_are_omissions():
    source = """\
version: v1
default_decision: allow
rules:
  - {id: "never", match: {topics: [job.no]}, decision: deny}
  - {id: all, match: {tenants: [default]}, decision: allow}
"""
    plain = imported("cordum", source)
    said = "`default_decision: allow`: every job that no rule matches"
    assert omissions(plain) == [
        f"source.yaml:2: allowed by omission: {said} [default_decision] -> denied",
        "source.yaml:5: allowed by omission: the rule `all` allows without naming a topic [all] -> denied",
    ]
    assert Bundle(plain).decide(AGENT, "job.a") == "deny"
    for name in ("default_decision", "all"):
        kept = Bundle(imported("cordum", source, keep=[name]))
        assert [kept.decide(AGENT, topic) for topic in ("job.a", "job.no")] == ["allow", "deny"]


def test_a_policy_of_one_workflow_allows_nobody_else():
    source = """\
version: v1
tier: workflow
selector: {workflow_id: w}
rules: [{id: a, match: {topics: [job.a]}, decision: allow}]
"""
    result = imported("cordum", source)
    assert Bundle(result).decide(AGENT, "job.a") == "deny"
    assert any("tier: workflow" in note for note in notes(result))


@pytest.mark.parametrize(
    ("source", "refusal"),
    [
        (SAFETY.replace("capabilities", "capability"), "source.yaml:15: unknown field `capability`"),
        (SAFETY.replace("decision: throttle", "decision: slow"), "source.yaml:36: `decision` must be"),
        (SAFETY.replace("deny_servers", "block_servers"), "source.yaml:66: unknown field `block_servers`"),
        (SAFETY.replace("id: rest", "id: reads"), "source.yaml:48: the rule `reads` stands twice"),
        ("version: v2\n", "source.yaml:1: `version` must be 'v1'"),
    ],
)
def test_what_cordum_does_not_know_is_refused_with_its_line(source, refusal):
    found = refusals("cordum", source)
    assert any(one.startswith(refusal) for one in found), found


patterns = st.sampled_from(["job.a", "job.*", "*", "job.a.*", "*.a", "job.?", "job/*", "j*a*"])
matches = st.fixed_dictionaries(
    {},
    optional={
        "topics": st.lists(patterns, max_size=2),
        "tenants": st.lists(st.sampled_from(["default", "guest"]), max_size=2),
        "risk_tags": st.sampled_from([[], ["review"]]),
    },
)
rules = st.lists(
    st.tuples(matches, st.sampled_from(["allow", "deny", "require_approval", "throttle", "allow_with_constraints"])),
    min_size=1,
    max_size=5,
)


@settings(max_examples=80)
@given(rules, st.sampled_from(["allow", "deny"]))
def test_first_match_is_never_read_more_loosely(found, default):
    """Order, tenants, globs and lost conditions together, with everything kept that can be."""
    listed = [
        {"id": f"r{index}", "match": match, "decision": decision} for index, (match, decision) in enumerate(found)
    ]
    source = yaml.safe_dump({"version": "v1", "default_decision": default, "rules": listed})
    omitted = {note.name for note in imported("cordum", source).notes if note.name}
    result = imported("cordum", source, keep=omitted)
    bundle = Bundle(result)
    lost = bool(notes(result, NoteKind.STRICTER))
    agents = {"default": AGENT, "guest": f"{AGENT}-guest"}
    guests = any("guest" in match.get("tenants", []) for match, _ in found)
    for topic, tenant in itertools.product(("job.a", "job.a.b", "job.ab", "x.a", "job/a", "a/a", "?"), agents):
        if tenant == "guest" and not guests:
            continue
        after = bundle.decide(agents[tenant], topic)
        for unknown in (False, True):
            before = cordum(source, tenant, topic, unknown=unknown)
            assert STRICTNESS[after] >= STRICTNESS[before], (tenant, topic, unknown)
            if not lost and "?" not in source and "/" not in source + topic:
                assert after == before, (tenant, topic, unknown)
