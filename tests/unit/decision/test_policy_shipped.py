"""The shipped bundle: clean, tested, and the same for five agents and every action of the catalogue."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bundles import NOON
from holdfast.intent import Intent, Resource
from holdfast.reasons import ReasonCode

from services.decision.bundle import read_bundle
from services.decision.golden import run_suites
from services.decision.json_schemas import documents, documents_of
from services.decision.lint import lint
from services.decision.policy import Classified, Policy, Request
from services.decision.verdict import Allow, Deny, Hold
from services.notices.configuration import NotifyFile
from services.policy_files import read_directory

ROOT = Path(__file__).parents[3]
FILES = read_directory(ROOT / "policies")
BUNDLE = read_bundle(FILES)
POLICY = Policy.compile(BUNDLE)


def test_the_shipped_bundle_has_no_finding_at_all():
    assert [str(found) for found in lint(FILES)] == []


def test_the_shipped_bundle_answers_as_its_tests_say():
    results = run_suites(POLICY, BUNDLE)
    assert [(result.name, result.differences) for result in results.failed] == []
    assert results.passed
    # Every bank account is in production, whatever the agent says: nothing can reach this bound today.
    assert [rule.id for rule in results.coverage.uncovered] == ["agent:payroll-agent:environments"]


def test_the_shipped_bundle_covers_what_its_readme_promises():
    assert len(BUNDLE.catalog.categories) >= 12
    assert len(BUNDLE.catalog.actions) >= 40
    assert len(BUNDLE.manifests) >= 6
    readme = (ROOT / "policies" / "README.md").read_text(encoding="utf-8")
    assert all(f"| {agent} |" in readme for agent in POLICY.agents)


#: What each agent can obtain with the sample parameters: `a` allow, `h` hold; everything else is a denial.
EXPECTED = {
    "customer-support-bot": {
        "kb.search": "a",
        "kb.read": "a",
        "docs.search": "a",
        "ticket.read": "a",
        "ticket.create": "a",
        "ticket.comment": "a",
        "ticket.close": "a",
        "customer.read": "a",
        "email.customer.send": "a",
    },
    "research-agent": {"kb.search": "a", "kb.read": "a", "docs.search": "a", "web.fetch": "a"},
    "deploy-agent": {
        "repo.read": "a",
        "repo.pull_request.create": "a",
        "build.run": "a",
        "deploy.release": "a",
        "deploy.rollback": "a",
        "services.read": "a",
        "services.scale": "a",
        "database.migrate": "a",
    },
    "access-agent": {"access.read": "a", "access.grant": "a", "access.revoke": "a", "secrets.rotate": "a"},
    "sre-agent": {
        "services.read": "a",
        "services.scale": "a",
        "services.restart": "a",
        "deploy.rollback": "a",
        "metrics.*": "a",
        "logs.*": "a",
        "incident.read": "a",
        "incident.open": "a",
        "incident.update": "a",
        "incident.page": "a",
        "chat.post": "a",
        "statuspage.publish": "a",
        "volumes.delete": "h",
    },
}
SAMPLES = {
    "integer": 12,
    "boolean": False,
    "string": "sample",
    "decimal": "0.5",
}


def sample(name: str) -> Intent:
    """Return an intent for an action with its required parameters and nothing else."""
    action = BUNDLE.catalog.actions[name]
    parameters = {}
    for key, declared in action.parameters.items():
        if declared.required:
            choices = getattr(declared, "enum", None)
            low = getattr(declared, "max", None)
            value = choices[0] if choices else SAMPLES[declared.type]
            parameters[key] = min(value, low) if isinstance(value, int) and low is not None else value
    kind = "sample" if action.resource == "*" else action.resource
    return Intent(action=name.replace("*", "query"), resource=Resource(type=kind, id="one"), parameters=parameters)


@pytest.mark.parametrize("agent", sorted(EXPECTED))
def test_an_agent_can_do_exactly_what_its_manifest_and_the_rules_let_it(agent):
    outcomes = {}
    for name in BUNDLE.catalog.actions:
        what = sample(name)
        classified = POLICY.classify(what)
        assert isinstance(classified, Classified), (name, classified)
        risk = POLICY.assess(what, classified, agent=agent, now=NOON)
        verdict = POLICY.evaluate(Request(agent=agent, intent=what, classified=classified, risk=risk, now=NOON))
        if isinstance(verdict, Allow):
            outcomes[name] = "a"
        elif isinstance(verdict, Hold):
            outcomes[name] = "h"
        else:
            assert isinstance(verdict, Deny)
            listed = name in EXPECTED[agent]
            assert not listed, (name, verdict)
    assert outcomes == EXPECTED[agent]


def test_the_support_bot_is_denied_the_payment_service_and_only_by_its_manifest():
    what = Intent(action="api.get", resource=Resource(type="payment-api", id="v1"), parameters={"path": "/"})
    classified = POLICY.classify(what)
    assert isinstance(classified, Classified)
    risk = POLICY.assess(what, classified, agent="customer-support-bot", now=NOON)
    verdict = POLICY.evaluate(
        Request(agent="customer-support-bot", intent=what, classified=classified, risk=risk, now=NOON)
    )
    assert isinstance(verdict, Deny)
    assert (verdict.reason_code, verdict.determining) == (
        ReasonCode.POLICY_DENIED,
        ("agent:customer-support-bot:6",),
    )


SCHEMAS = {**documents(), **documents_of({"notify.schema.json": NotifyFile})}


def test_the_published_schemas_are_those_of_the_models():
    folder = ROOT / "docs" / "schemas"
    published = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    assert published == SCHEMAS


def test_every_shipped_yaml_file_names_a_schema_that_exists():
    for path in (ROOT / "policies").rglob("*.yaml"):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        prefix = "# yaml-language-server: $schema="
        assert first.startswith(prefix), path
        assert (path.parent / first.removeprefix(prefix)).resolve().is_file(), path


def test_the_schemas_close_every_object_and_allow_no_null():
    for name, text in SCHEMAS.items():
        assert '"null"' not in text, name
        for definition in json.loads(text)["$defs"].values():
            if definition.get("type") == "object":
                assert definition["additionalProperties"] is False, (name, definition["title"])
