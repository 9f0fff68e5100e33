"""Risk: points that add up, each with its reason. Source: docs/risk.md."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from services.decision.catalog import Impact, Sensitivity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from services.decision.settings import ImpactWeights, RiskSettings, Tiers, Weights

MAX_SCORE: Final = 100
#: The environment that `weights.production` speaks of.
PRODUCTION: Final = "production"
#: More calls than this in a minute count as haste.
HASTY_CALLS_PER_MINUTE: Final = 60
#: Denials beyond this many change nothing more.
MAX_COUNTED_DENIALS: Final = 10


class Tier(StrEnum):
    """What a score amounts to."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What the service saw of the agent lately.

    `recent_denials` in the last ten minutes, `velocity` in calls in the last minute, `novel` when this action on this
    type of resource, or this resource, was not allowed to the agent before.
    """

    recent_denials: int = 0
    velocity: int = 0
    novel: bool = False

    def __post_init__(self) -> None:
        """Refuse counts that would lower the risk."""
        if self.recent_denials < 0 or self.velocity < 0:
            raise ValueError("signals are counts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """One reason for points."""

    name: str
    points: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """0 (harmless) to 100 (never). The factors add up to the score, or beyond 100."""

    score: int
    tier: Tier
    factors: tuple[Factor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What the risk of one intent depends on, apart from signals and time.

    What the agent claims counts beside what is known: it can add, never lower.
    """

    impact: Impact
    reversible: bool
    environment: str
    claimed_environment: str | None = None
    sensitivity: Sensitivity

    @property
    def is_about_production(self) -> bool:
        """Whether it is about production, by what is known or by what the agent says."""
        return PRODUCTION in (self.environment, self.claimed_environment)


class Scale:
    """The risk model with one bundle's weights, tiers and working hours."""

    def __init__(self, settings: RiskSettings) -> None:
        self._weights = settings.weights
        self._tiers = settings.tiers
        self._working_hours = settings.working_hours.compiled()
        # What follows from the circumstances alone; there are 64 of them.
        self._standing: dict[tuple[Impact, bool, bool, Sensitivity], tuple[Factor, ...]] = {}

    def assess(self, circumstances: Circumstances, signals: Signals, *, agent: str, now: datetime) -> Risk:
        """Return the score with its factors. No factor is ever negative, so nothing can lower another."""
        off_hours = not self._working_hours.contains(now)
        passing = _passing(agent, signals, self._weights, off_hours=off_hours)
        factors = (*self._standing_factors(circumstances), *(factor for factor in passing if factor.points > 0))
        score = min(MAX_SCORE, sum([factor.points for factor in factors]))
        return Risk(score=score, tier=tier(score, self._tiers), factors=factors)

    def _standing_factors(self, circumstances: Circumstances) -> tuple[Factor, ...]:
        key = (
            circumstances.impact,
            circumstances.reversible,
            circumstances.is_about_production,
            circumstances.sensitivity,
        )
        found = self._standing.get(key)
        if found is None:
            standing = _standing(circumstances, self._weights)
            found = self._standing[key] = tuple(factor for factor in standing if factor.points > 0)
        return found


def tier(score: int, tiers: Tiers) -> Tier:
    """Return the tier of a score."""
    if score >= tiers.critical:
        return Tier.CRITICAL
    if score >= tiers.high:
        return Tier.HIGH
    return Tier.MEDIUM if score >= tiers.medium else Tier.LOW


def _standing(circumstances: Circumstances, weights: Weights) -> Iterator[Factor]:
    """Yield what follows from the action and what it touches."""
    impact = circumstances.impact
    yield Factor(name="impact", points=_impact(weights.impact, impact), why=f"the category's impact is {impact}")
    if circumstances.is_about_production:
        yield Factor(name="production", points=weights.production, why="it is about production")
    if not circumstances.reversible:
        yield Factor(name="irreversible", points=weights.irreversible, why="it cannot be undone")
    if circumstances.sensitivity is Sensitivity.RESTRICTED:
        yield Factor(name="sensitivity", points=weights.sensitivity.restricted, why="the resource is restricted")
    elif circumstances.sensitivity is Sensitivity.CONFIDENTIAL:
        yield Factor(name="sensitivity", points=weights.sensitivity.confidential, why="the resource is confidential")


def _passing(agent: str, signals: Signals, weights: Weights, *, off_hours: bool) -> Iterator[Factor]:
    """Yield what follows from the hour and from what the agent did lately."""
    if off_hours:
        yield Factor(name="off_hours", points=weights.off_hours, why="it is outside working hours")
    if denials := min(signals.recent_denials, MAX_COUNTED_DENIALS):
        why = f"{signals.recent_denials} intents of `{agent}` were denied lately"
        yield Factor(name="denials", points=weights.denials * denials, why=why)
    if signals.velocity > HASTY_CALLS_PER_MINUTE:
        why = f"`{agent}` made {signals.velocity} calls in a minute"
        yield Factor(name="velocity", points=weights.velocity, why=why)
    if signals.novel:
        yield Factor(
            name="novelty", points=weights.novelty, why=f"`{agent}` has not done this, or not to this resource, before"
        )


def _impact(weights: ImpactWeights, impact: Impact) -> int:
    return {
        Impact.LOW: weights.low,
        Impact.MEDIUM: weights.medium,
        Impact.HIGH: weights.high,
        Impact.CRITICAL: weights.critical,
    }[impact]
