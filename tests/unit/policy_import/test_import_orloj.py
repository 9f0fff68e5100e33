"""Both dialects of Orloj: every field, omissions, and the same answers as a small reading of its rules."""

from __future__ import annotations

import itertools
from fnmatch import fnmatchcase

import pytest
import yaml
from imported_bundles import STRICTNESS, Bundle, imported, notes, omissions, refusals

from console.policy_import.source import NoteKind

BOT = "customer-support-bot"

ARTICLE = """\
apiVersion: orloj.dev/v1
kind: Agent
metadata: {name: customer-support-bot}
spec:
  model: gpt-4
  tools: [search-knowledge-base, create-ticket, do-both]
  policies:
    - {effect: allow, resource: "knowledge-base/*", action: read}
    - {effect: allow, resource: "ticket/*", action: write}
    - {effect: allow, resource: "open/*", action: "*"}
    - {effect: deny, resource: "open/secret*", action: read}
    - {effect: deny, resource: "open/frozen*", action: write}
    - {effect: deny, resource: "payment-api/*", action: "*"}
  rateLimit: {maxTokensPerDay: 100000, maxCallsPerMinute: 10}
  dataAccess:
    - {resource: "internal-docs/*", action: read}
    - {resource: "external-apis/*", action: read, rateLimitedBy: callingAgent}
"""
RESOURCES = (
    *("knowledge-base/a", "ticket/1", "open/a", "open/secret-1", "open/frozen-1", "payment-api/1"),
    *("internal-docs/a", "external-apis/a", "elsewhere/a"),
)


def article(source: str, tool: str, resource: str, verb: str) -> str:
    """Say what the article's manifest means: a ceiling of tools, then entries, and a deny wins."""
    spec = yaml.safe_load(source)["spec"]
    if tool not in spec["tools"]:
        return "deny"
    entries = [*spec.get("policies", []), *({**one, "effect": "allow"} for one in spec.get("dataAccess", []))]
    found = {
        entry["effect"]
        for entry in entries
        if fnmatchcase(resource, entry["resource"]) and entry["action"] in (verb, "*")
    }
    return "allow" if found == {"allow"} else "deny"


@pytest.mark.parametrize(
    "effects",
    [
        {},
        {"search-knowledge-base": "read"},
        {"create-ticket": "write"},
        {"search-knowledge-base": "read", "create-ticket": "write"},
        {"search-knowledge-base": "read", "create-ticket": "write", "do-both": "write"},
    ],
)
def test_the_article_is_never_read_more_loosely(effects):
    """A tool of which nobody said what it does may do either."""
    result = imported(
        "orloj",
        ARTICLE,
        reads=[tool for tool, effect in effects.items() if effect == "read"],
        writes=[tool for tool, effect in effects.items() if effect == "write"],
    )
    bundle = Bundle(result)
    for tool, resource in itertools.product(("search-knowledge-base", "create-ticket", "do-both", "other"), RESOURCES):
        verbs = [effects[tool]] if tool in effects else ["read", "write"]
        before = [article(ARTICLE, tool, resource, verb) for verb in verbs]
        after = bundle.decide(BOT, tool, resource=resource)
        assert STRICTNESS[after] >= max(STRICTNESS[one] for one in before), (tool, resource)
        if tool in effects and len(effects) == 3:
            assert [after] == before, (tool, resource)
        if tool not in effects and tool != "other":
            assert any(f"whether `{tool}` reads" in note for note in notes(result, NoteKind.STRICTER))


def test_the_article_still_allows_what_it_names():
    bundle = Bundle(imported("orloj", ARTICLE, reads=["search-knowledge-base"], writes=["create-ticket"]))
    assert bundle.decide(BOT, "search-knowledge-base", resource="knowledge-base/a") == "allow"
    assert bundle.decide(BOT, "search-knowledge-base", resource="internal-docs/a") == "allow"
    assert bundle.decide(BOT, "create-ticket", resource="ticket/1") == "allow"
    assert bundle.decide(BOT, "do-both", resource="open/a") == "allow"


