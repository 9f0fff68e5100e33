"""docs/risk.md says what the code does."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from holdfast.intent import Intent, Resource

from services.decision.bundle import read_bundle
from services.decision.policy import Classified, Policy, Signals
from services.decision.risk import HASTY_CALLS_PER_MINUTE, MAX_COUNTED_DENIALS
from services.decision.settings import Settings
from services.policy_files import read_directory

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "risk.md").read_text(encoding="utf-8")


def test_the_worked_example_is_what_a_run_gives():
    policy = Policy.compile(read_bundle(read_directory(ROOT / "policies")))
    intent = Intent(
        action="payments.refund.create",
        resource=Resource(type="payment", id="pay_1"),
        parameters={"amount_cents": 4200, "currency": "EUR"},
    )
    classified = policy.classify(intent)
    assert isinstance(classified, Classified)
    day, night = (
        policy.assess(intent, classified, agent="billing-agent", signals=signals, now=now)
        for now, signals in (
            (datetime(2026, 11, 20, 10, tzinfo=UTC), Signals()),
            (datetime(2026, 11, 20, 23, tzinfo=UTC), Signals(recent_denials=2, novel=True)),
        )
    )
    by_day = {factor.name: str(factor.points) for factor in day.factors}
    rows = [f"| `{factor.name}` | {by_day.get(factor.name, '')} | {factor.points} |" for factor in night.factors]
    rows.append(f"| **score** | **{day.score}, {day.tier}** | **{night.score}, {night.tier}** |")
    assert "\n".join(rows).replace("|  |", "| |") in DOCUMENT


def test_the_table_of_factors_holds_the_defaults():
    weights, tiers = Settings().risk.weights, Settings().risk.tiers
    impact = weights.impact
    for row in (
        f"| `impact` | {impact.low}, {impact.medium}, {impact.high}, {impact.critical} |",
        f"| `production` | {weights.production} |",
        f"| `irreversible` | {weights.irreversible} |",
        f"| `sensitivity` | {weights.sensitivity.confidential}, {weights.sensitivity.restricted} |",
        f"| `off_hours` | {weights.off_hours} |",
        f"| `denials` | {weights.denials} each |",
        f"| `velocity` | {weights.velocity} | more than {HASTY_CALLS_PER_MINUTE} calls",
        f"| `novelty` | {weights.novelty} |",
        f"| medium | {tiers.medium} |",
        f"| high | {tiers.high} |",
        f"| critical | {tiers.critical} |",
    ):
        assert row in DOCUMENT, row
    assert MAX_COUNTED_DENIALS == 10
    assert "ten at most" in DOCUMENT
