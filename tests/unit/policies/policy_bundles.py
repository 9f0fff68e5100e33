"""Two small bundles that differ in one rule, and a question to them."""

from __future__ import annotations

from datetime import UTC, datetime

from holdfast.intent import Context, Intent, Resource

from services.decision.replay import Recorded

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CATALOG = """version: 1
categories:
  finance.refund: {description: Return money, impact: medium, effect: external, reversible: false}
  kb.read: {description: Look something up, impact: low, effect: read, reversible: true}
executors:
  payments-api: {description: Payments, max_token_seconds: 45}
actions:
  refund.create:
    category: finance.refund
    executor: payments-api
    resource: payment
    parameters:
      amount_cents: {type: integer, required: true, min: 1, max: 100000}
      iban: {type: string, personal: true}
  kb.search: {category: kb.read, executor: payments-api, resource: article}
"""
AGENT = """apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: bot, owner: support, groups: [support]}
spec:
  tools: [refund.create, kb.search]
  models: [gpt-4]
  policies:
    - {effect: allow, resource: "article/*", action: read}
"""
RULES = """@id("small-refunds")
permit (principal in AgentGroup::"support", action == Action::"refund.create", resource)
when { context.parameters.amount_cents <= 5000 && context has model && context.model == "gpt-4" }
unless { resource.labels.contains("frozen") || context.parameters has iban && context.parameters.iban == "DE0" };

@id("big-refunds") @requires_approval("finance")
forbid (principal, action == Action::"refund.create", resource)
when { context.parameters.amount_cents > 4000 };
"""
SETTINGS = "version: 1\napprovals: {roles: {finance: [alice]}}\n"
TESTS = """suite: refunds
cases:
  - name: a small refund is allowed
    agent: bot
    intent:
      action: refund.create
      resource: {type: payment, id: p1}
      parameters: {amount_cents: 100}
      context: {model: gpt-4}
    expect: {decision: allow}
"""


def files(*, rules: str = RULES, agent: str = AGENT, catalog: str = CATALOG, tests: str = TESTS) -> dict[str, bytes]:
    texts = {
        "catalog.yaml": catalog,
        "holdfast.yaml": SETTINGS,
        "agents/bot.yaml": agent,
        "rules/refunds.cedar": rules,
        "tests/refunds.yaml": tests,
    }
    return {path: text.encode() for path, text in texts.items()}


#: Everything up to 4,000 is held from 1,000 on, and refunds over 4,000 are not held any more.
LOOSER = RULES.replace("> 4000", "> 1000").replace("<= 5000", "<= 90000")


def write(directory, bundle: dict[str, bytes]):
    for path, data in bundle.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)
    return directory


def asked(
    cents: int, *, intent_id: str = "int_1", model: str | None = "gpt-4", action: str = "refund.create", **more: str
) -> Recorded:
    intent = Intent(
        action=action,
        resource=Resource(type="payment" if action == "refund.create" else "article", id="p1"),
        parameters={"amount_cents": cents, **more} if action == "refund.create" else {},
        context=Context(model=model),
    )
    return Recorded(
        intent_id=intent_id,
        agent="bot",
        intent=intent,
        received_at=NOON,
        at=NOON,
        drained=False,
        bundle=None,
        decision="",
        reason_code="",
        detail="",
        determining=(),
        risk=None,
    )
