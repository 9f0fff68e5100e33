"""The cast of the outage story, and the rule it judges the queue's order by."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from holdfast.reasons import ReasonCode

from console.demo import fleet
from console.demo.story import _early
from services.decision.bundle import read_bundle
from services.decision.policy import Classified, Policy, Request
from services.decision.risk import Signals
from services.decision.verdict import Allow, Deny
from services.policy_files import read_directory
from services.system import SystemClock

SHIPPED = Path(__file__).parents[3] / "policies"


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Policy:
    target = tmp_path_factory.mktemp("demo") / "policies"
    fleet.write_policies(SHIPPED, target)
    return Policy.compile(read_bundle(read_directory(target)))


def test_twenty_agents_ask_for_five_hundred_things():
    plan = fleet.outage()

    assert len(plan) == 500
    assert {planned.agent for planned in plan} == set(fleet.agents())
    assert len(fleet.agents()) == 20
    assert Counter(planned.what for planned in plan) == {
        "routine": 482,
        "access change": 12,
        "production deployment": 3,
        "scaling": 2,
        "database migration": 1,
    }
    assert len({(planned.agent, planned.key) for planned in plan}) == 500


def test_policy_allows_and_denies_what_the_story_says(policy):
    """Whatever the hour: the story is played at any time of day."""
    now = SystemClock().now()
    for planned in [*fleet.prelude(), *fleet.outage()]:
        classified = policy.classify(planned.intent)
        assert isinstance(classified, Classified), planned
        risk = policy.assess(planned.intent, classified, agent=planned.agent, signals=Signals(), now=now)
        verdict = policy.evaluate(
            Request(agent=planned.agent, intent=planned.intent, classified=classified, risk=risk, now=now)
        )
        if planned.forbidden:
            assert isinstance(verdict, Deny), planned
            assert verdict.reason_code is ReasonCode.POLICY_DENIED
        else:
            assert isinstance(verdict, Allow), planned


def test_an_order_by_lane_is_in_order():
    assert _early([1] * 100 + [2] * 100 + [3] * 300) == 0


def test_an_order_that_ignores_lanes_is_seen():
    assert _early([3] * 300 + [2] * 100 + [1] * 100) == 400


def test_within_one_window_the_order_of_finishing_is_open():
    assert _early([3] * 65 + [1]) == 1
    assert _early([3] * 64 + [1]) == 0
