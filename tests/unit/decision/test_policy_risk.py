"""Points that add up, and that nothing an agent says can take away."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bundles import NOON, SETTINGS, intent, policy
from holdfast.intent import Context

from services.decision.policy import Classified, Signals

POLICY = policy()
NIGHT = datetime(2026, 11, 20, 23, 0, tzinfo=UTC)
SATURDAY = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def assess(what=None, *, of=POLICY, now=NOON, **signals):
    what = what or intent()
    classified = of.classify(what)
    assert isinstance(classified, Classified)
    return of.assess(what, classified, agent="bot", signals=Signals(**signals), now=now)


def test_the_factors_are_named_and_add_up():
    risk = assess(now=NIGHT, recent_denials=2, novel=True)
    assert {factor.name: factor.points for factor in risk.factors} == {
        "impact": 40,
        "production": 15,
        "irreversible": 15,
        "sensitivity": 5,
        "off_hours": 10,
        "denials": 6,
        "novelty": 5,
    }
    assert risk.score == 96
    assert risk.tier == "critical"
    assert all(factor.why for factor in risk.factors)


def test_a_harmless_read_is_low():
    risk = assess(replace(intent("kb.search", "knowledge-base/a"), context=Context(environment="staging")))
    assert (risk.score, risk.tier) == (5, "low")


@pytest.mark.parametrize(
    "now", [NIGHT, SATURDAY, datetime(2026, 11, 20, 18, 0, tzinfo=UTC), datetime(2026, 11, 20, 7, 59, tzinfo=UTC)]
)
def test_off_hours_add(now):
    assert assess(now=now).score == assess().score + 10


@pytest.mark.parametrize(
    ("now", "outside"),
    [
        (datetime(2026, 11, 17, 20, 59, tzinfo=UTC), True),
        (datetime(2026, 11, 17, 21, 0, tzinfo=UTC), False),  # Tuesday, 22:00 in Berlin
        (datetime(2026, 11, 18, 0, 59, tzinfo=UTC), False),
        (datetime(2026, 11, 18, 1, 0, tzinfo=UTC), True),
        (datetime(2026, 11, 18, 12, 0, tzinfo=UTC), True),
    ],
)
def test_a_change_window_is_written_as_working_hours(now, outside):
    window = 'risk: {working_hours: {timezone: Europe/Berlin, allow: ["Tue 22:00-24:00", "Wed 00:00-02:00"]}}\n'
    factors = assess(of=policy(holdfast=SETTINGS + window), now=now).factors
    assert ("off_hours" in {factor.name for factor in factors}) == outside


def test_the_score_stops_at_a_hundred_though_the_factors_go_on():
    risk = assess(now=NIGHT, recent_denials=1000, velocity=1000, novel=True)
    assert risk.score == 100
    assert sum(factor.points for factor in risk.factors) > 100


def test_haste_is_more_than_sixty_calls_a_minute():
    assert assess(velocity=60).score == assess().score
    assert assess(velocity=61).score == assess().score + 10


def test_a_restricted_resource_weighs_more():
    assert assess(intent(resource="payment/vip-1")).score == assess().score + 10


def test_the_tiers_begin_where_the_settings_say():
    for threshold, tier in ((75, "medium"), (76, "low")):
        of = policy(holdfast=SETTINGS + f"risk: {{tiers: {{medium: {threshold}, high: 90, critical: 95}}}}\n")
        assert assess(of=of).tier == tier


def test_working_hours_have_a_time_zone():
    text = SETTINGS + 'risk: {working_hours: {timezone: America/New_York, allow: ["Mon-Fri 08:00-18:00"]}}\n'
    assert assess(of=policy(holdfast=text), now=NOON).score == assess().score + 10  # seven in the morning there


def test_a_claim_can_add_to_the_risk_and_never_lower_it():
    quiet = policy(holdfast="version: 1\nenvironment: staging\napprovals: {roles: {finance: [alice]}}\n")
    ticket = intent("ticket.create", "ticket/1")
    claimed = replace(ticket, context=Context(environment="production"))
    assert assess(claimed, of=quiet).score == assess(ticket, of=quiet).score + 15
    for environment in ("staging", "test", "production"):
        assert assess(replace(intent(), context=Context(environment=environment))).score == assess().score


def test_counts_below_zero_are_refused():
    for wrong in ({"recent_denials": -1}, {"velocity": -1}):
        with pytest.raises(ValueError, match="counts"):
            Signals(**wrong)
