"""Why a decision is what it is: rule, condition, values, and what came nearest."""

from __future__ import annotations

import pytest
from policy_bundles import RULES, asked, files

from services.decision.explain import Holds, explain
from services.decision.policy import Classified
from services.decision.replay import request_of
from services.publishing import compile_files


def explained(recorded, bundle=None):
    policy = compile_files(bundle or files())
    classified = policy.classify(recorded.intent)
    assert isinstance(classified, Classified)
    risk = policy.assess(recorded.intent, classified, agent=recorded.agent, now=recorded.at)
    return explain(policy, request_of(recorded, classified, risk))


def rule(found, name):
    return next(one for one in (*found.rules, *found.nearest) if one.rule.id == name)


def test_an_allow_names_the_rule_its_conditions_and_their_values():
    found = explained(asked(100))

    permit = rule(found, "small-refunds")
    assert found.answer.determining == ("small-refunds",)
    assert permit.matched
    assert [part.holds for part in permit.parts] == [Holds.YES] * 5
    assert [(value.name, value.value) for value in permit.parts[0].values] == [("context.parameters.amount_cents", 100)]


def test_a_hold_names_the_forbid_that_holds_it():
    found = explained(asked(4500))

    assert found.answer.determining == ("big-refunds",)
    assert {one.rule.id for one in found.rules if one.matched} == {"small-refunds", "big-refunds"}


def test_a_default_deny_names_the_nearest_permit_and_the_one_condition_that_failed():
    found = explained(asked(6000))

    nearest = found.nearest[0]
    assert found.answer.reason_code == "NO_MATCHING_POLICY"
    assert nearest.rule.id == "small-refunds"
    assert [part.holds for part in nearest.parts].count(Holds.NO) == 1
    assert nearest.parts[0].holds is Holds.NO


def test_permits_are_nearest_first():
    rules = RULES + '@id("far") permit (principal, action == Action::"refund.create", resource)\n'
    rules += "when { context.parameters.amount_cents < 1 && context.risk.score < 0 };\n"

    found = explained(asked(6000), files(rules=rules))

    assert [one.rule.id for one in found.nearest][:2] == ["small-refunds", "far"]


def test_a_condition_behind_a_missing_attribute_was_not_reached():
    """`context.model` errs without `has`, and Cedar never gets to it."""
    found = explained(asked(100, model=None))

    parts = rule(found, "small-refunds").parts
    assert [part.holds for part in parts[:3]] == [Holds.YES, Holds.NO, Holds.NOT_REACHED]
    assert [value.present for value in parts[1].values] == [False]


def test_an_unless_that_is_so_is_the_part_that_failed():
    found = explained(asked(100, iban="DE0"))

    parts = rule(found, "small-refunds").parts
    failed = [part for part in parts if part.holds is Holds.NO]
    assert len(failed) == 1
    assert failed[0].unless


def test_a_personal_value_is_never_shown():
    found = explained(asked(100, iban="DE0"))

    assert "DE0" not in [value.value for one in found.rules for part in one.parts for value in part.values]
    assert "(personal)" in [value.value for one in found.rules for part in one.parts for value in part.values]


@pytest.mark.parametrize("cents", [1, 4000, 4001, 5000, 5001, 99_999])
@pytest.mark.parametrize("model", ["gpt-4", None])
def test_what_decided_is_among_what_matched(cents, model):
    found = explained(asked(cents, model=model))

    assert set(found.answer.determining) <= {one.rule.id for one in found.rules if one.matched}
