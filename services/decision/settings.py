"""holdfast.yaml: risk, fail modes, pre-authorization, queue, approvals, break-glass, limits."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from services.decision.catalog import Impact
from services.decision.manifest import ScheduleSpec
from services.decision.strict_model import ActionName, Distinct, Items, Label, Name, StrictModel

_DAY_S = 86_400
Points = Annotated[int, Field(ge=0, le=100)]
Milliseconds = Annotated[int, Field(ge=1, le=60_000)]


class Tiers(StrictModel):
    """The lowest score of each tier; below `medium` is low."""

    medium: Annotated[int, Field(ge=1, le=100)] = 30
    high: Annotated[int, Field(ge=1, le=100)] = 60
    critical: Annotated[int, Field(ge=1, le=100)] = 85

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        if not self.medium < self.high < self.critical:
            raise ValueError("the tiers must ascend: medium < high < critical")
        return self


class ImpactWeights(StrictModel):
    """Points for a category's impact. A graver impact never weighs less."""

    low: Points = 5
    medium: Points = 20
    high: Points = 40
    critical: Points = 60

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        if not self.low <= self.medium <= self.high <= self.critical:
            raise ValueError("the weights of impact must not descend from low to critical")
        return self


class SensitivityWeights(StrictModel):
    """Points for a resource's sensitivity."""

    confidential: Points = 5
    restricted: Points = 15


class Weights(StrictModel):
    """Points per factor. Source: docs/risk.md."""

    impact: ImpactWeights = ImpactWeights()
    production: Points = 15
    irreversible: Points = 15
    sensitivity: SensitivityWeights = SensitivityWeights()
    off_hours: Points = 10
    denials: Points = 3
    velocity: Points = 10
    novelty: Points = 5


class RiskSettings(StrictModel):
    """How risk is counted."""

    tiers: Tiers = Tiers()
    weights: Weights = Weights()
    working_hours: ScheduleSpec = ScheduleSpec(timezone="UTC", allow=("Mon-Fri 08:00-18:00",))


class FailModeName(StrEnum):
    """What happens to an intent that cannot be decided."""

    CLOSED = "closed"
    OPEN = "open"


def _long_form(value: object) -> object:
    return {"mode": value} if isinstance(value, str) else value


class FailMode(StrictModel):
    """What one impact tier does when nothing can be decided. `open` is capped per minute."""

    mode: Annotated[FailModeName, Field(strict=False)] = FailModeName.CLOSED
    max_per_minute: Annotated[int, Field(ge=1, le=100_000)] | None = None

    @model_validator(mode="after")
    def _open_is_capped(self) -> Self:
        if self.mode is FailModeName.OPEN and self.max_per_minute is None:
            raise ValueError("fail-open needs `max_per_minute`")
        if self.mode is FailModeName.CLOSED and self.max_per_minute is not None:
            raise ValueError("`max_per_minute` belongs to `mode: open`")
        return self


_OPEN_SCHEMA = {
    "anyOf": [
        {"const": "closed"},
        {
            "type": "object",
            "properties": {"mode": {"enum": ["open", "closed"]}, "max_per_minute": {"type": "integer", "minimum": 1}},
            "required": ["mode"],
            "additionalProperties": False,
        },
    ]
}
_ABOVE_LOW: Final = "fail-open is refused above low"
_CLOSED_SCHEMA = {
    "anyOf": [
        {"const": "closed"},
        {"type": "object", "properties": {"mode": {"const": "closed"}}, "additionalProperties": False},
    ]
}
OpenOrClosed = Annotated[FailMode, BeforeValidator(_long_form), WithJsonSchema(_OPEN_SCHEMA)]


def _not_open(value: object) -> object:
    # Before the cap is looked at: who is told to add one would add it.
    if isinstance(value, dict) and value.get("mode") == FailModeName.OPEN:
        raise ValueError(_ABOVE_LOW)
    return value


def _closed(mode: FailMode) -> FailMode:
    if mode.mode is not FailModeName.CLOSED:
        raise ValueError(_ABOVE_LOW)
    return mode


