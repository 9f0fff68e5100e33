"""The outcomes of an evaluation, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from holdfast.reasons import Cause, ReasonCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """Permitted, by the named policies. Never built with an empty `determining`."""

    determining: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse an allow that no policy stands behind."""
        if not self.determining:
            raise ValueError("an allow names the policies that permit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny:
    """Refused by rule. Final, never queued. `detail` is for the caller."""

    reason_code: ReasonCode
    detail: str
    determining: tuple[str, ...] = ()
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalNeeded:
    """What lifts one holding rule: `count` people of `role`."""

    rule: str
    role: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Waits for people."""

    determining: tuple[str, ...]
    needed: tuple[ApprovalNeeded, ...]
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """Could not be decided. Never a rule's no."""

    reason_code: ReasonCode
    cause: Cause | None
    detail: str
    determining: tuple[str, ...] = field(default=())


Verdict: TypeAlias = Allow | Deny | Hold | Unavailable
