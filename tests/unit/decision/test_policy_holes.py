"""Seven ways in which a policy engine says yes, or nothing, when it should say that it does not know.

The rules here are handed to the evaluator as they are, past the validation that a bundle goes through.
"""

from __future__ import annotations

import json

import cedarpy
import pytest
from bundles import errors_of, files

from services.decision import cedar
from services.decision.bundle import read_bundle
from services.decision.evaluation import ActionScope, AgentScope, EvaluationFailed, Evaluator, Question
from services.decision.rules import Rule, read_rules

BUNDLE = read_bundle(files())
ACTION = "payments.refund.create"
PERMIT = '@id("all") permit (principal, action, resource);\n'
CONTEXT = {
    "operation": ACTION,
    "environment": "production",
    "executor": "payments-api",
    "parameters": {"amount_cents": 4200, "currency": "EUR"},
    "risk": {"score": 75, "tier": "high"},
    "time": {"epoch": 0, "hour": 0, "weekday": "Thu"},
    "drained": False,
    "queue_age_seconds": 0,
}


def evaluator(text: str) -> Evaluator:
    return Evaluator(read_rules("r.cedar", text.encode()))


def ask(text: str, **context: object):
    declared = BUNDLE.catalog.actions[ACTION]
    return evaluator(text).matched(
        AgentScope.of(BUNDLE.manifests["bot"], ()),
        ActionScope(ACTION, declared, BUNDLE.catalog.categories[declared.category]),
        Question(
            resource_id="payment/p",
            resource={"type": "payment", "id": "p", "sensitivity": "internal", "labels": []},
            context={**CONTEXT, **context},
        ),
    )


def forbid(condition: str) -> str:
    return PERMIT + f'@id("no") forbid (principal, action, resource) when {{ {condition} }};'


def test_the_permit_alone_allows():
    assert ask(PERMIT).allowed


def test_a_missing_attribute_is_no_allow():
    with pytest.raises(EvaluationFailed):
        ask(forbid('context.parameters.note == "x"'))


def test_a_wrong_type_is_no_allow():
    with pytest.raises(EvaluationFailed):
        ask(forbid("context.parameters.currency > 5"))
    # In Cedar, 4200 == "4200" is simply false: the schema stands between such a value and the rule.
    with pytest.raises(EvaluationFailed):
        ask(forbid("context.parameters.amount_cents == 4200"), parameters={"amount_cents": "4200", "currency": "EUR"})


def test_an_overflow_is_no_allow():
    with pytest.raises(EvaluationFailed):
        ask(forbid("context.parameters.amount_cents * 9223372036854775807 > 0"))


def test_in_on_strings_is_no_allow_and_refused_at_load():
    condition = 'context.operation in ["payments.refund.create"]'
    with pytest.raises(EvaluationFailed):
        ask(forbid(condition))
    assert any("strict validation" in error for error in errors_of(files(refunds=forbid(condition))))


def test_an_empty_schema_does_not_pass_for_a_schema():
    """The engine takes an empty string for no schema; ours is a handle built from a document that is never empty."""
    with pytest.raises(ValueError, match="EOF"):
        cedarpy.Schema.from_json_str("")
    document = cedar.schema(BUNDLE.catalog.actions, BUNDLE.catalog.categories)
    assert set(document[""]["actions"]) > set(BUNDLE.catalog.actions)
    with pytest.raises(EvaluationFailed):
        ask(forbid("context.parameters.amount_cents > 5"), parameters={"undeclared": 1})


@pytest.mark.parametrize("value", [0.5, None, 2**63, "x" * 3, {"__extn": {"fn": "nothing", "arg": "x"}}])
def test_an_evaluator_that_gives_no_decision_is_no_allow(value):
    with pytest.raises(EvaluationFailed):
        ask(forbid("context.parameters.amount_cents > 5"), parameters={"amount_cents": value, "currency": "EUR"})


def test_no_policies_allow_nothing():
    matched = ask("")
    assert not matched.allowed
    assert matched.rules == ()


def test_a_rule_without_an_id_in_its_text_is_no_allow():
    """What cannot be named cannot be recorded."""
    nameless = Evaluator([Rule(id="x", text="permit (principal, action, resource);", forbids=False)])
    declared = BUNDLE.catalog.actions[ACTION]
    with pytest.raises(EvaluationFailed):
        nameless.matched(
            AgentScope.of(BUNDLE.manifests["bot"], ()),
            ActionScope(ACTION, declared, BUNDLE.catalog.categories[declared.category]),
            Question(
                resource_id="payment/p",
                resource={"type": "payment", "id": "p", "sensitivity": "internal", "labels": []},
                context=json.loads(json.dumps(CONTEXT)),
            ),
        )
