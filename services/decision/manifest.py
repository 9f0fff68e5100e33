"""The agent manifest: the ceiling of what one agent can do."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from services.decision.schedule import Schedule
from services.decision.strict_model import ActionName, Distinct, Items, Label, Name, Pattern, StrictModel

API_VERSION: Final = "holdfast.dev/v1"
FOREIGN_API_VERSION: Final = "orloj.dev/v1"


class EntryEffect(StrEnum):
    """What an entry does."""

    ALLOW = "allow"
    DENY = "deny"


class Entry(StrictModel):
    """One line of a manifest. `action` is `read`, `write`, `*`, or a catalogue name or glob."""

    effect: Annotated[EntryEffect, Field(strict=False)]
    resource: Pattern
    action: ActionName


class DataEntry(StrictModel):
    """One line of `dataAccess`: allow only."""

    effect: Literal["allow"] = "allow"
    resource: Pattern
    action: ActionName
    rate_limited_by: Literal["callingAgent"] | None = Field(default=None, alias="rateLimitedBy")


class RateLimit(StrictModel):
    """How much one agent may do. None is no limit."""

    max_calls_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, alias="maxCallsPerMinute"
    )
    max_tokens_per_day: Annotated[int, Field(ge=1, le=10**15)] | None = Field(default=None, alias="maxTokensPerDay")


class ScheduleSpec(StrictModel):
    """When an agent may act. An empty list is never."""

    timezone: str = "UTC"
    allow: Items[str]

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        self.compiled()
        return self

    def compiled(self) -> Schedule:
        """Return the schedule as windows of the week."""
        return Schedule.parse(self.timezone, self.allow)


class Metadata(StrictModel):
    """Who the agent is."""

    name: Name
    owner: Label = ""
    groups: Distinct[Name] = ()
    labels: Mapping[Label, Annotated[str, Field(max_length=256)]] = Field(default_factory=dict)


class Spec(StrictModel):
    """What the agent may do. An absent list of environments is all of them; an empty list is none."""

    tools: Distinct[ActionName]
    models: Distinct[Label] | None = None
    model: Label | None = None
    environments: Distinct[Label] | None = None
    policies: Items[Entry] | None = None
    data_access: Items[DataEntry] | None = Field(default=None, alias="dataAccess")
    rate_limit: RateLimit | None = Field(default=None, alias="rateLimit")
    schedule: ScheduleSpec | None = None

    @model_validator(mode="after")
    def _one_list_of_models(self) -> Self:
        if self.model is not None and self.models is not None:
            raise ValueError("`model` is the older form of `models`: write one of them")
        return self


class Manifest(StrictModel):
    """agents/NAME.yaml."""

    model_config = ConfigDict(title="Agent")

    api_version: Literal["holdfast.dev/v1", "orloj.dev/v1"] = Field(alias="apiVersion")
    kind: Literal["Agent"]
    metadata: Metadata
    spec: Spec

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.metadata.name

    @property
    def models(self) -> frozenset[str]:
        """The models that intents may name; none where the manifest lists none."""
        return frozenset(self.spec.models or ((self.spec.model,) if self.spec.model else ()))

    def entries(self) -> tuple[Entry | DataEntry, ...] | None:
        """Return policies, then dataAccess, as they are numbered from 1; None when the manifest has neither."""
        if self.spec.policies is None and self.spec.data_access is None:
            return None
        return (*(self.spec.policies or ()), *(self.spec.data_access or ()))
