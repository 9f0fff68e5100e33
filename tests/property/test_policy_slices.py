"""A slice of the rules answers as all of them do, and an error anywhere in them is never an allow."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache

import cedarpy
from holdfast.intent import Context, Intent, Resource
from hypothesis import given, settings
from hypothesis import strategies as st

from services.decision import cedar
from services.decision.bundle import Bundle, read_bundle
from services.decision.policy import Classified, Policy, Request
from services.decision.verdict import Allow, Deny, Hold, Unavailable

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

CATALOG = b"""version: 1
categories:
  look: {impact: low, effect: read, reversible: true}
  change: {impact: medium, effect: internal_write, reversible: true}
  send: {impact: high, effect: external, reversible: false}
executors: {api: {}}
actions:
  doc.read: {category: look, executor: api, resource: doc}
  doc.write: {category: change, executor: api, resource: doc, parameters: {size: {type: integer, required: true}}}
  mail.send: {category: send, executor: api, resource: "*", parameters: {size: {type: integer}}}
  log.*: {category: look, executor: api, resource: "*"}
"""
SETTINGS = b"version: 1\napprovals: {roles: {ops: [alice, bob]}}\n"

ACTIONS = ("doc.read", "doc.write", "mail.send", "log.*")
GROUPS = ("red", "blue")

principals = st.sampled_from(
    [
        "principal",
        'principal == Agent::"a0"',
        'principal == Agent::"a1"',
        'principal in AgentGroup::"red"',
        'principal in AgentGroup::"blue"',
        "principal is Agent",
        'principal is Agent in AgentGroup::"red"',
    ]
)
actions = st.sampled_from(
    [
        "action",
        *(f'action == Action::"{name}"' for name in ACTIONS),
        'action in Action::"effect:read"',
        'action in Action::"category:change"',
        'action in Action::"impact:high"',
        'action in [Action::"doc.read", Action::"mail.send"]',
    ]
)
conditions = st.sampled_from(
    [
        "",
        'when { resource.type == "doc" }',
        'when { resource.id like "x*" }',
        "when { context.queue_age_seconds > 3 }",
        'when { context.environment == "staging" }',
        "when { context has model }",
        'when { {c: context}.c.operation == "log.tail" }',
        "unless { context.drained }",
        # Overflows when the risk is not small.
        "when { context.risk.score * 900000000000000000 > 0 }",
        'when { context.operation == "doc.write" && context.time.epoch * 9223372036854775807 > 0 }',
    ]
)


@st.composite
def rule(draw: st.DrawFn, number: int) -> str:
    effect = draw(st.sampled_from(["permit", "permit", "forbid", '@requires_approval("ops") forbid']))
    scope = f"({draw(principals)}, {draw(actions)}, resource)"
    return f'@id("r{number}") {effect} {scope} {draw(conditions)};'


entry = st.builds(
    lambda effect, resource, action: f'{{effect: {effect}, resource: "{resource}", action: "{action}"}}',
    st.sampled_from(["allow", "allow", "deny"]),
    st.sampled_from(["*", "doc/*", "*/x*", "doc/x", "*y"]),
    st.sampled_from(["read", "write", "*", "doc.*", "doc.read", "log.tail", "log.t*"]),
)


@st.composite
def bundles(draw: st.DrawFn) -> dict[str, bytes]:
    rules = [draw(rule(number)) for number in range(draw(st.integers(0, 6)))]
    files = {"catalog.yaml": CATALOG, "holdfast.yaml": SETTINGS, "rules/r.cedar": "\n".join(rules).encode()}
    for number in range(3):
        groups = draw(st.lists(st.sampled_from(GROUPS), unique=True))
        tools = draw(st.sampled_from(["*", "doc.*, log.*", "doc.read, mail.send", "log.tail"]))
        entries = draw(st.none() | st.lists(entry, max_size=4))
        listed = "" if entries is None else f"\n  policies: [{', '.join(entries)}]"
        tools = ", ".join(f'"{tool}"' for tool in tools.split(", "))
        files[f"agents/a{number}.yaml"] = (
            "apiVersion: holdfast.dev/v1\nkind: Agent\n"
            f"metadata: {{name: a{number}, groups: [{', '.join(groups)}]}}\n"
            f"spec:\n  tools: [{tools}]\n  models: [m]{listed}\n"
        ).encode()
    return files


intents = st.builds(
    lambda action, kind, name, size, environment, model: Intent(
        action=action,
        resource=Resource(type=kind, id=name),
        parameters={} if size is None else {"size": size},
        context=Context(environment=environment, model=model),
    ),
    st.sampled_from(["doc.read", "doc.write", "mail.send", "log.tail", "log.x", "log.*"]),
    st.sampled_from(["doc", "box"]),
    st.sampled_from(["x", "x1", "y", 'q"\\*', "x/y"]),
    st.sampled_from([None, 0, 7, -(2**53) + 1]),
    st.sampled_from([None, "staging"]),
    st.sampled_from([None, "m"]),
)


@lru_cache(maxsize=1)
def whole_schema() -> str:
    bundle = read_bundle({"catalog.yaml": CATALOG})
    return json.dumps(cedar.schema(bundle.catalog.actions, bundle.catalog.categories))


def oracle(policy: Policy, bundle: Bundle, request: Request) -> tuple[bool, set[str], bool]:
    """Ask Cedar with every rule and every manifest at once, the whole schema and the whole context.

    Returns whether it allows, the matching ids it reports, and whether anything erred.
    """
    rules = [*bundle.rules, *(made for name in sorted(policy.agents) for made in policy.manifest_rules(name))]
    question = policy._question(request)
    scope = policy._agents[request.agent].scope
    resource = {"uid": {"type": "Resource", "id": question.resource_id}, "attrs": question.resource, "parents": []}
    entities = cedarpy.Entities.from_json_str(f"[{scope.entities},{json.dumps(resource)}]", whole_schema())
    answer = cedarpy.is_authorized(
        {
            "principal": {"type": "Agent", "id": request.agent},
            "action": {"type": "Action", "id": request.classified.action},
            "resource": {"type": "Resource", "id": question.resource_id},
            "context": json.dumps(question.context),
        },
        "\n".join(made.text for made in rules),
        entities,
        whole_schema(),
    )
    assert answer.decision is not cedarpy.Decision.NoDecision
    return answer.allowed, set(answer.diagnostics.id_annotations_by_reason.values()), bool(answer.diagnostics.errors)


@settings(max_examples=250, deadline=None)
@given(
    bundles(), st.lists(st.tuples(intents, st.sampled_from(["a0", "a1", "a2"])), min_size=1, max_size=4), st.booleans()
)
def test_a_slice_answers_as_the_full_set_does(files, questions, drained):
    bundle = read_bundle(files)
    policy = Policy.compile(bundle)
    for intent, agent in questions:
        classified = policy.classify(intent)
        if not isinstance(classified, Classified):
            continue
        risk = policy.assess(intent, classified, agent=agent, now=NOW)
        request = Request(
            agent=agent, intent=intent, classified=classified, risk=risk, now=NOW, drained=drained, queue_age_s=5
        )
        verdict = policy.evaluate(request)
        if policy.admit(request) is not None:
            assert isinstance(verdict, Deny)
            continue
        allowed, matched, erred = oracle(policy, bundle, request)
        if erred:
            assert isinstance(verdict, Unavailable)
        elif allowed:
            assert isinstance(verdict, Allow)
            assert set(verdict.determining) == matched
        else:
            assert isinstance(verdict, Deny | Hold)
            assert set(verdict.determining) <= matched


@settings(max_examples=100, deadline=None)
@given(bundles(), intents, st.sampled_from(["a0", "a1", "a2"]))
def test_approvals_lift_holds_and_nothing_else(files, intent, agent):
    bundle = read_bundle(files)
    policy = Policy.compile(bundle)
    classified = policy.classify(intent)
    if not isinstance(classified, Classified):
        return
    risk = policy.assess(intent, classified, agent=agent, now=NOW)
    without, approved = (
        policy.evaluate(
            Request(agent=agent, intent=intent, classified=classified, risk=risk, now=NOW, approvals=people)
        )
        for people in ((), ("alice",))
    )
    if isinstance(without, Hold):
        assert isinstance(approved, Allow)
        assert all(rule.id not in approved.determining for rule in bundle.rules if rule.forbids)
    else:
        assert approved == without


@settings(max_examples=100, deadline=None)
@given(bundles())
def test_generated_manifests_pass_cedar_s_strict_validation(files):
    policy = Policy.compile(read_bundle(files))
    text = "\n".join(made.text for name in policy.agents for made in policy.manifest_rules(name))
    result = cedarpy.validate_policies(text, whole_schema())
    assert result.validation_passed, result.errors