def test_the_article_s_limits_and_models_come_along():
    manifest = imported("orloj", ARTICLE).files[f"agents/{BOT}.yaml"].decode()
    assert "rateLimit: {maxCallsPerMinute: 10, maxTokensPerDay: 100000}" in manifest
    assert "models: [gpt-4]" in manifest


def test_an_agent_without_entries_is_an_omission():
    source = "apiVersion: orloj.dev/v1\nkind: Agent\nmetadata: {name: bot}\nspec: {model: m, tools: [a]}\n"
    plain, kept = imported("orloj", source), imported("orloj", source, keep=["bot"])
    said = (
        "source.yaml:4: allowed by omission: `bot` has neither `policies` nor `dataAccess`:"
        " its tools act on everything [bot]"
    )
    assert omissions(plain) == [f"{said} -> denied"]
    assert omissions(kept) == [f"{said} -> kept"]
    assert Bundle(plain).decide("bot", "a") == "deny"
    assert Bundle(kept).decide("bot", "a") == "allow"


def test_an_entry_for_an_unknown_action_denies():
    source = """\
apiVersion: orloj.dev/v1
kind: Agent
metadata: {name: bot}
spec:
  model: m
  tools: [a]
  policies:
    - {effect: allow, resource: "x/*", action: "*"}
    - {effect: allow, resource: "y/*", action: summon}
    - {effect: deny, resource: "x/1", action: summon}
"""
    result = imported("orloj", source)
    bundle = Bundle(result)
    assert [bundle.decide("bot", "a", resource=one) for one in ("x/2", "x/1", "y/1")] == ["allow", "deny", "deny"]
    assert sum("`summon` is neither" in note for note in notes(result)) == 2


GOVERNANCE = """\
apiVersion: orloj.dev/v1
kind: Agent
metadata: {name: governed, namespace: default, labels: {a: b}, annotations: {}}
spec:
  model_ref: gpt-4o
  prompt: You are.
  roles: [Analyst-Role]
  tools: [web_search, vector_db, Mail, shell, admin_panel, mixed]
  memory: {ref: m}
  limits: {max_steps: 5, timeout: 30s}
  fallback_model_refs: [gpt-4o-mini]
---
kind: Agent
metadata: {name: free}
spec: {tools: [web_search, vector_db, shell], allowed_tools: [vector_db, shell]}
---
kind: AgentRole
metadata: {name: analyst-role}
spec:
  description: analyses
  permissions: [tool:web-search:invoke, capability:web.read, tool:mail:invoke, tool:mixed:invoke, x, tool:shell:invoke]
---
kind: ToolPermission
metadata: {name: web}
spec:
  tool_ref: WEB_SEARCH
  action: invoke
  match_mode: all
  apply_mode: global
  required_permissions: [tool:web_search:invoke, capability:web.read]
  operation_rules: [{operation_class: read, verdict: allow}]
---
kind: ToolPermission
metadata: {name: mail}
spec:
  match_mode: any
  apply_mode: scoped
  target_agents: [GOVERNED]
  required_permissions: [nothing, x]
  operation_rules:
    - {operation_class: write, verdict: approval_required}
---
kind: ToolPermission
metadata: {name: mixed}
spec:
  operation_rules:
    - {operation_class: read, verdict: allow}
    - {operation_class: delete, verdict: deny}
---
kind: Tool
metadata: {name: web_search}
spec:
  type: http
  endpoint: https://example.org
  capabilities: [web.read]
  operation_classes: [read]
  risk_level: low
  runtime: {timeout: 30s, isolation_mode: none, retry: {max_attempts: 1}}
  auth: {profile: bearer, secretRef: s}
---
kind: Tool
metadata: {name: mail}
spec: {operation_classes: [write], risk_level: high}
---
kind: Tool
metadata: {name: mixed}
spec: {operation_classes: [read, admin]}
---
kind: AgentPolicy
metadata: {name: cost}
spec:
  apply_mode: scoped
  target_systems: [report]
  target_tasks: []
  target_agents: [free]
  blocked_tools: [Shell]
  max_tokens_per_run: 5000
---
kind: ToolApproval
metadata: {name: t1}
spec: {task_ref: t, tool: mail, operation_class: write, agent: governed, input: {a: 1}, reason: r, ttl: 10m}
status: {phase: done, decision: approved, decided_by: alice, decided_at: now, expires_at: then}
"""


