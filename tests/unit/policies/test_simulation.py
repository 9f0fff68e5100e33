"""A candidate against what was asked: looser answers first."""

from __future__ import annotations

import pytest
from policy_bundles import AGENT, CATALOG, LOOSER, RULES, SETTINGS, asked, files

from services.decision.bundle import read_bundle
from services.decision.policy import Policy
from services.decision.simulation import Sameness, Simulation
from services.publishing import compile_files


def simulated(*recorded, new=LOOSER):
    simulation = Simulation(compile_files(files()), compile_files(files(rules=new)))
    for one in recorded:
        simulation.add(one)
    return simulation


def test_looser_answers_come_first_and_the_loosest_before_all():
    """6,000 is denied by default before, held after; 2,000 is allowed before, held after."""
    strict_first = asked(2000, intent_id="int_a"), asked(6000, intent_id="int_b")

    simulation = simulated(*strict_first)

    assert [found.intent_id for found in simulation.differences()] == ["int_b", "int_a"]
    assert (simulation.looser, simulation.stricter) == (1, 1)


def test_from_deny_to_allow_comes_before_from_hold_to_allow():
    nothing_held = LOOSER.partition('@id("big-refunds")')[0]

    simulation = simulated(asked(4500, intent_id="int_a"), asked(6000, intent_id="int_b"), new=nothing_held)

    assert [(found.intent_id, found.looseness) for found in simulation.differences()] == [("int_b", 2), ("int_a", 1)]


def test_the_matrix_counts_every_intent():
    simulation = simulated(asked(100), asked(2000), asked(6000), asked(1, action="kb.search"), None)

    assert sum(simulation.matrix.values()) == simulation.replayed == 4
    assert simulation.unreadable == 1


def test_a_bundle_against_itself_differs_in_nothing():
    policy = compile_files(files())
    simulation = Simulation(policy, policy)
    for cents in (1, 4500, 6000):
        simulation.add(asked(cents))

    assert simulation.differences() == []


def test_determining_rules_stand_beside_both_answers():
    found = simulated(asked(2000)).differences()[0]

    assert (found.old.determining, found.new.determining) == (("small-refunds",), ("big-refunds",))


@pytest.mark.parametrize(
    "new",
    [
        files(rules=LOOSER),
        files(rules=RULES.partition("\n\n")[2]),
        files(agent=AGENT.replace("kb.search]", "]")),
        files(catalog=CATALOG.replace("impact: medium", "impact: critical")),
        {
            **files(),
            "holdfast.yaml": b"version: 1\nrisk: {weights: {production: 60}}\napprovals: {roles: {finance: [alice]}}\n",
        },
    ],
)
def test_what_is_evaluated_once_is_answered_as_if_it_were_evaluated_twice(new):
    before, after = read_bundle(files()), read_bundle(new)
    old_policy, new_policy = Policy.compile(before), Policy.compile(after)
    short, whole = Simulation(old_policy, new_policy, Sameness(before, after)), Simulation(old_policy, new_policy)
    for recorded in (*map(asked, (1, 2000, 4500, 6000, 99_999)), asked(1, action="kb.search")):
        short.add(recorded)
        whole.add(recorded)

    assert short.to_json(limit=99) == whole.to_json(limit=99)


def test_a_changed_rule_is_a_difference_for_its_own_action_alone():
    sameness = Sameness(read_bundle(files()), read_bundle(files(rules=LOOSER)))

    assert sameness.of("bot", "refund.create") == (True, False)
    assert sameness.of("bot", "kb.search") == (True, True)


def test_a_changed_category_is_a_difference_for_its_own_actions_alone():
    graver, final = (
        Sameness(read_bundle(files()), read_bundle(files(catalog=CATALOG.replace(old, new))))
        for old, new in (("impact: medium", "impact: critical"), ("reversible: false", "reversible: true"))
    )

    assert graver.of("bot", "refund.create") == (False, False)
    assert final.of("bot", "refund.create") == (False, True)
    assert graver.of("bot", "kb.search") == final.of("bot", "kb.search") == (True, True)


def test_a_changed_weight_makes_another_question_and_no_other_answer_to_the_same_one():
    new = {**files(), "holdfast.yaml": SETTINGS.encode() + b"risk: {weights: {production: 60}}\n"}

    assert Sameness(read_bundle(files()), read_bundle(new)).of("bot", "refund.create") == (False, True)
