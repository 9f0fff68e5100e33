"""tests/*.yaml: what a policy must answer, written beside the policy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

from holdfast.reasons import ReasonCode
from pydantic import AfterValidator, Field, model_validator

from services.decision.strict_model import Distinct, Items, Label, StrictModel, Text

#: A case that names no time happens on a Monday at noon.
DEFAULT_NOW: Final = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:[Zz]|[+-]\d\d:\d\d)")


def read_time(text: str) -> datetime:
    """Return an RFC 3339 time in UTC. Raises: ValueError."""
    if _TIME.fullmatch(text) is None:
        raise ValueError(f"`{text[:40]}` is not a time such as `2026-11-20T10:00:00Z`")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as failure:
        raise ValueError(f"`{text[:40]}` is not a time such as `2026-11-20T10:00:00Z`") from failure


def _time_text(text: str) -> str:
    read_time(text)
    return text


def _known_code(text: str) -> str:
    if text not in ReasonCode.__members__:
        raise ValueError(f"`{text[:60]}` is not a reason code")
    return text


class ExpectedRisk(StrictModel):
    """Bounds of the score, inclusive."""

    at_least: Annotated[int, Field(ge=0, le=100)] = 0
    at_most: Annotated[int, Field(ge=0, le=100)] = 100

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.at_least > self.at_most:
            raise ValueError("`at_least` is above `at_most`")
        return self


class Expected(StrictModel):
    """What is expected; what is left out is not looked at."""

    decision: Literal["allow", "deny", "hold"] | None = None
    reason_code: Annotated[str, AfterValidator(_known_code)] | None = None
    determining: Distinct[str] | None = None
    risk: ExpectedRisk | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("a case must expect something")
        return self


class Case(StrictModel):
    """One question and its answer."""

    name: Text
    agent: Label
    intent: Mapping[str, Any]
    now: Annotated[str, AfterValidator(_time_text)] | None = None
    approvals: Distinct[Label] = ()
    expect: Expected

    def at(self) -> datetime:
        """Return when the case happens."""
        return DEFAULT_NOW if self.now is None else read_time(self.now)


class Suite(StrictModel):
    """A file of cases."""

    suite: Text
    cases: Items[Case]