def orloj(source: str, agent: str, tool: str) -> str:
    """Orloj's order: blocked, allowed beforehand or by role, then operation classes; names without case."""
    found = [one for one in yaml.safe_load_all(source) if one]

    def of(kind):
        return {one["metadata"]["name"].lower(): one["spec"] for one in found if one["kind"] == kind}

    def low(values):
        return {value.lower() for value in values}

    def plain(text):
        return text.lower().replace("-", "_").replace("/", "_").replace("\\", "_")

    spec = of("Agent")[agent.lower()]
    name = tool.lower()
    if name not in low(spec["tools"]):
        return "deny"
    for policy in of("AgentPolicy").values():
        concerned = policy.get("apply_mode") == "global" or agent.lower() in low(policy.get("target_agents", []))
        if concerned and name in low(policy.get("blocked_tools", [])):
            return "deny"
    gates = [
        gate
        for key, gate in of("ToolPermission").items()
        if gate.get("tool_ref", key).lower() == name
        and (gate.get("apply_mode", "global") == "global" or agent.lower() in low(gate.get("target_agents", [])))
    ]
    if name not in low(spec.get("allowed_tools", [])) and spec.get("roles"):
        held = {plain(text) for role in spec["roles"] for text in of("AgentRole")[role.lower()]["permissions"]}
        for gate in gates or [{}]:
            asked = [plain(text) for text in gate.get("required_permissions") or [f"tool:{name}:invoke"]]
            test = all if gate.get("match_mode", "all") == "all" else any
            if not test(text in held for text in asked):
                return "deny"
    known = of("Tool").get(name, {})
    classes = known.get("operation_classes") or (
        ["write"] if known.get("risk_level") in ("high", "critical") else ["read"]
    )
    verdicts = {
        rule["verdict"]
        for gate in gates
        for rule in gate.get("operation_rules", [])
        if rule["operation_class"] in (*classes, "*")
    }
    return "deny" if "deny" in verdicts else "hold" if "approval_required" in verdicts else "allow"


TOOLS = ("web_search", "vector_db", "mail", "shell", "admin_panel", "mixed", "unlisted")


@pytest.mark.parametrize("keep", [(), ("free",), ("mixed:admin",), ("free", "mixed:admin")])
def test_real_manifests_decide_as_before_except_where_a_note_says_so(keep):
    result = imported("orloj", GOVERNANCE, keep=keep)
    bundle = Bundle(result)
    said = "\n".join(notes(result, NoteKind.STRICTER) + [note for note in omissions(result) if "-> denied" in note])
    for agent, tool in itertools.product(("governed", "free"), TOOLS):
        before, after = orloj(GOVERNANCE, agent, tool), bundle.decide(agent, tool)
        assert STRICTNESS[after] >= STRICTNESS[before], (agent, tool)
        if after != before:
            assert f"`{tool}`" in said or (tool == "shell" and "the policy `cost`" in said), (agent, tool)


def test_real_manifests_still_allow_and_hold():
    bundle = Bundle(imported("orloj", GOVERNANCE))
    assert bundle.decide("governed", "web_search") == "allow"
    assert bundle.decide("governed", "mail") == "hold"
    assert bundle.decide("free", "vector_db") == "allow"
    assert bundle.decide("governed", "vector_db") == "deny"


def test_omissions_of_real_manifests_are_exact():
    plain = imported("orloj", GOVERNANCE)
    free = "source.yaml:15: allowed by omission: `free` has no roles, so nothing is asked of it for `web_search` [free]"
    admin = "source.yaml:46: allowed by omission: `mixed` does not list the operation class `admin` [mixed:admin]"
    assert omissions(plain) == [f"{free} -> denied", f"{admin} -> denied"]
    kept = imported("orloj", GOVERNANCE, keep=["free", "mixed:admin"])
    assert omissions(kept) == [f"{free} -> kept", f"{admin} -> kept"]
    assert Bundle(kept).decide("free", "web_search") == "allow"
    assert Bundle(kept).decide("governed", "mixed") == "allow"