OnlyClosed = Annotated[
    FailMode,
    BeforeValidator(_not_open),
    BeforeValidator(_long_form),
    AfterValidator(_closed),
    WithJsonSchema(_CLOSED_SCHEMA),
]


class FailModes(StrictModel):
    """Fail modes by impact. INVARIANT: nothing above low fails open."""

    low: OpenOrClosed = FailMode()
    medium: OnlyClosed = FailMode()
    high: OnlyClosed = FailMode()
    critical: OnlyClosed = FailMode()

    def of(self, impact: Impact) -> FailMode:
        """Return the mode of one impact tier."""
        return {
            Impact.LOW: self.low,
            Impact.MEDIUM: self.medium,
            Impact.HIGH: self.high,
            Impact.CRITICAL: self.critical,
        }[impact]


class PreauthorizedSeconds(StrictModel):
    """How long a pre-authorized token may live. 0 refuses; critical is never pre-authorized."""

    low: Annotated[int, Field(ge=0, le=_DAY_S)] = 3600
    medium: Annotated[int, Field(ge=0, le=_DAY_S)] = 900
    high: Annotated[int, Field(ge=0, le=_DAY_S)] = 60
    critical: Literal[0] = 0

    def of(self, impact: Impact) -> int:
        """Return the seconds of one impact tier."""
        return {
            Impact.LOW: self.low,
            Impact.MEDIUM: self.medium,
            Impact.HIGH: self.high,
            Impact.CRITICAL: self.critical,
        }[impact]


class Preauthorization(StrictModel):
    """Limits of batches."""

    max_seconds: PreauthorizedSeconds = PreauthorizedSeconds()


Lane = Annotated[int, Field(ge=0, le=3)]


class Lanes(StrictModel):
    """The lane in which an intent waits, by impact; 0 is served first."""

    low: Lane = 3
    medium: Lane = 2
    high: Lane = 1
    critical: Lane = 1

    def of(self, impact: Impact) -> int:
        """Return the lane of one impact tier."""
        return {
            Impact.LOW: self.low,
            Impact.MEDIUM: self.medium,
            Impact.HIGH: self.high,
            Impact.CRITICAL: self.critical,
        }[impact]


class QueueSettings(StrictModel):
    """How long and how many intents may wait."""

    ttl_seconds: Annotated[int, Field(ge=1, le=7 * _DAY_S)] = 900
    claim_seconds: Annotated[int, Field(ge=1, le=_DAY_S)] = 120
    max_per_agent: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    max_total: Annotated[int, Field(ge=1, le=10_000_000)] = 200_000
    lanes: Lanes = Lanes()


class Approvals(StrictModel):
    """Who may lift which holds: usernames by role."""

    roles: Mapping[Name, Distinct[Label]] = Field(default_factory=dict)


class BreakGlass(StrictModel):
    """One way around a check that is down, opened in advance. `agents` are names or globs."""

    name: Name
    categories: Annotated[Distinct[Name], Field(min_length=1)]
    agents: Annotated[Distinct[ActionName], Field(min_length=1)]
    environments: Annotated[Distinct[Label], Field(min_length=1)]
    people: Annotated[int, Field(ge=1, le=10)]
    max_minutes: Annotated[int, Field(ge=1, le=24 * 60)]
    max_uses: Annotated[int, Field(ge=1, le=100_000)]
    review_hours: Annotated[int, Field(ge=1, le=24 * 30)] = 24


class Limits(StrictModel):
    """Deadlines of the boundaries, and the lease of a cached bundle."""

    evaluation_ms: Milliseconds = 2000
    signing_ms: Milliseconds = 1000
    classification_ms: Milliseconds = 1000
    audit_ms: Milliseconds = 2000
    lease_seconds: Annotated[int, Field(ge=1, le=_DAY_S)] = 30


class Settings(StrictModel):
    """holdfast.yaml. Everything has a default."""

    version: Literal[1] = 1
    environment: Label = "production"
    risk: RiskSettings = RiskSettings()
    fail_modes: FailModes = FailModes()
    preauthorization: Preauthorization = Preauthorization()
    queue: QueueSettings = QueueSettings()
    approvals: Approvals = Approvals()
    break_glass: Items[BreakGlass] = ()
    limits: Limits = Limits()
