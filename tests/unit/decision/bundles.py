"""A small bundle, and short ways to change it and to ask it."""

from __future__ import annotations

from datetime import UTC, datetime

from holdfast.intent import Context, Intent, Resource

from services.decision.bundle import read_bundle
from services.decision.finding import BundleInvalid, Severity
from services.decision.policy import Classified, Policy, Request, Signals

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)  # a Friday

CATALOG = """version: 1
categories:
  finance.refund: {description: Return money, impact: high, effect: external, reversible: false}
  support.read: {description: Look up, impact: low, effect: read, reversible: true}
  support.write: {description: Change a ticket, impact: medium, effect: internal_write, reversible: true}
executors:
  payments-api: {description: Payments, max_token_seconds: 45}
  ledger-api: {description: Ledger, preauthorized: false}
  kb-api: {description: Knowledge}
actions:
  payments.refund.create:
    category: finance.refund
    executor: [payments-api, ledger-api]
    resource: payment
    parameters:
      amount_cents: {type: integer, required: true, min: 1, max: 100000000, log: true}
      currency: {type: string, required: true, enum: [EUR, USD]}
      note: {type: string, max_length: 20, personal: true}
      rate: {type: decimal, min: "0.0", max: "1.0"}
      tags: {type: array, items: {type: string, max_length: 8}, max_length: 3}
      target: {type: object, fields: {iban: {type: string, required: true, personal: true}, bank: {type: string}}}
      urgent: {type: boolean, log: true}
    proof_of_possession: true
  kb.search: {category: support.read, executor: kb-api, resource: knowledge-base, additional_parameters: false}
  ticket.create: {category: support.write, executor: kb-api, resource: ticket}
  logs.*: {category: support.read, executor: kb-api, resource: "*"}
"""
RESOURCES = """version: 1
resources:
  "payment/*": {sensitivity: confidential, environment: production, labels: [pci]}
  "payment/vip-*": {sensitivity: restricted, environment: production, labels: [pci, vip]}
"""
SETTINGS = """version: 1
environment: production
approvals: {roles: {finance: [alice, bob], security: [carol]}}
"""
AGENT = """apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: bot, owner: support-team, groups: [support], labels: {tier: "2"}}
spec:
  tools: [payments.refund.create, kb.search, ticket.create, logs.*]
  models: [gpt-4]
"""
RULES = """// refunds
@id("big-refunds") @reason("refunds over 500.00 need finance") @requires_approval("finance")
forbid (principal, action == Action::"payments.refund.create", resource)
when { context.parameters.amount_cents > 50000 };

@id("huge-refunds") @reason("never")
forbid (principal, action == Action::"payments.refund.create", resource)
when { context.parameters.amount_cents > 1000000 };
"""

FILES: dict[str, str] = {
    "catalog.yaml": CATALOG,
    "resources.yaml": RESOURCES,
    "holdfast.yaml": SETTINGS,
    "agents/bot.yaml": AGENT,
    "rules/refunds.cedar": RULES,
}


def files(**changed: str | None) -> dict[str, bytes]:
    """Return the small bundle's files; keywords name a file by its stem, None removes it."""
    stems = {path.rsplit("/", 1)[-1].rsplit(".", 1)[0]: path for path in FILES}
    whole = dict(FILES)
    for stem, text in changed.items():
        if text is None:
            del whole[stems[stem]]
        else:
            whole[stems[stem]] = text
    return {path: text.encode() for path, text in whole.items()}


def policy(extra: dict[str, str] | None = None, **changed: str | None) -> Policy:
    """Return the small bundle's policy."""
    added = {path: text.encode() for path, text in (extra or {}).items()}
    return Policy.compile(read_bundle({**files(**changed), **added}))


def agent(name: str = "bot", spec: str = "tools: []", **metadata: str) -> str:
    """Return a manifest's text; `spec` is YAML with two spaces of indent."""
    described = "".join(f", {key}: {value}" for key, value in metadata.items())
    return f"apiVersion: holdfast.dev/v1\nkind: Agent\nmetadata: {{name: {name}{described}}}\nspec:\n  {spec}\n"


def intent(action: str = "payments.refund.create", resource: str = "payment/pay_1", **given: object) -> Intent:
    """Return an intent; `context` is a dict, other keywords are the parameters (a small refund's by default)."""
    context = given.pop("context", {})
    kind, _, identity = resource.partition("/")
    refund = {"amount_cents": 4200, "currency": "EUR"} if action == "payments.refund.create" else {}
    parameters = {**refund, **given}
    return Intent(
        action=action,
        resource=Resource(type=kind, id=identity),
        parameters={key: value for key, value in parameters.items() if value is not ...},
        executor=None,
        context=Context(**context),
    )


def ask(
    of: Policy,
    what: Intent,
    *,
    agent: str = "bot",
    now: datetime = NOON,
    approvals: tuple[str, ...] = (),
    **more: object,
):
    """Classify, assess and evaluate; a denial of the classification is returned as it is."""
    classified = of.classify(what)
    if not isinstance(classified, Classified):
        return classified
    risk = of.assess(what, classified, agent=agent, signals=Signals(), now=now)
    return of.evaluate(
        Request(agent=agent, intent=what, classified=classified, risk=risk, now=now, approvals=approvals, **more)
    )


def errors_of(given: dict[str, bytes]) -> list[str]:
    """Return the errors as the command line prints them; none when the bundle is accepted."""
    try:
        read_bundle(given)
    except BundleInvalid as refused:
        return [str(found) for found in refused.findings if found.severity is Severity.ERROR]
    return []


def warnings_of(given: dict[str, bytes]) -> list[str]:
    """Return the warnings of an accepted bundle."""
    return [str(found) for found in read_bundle(given).warnings]