def test_missing_operation_classes_are_not_taken_for_reads():
    source = """\
kind: Agent
metadata: {name: a}
spec: {tools: [t], allowed_tools: [t]}
---
kind: Tool
metadata: {name: t}
spec: {risk_level: low}
---
kind: ToolPermission
metadata: {name: t}
spec: {operation_rules: [{operation_class: read, verdict: allow}, {operation_class: write, verdict: deny}]}
"""
    plain, kept = imported("orloj", source), imported("orloj", source, keep=["t:operation_classes"])
    assert omissions(plain)[:1] == [
        (
            "source.yaml:7: allowed by omission: `t` has no `operation_classes`, which counts as `read` only"
            " [t:operation_classes] -> denied"
        )
    ]
    assert Bundle(plain).decide("a", "t") == "deny"
    assert Bundle(kept).decide("a", "t") == "allow"


def test_a_tool_that_is_in_none_of_the_files_may_do_anything():
    source = """\
kind: Agent
metadata: {name: a}
spec: {tools: [t], allowed_tools: [t]}
---
kind: ToolPermission
metadata: {name: t}
spec: {operation_rules: [{operation_class: read, verdict: allow}]}
"""
    result = imported("orloj", source)
    assert Bundle(result).decide("a", "t") == "deny"
    assert len(omissions(result)) == 3
    kept = imported("orloj", source, keep=["t:write", "t:delete", "t:admin"])
    assert Bundle(kept).decide("a", "t") == "allow"


def test_a_policy_about_systems_is_about_everybody():
    """Who belongs to a system is not in these files."""
    result = imported("orloj", GOVERNANCE)
    assert Bundle(result).decide("governed", "shell") == "deny"
    assert any("the policy `cost` is about systems or tasks" in note for note in notes(result))


def test_allowed_models_are_asked_of_every_call():
    source = """\
kind: Agent
metadata: {name: a}
spec: {model_ref: gpt-4o, tools: [t], allowed_tools: [t]}
---
kind: AgentPolicy
metadata: {name: p}
spec: {apply_mode: global, allowed_models: [gpt-4o]}
"""
    bundle = Bundle(imported("orloj", source))
    assert [bundle.decide("a", "t", model=model) for model in ("gpt-4o", "other", None)] == ["allow", "deny", "deny"]


ROLE = "kind: AgentRole\nmetadata: {name: a}\nspec: {permissions: []}\n"


@pytest.mark.parametrize(
    ("source", "refusal"),
    [
        (
            "kind: Agent\nmetadata: {name: a}\nspec: {tools: [t], tool: x, prompt: p}",
            "source.yaml:3: unknown field `tool`",
        ),
        ("kind: Secret\nmetadata: {name: a}\nspec: {}", "source.yaml:3: the kind `Secret` cannot be imported"),
        (
            "kind: Agent\nmetadata: {name: a}\nspec: {prompt: p, tools: [t], policies: []}",
            "source.yaml:3: `spec.policies` is of the article's dialect, the rest is Orloj's own",
        ),
        (
            "kind: Agent\nmetadata: {name: a}\nspec: {prompt: p, tools: [t], roles: [r]}",
            "source.yaml:3: the role `r` is in none of the files",
        ),
        (
            ARTICLE.replace("maxCallsPerMinute", "maxCallsPerHour"),
            "source.yaml:14: unknown field `maxCallsPerHour`",
        ),
        (
            f"{ROLE}---\n{ROLE.replace('name: a', 'name: A')}",
            "source.yaml:6: the AgentRole `A` is defined twice",
        ),
    ],
)
def test_what_orloj_does_not_know_is_refused_with_its_line(source, refusal):
    found = refusals("orloj", source + "\n")
    assert any(one.startswith(refusal) for one in found), found


def test_several_files_make_one_bundle():
    parts = GOVERNANCE.split("---\n")
    assert imported("orloj", *parts).files.keys() == imported("orloj", GOVERNANCE).files.keys()
