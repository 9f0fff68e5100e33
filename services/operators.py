"""Operators and keys as administrators see them, and who may change what about them. Pure: values in, values out.

The database holds the same rules once more, where two changes meet (`0045_operators.sql`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from holdfast.reasons import ReasonCode

from services.credentials import MAY_ADMINISTER, MAY_PERMIT, MAY_STOP, Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from services.credentials import Kind

MAX_OVERLAP: Final = timedelta(hours=24)


class Change(StrEnum):
    """What can be done about an operator."""

    ROLE = "role"
    ROTATE = "rotate"
    DISABLE = "disable"
    ENABLE = "enable"


class CallerChange(StrEnum):
    """What can be done about an agent or an executor."""

    CREATE = "create"
    ROTATE = "rotate"
    SUSPEND = "suspend"
    RESUME = "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator. `token_created_at` is None for who has no token that is good."""

    username: str
    role: Role
    created_at: datetime
    token_created_at: datetime | None = None
    disabled_at: datetime | None = None
    disabled_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key that is good; until `expires_at` where another took its place with an overlap."""

    created_at: datetime
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why not: FORBIDDEN for who asks, CONFLICT for what stands."""

    code: ReasonCode
    why: str


class Roster(Protocol):
    """Who there is. Raises: StoreUnreachable."""

    async def operators(self) -> Sequence[Operator]:
        """Return every operator by name, those who are shut out included."""
        ...

    async def keys(self, kind: Kind) -> Mapping[str, Sequence[Key]]:
        """Return the good keys of agents or executors by name, the newest first."""
        ...


def is_same_person(one: str, other: str) -> bool:
    """Return whether two names are of one person. Letter case tells nobody apart."""
    return one.casefold() == other.casefold()


def refusal(change: Change, *, by: str, role: Role | None, of: Operator, among: Iterable[Operator]) -> Refusal | None:
    """Return why `by`, who has `role`, may not make a change to `of`, or None."""
    own = is_same_person(by, of.username)
    if role not in MAY_ADMINISTER and not (change is Change.ROTATE and own):
        return Refusal(code=ReasonCode.FORBIDDEN, why=_needs(MAY_ADMINISTER))
    if change is Change.ROLE and own:
        return Refusal(code=ReasonCode.FORBIDDEN, why="nobody changes their own role")
    if change is Change.ENABLE and of.disabled_at is None:
        return Refusal(code=ReasonCode.CONFLICT, why="this operator is not disabled")
    if change in {Change.DISABLE, Change.ROTATE} and of.disabled_at is not None:
        return Refusal(code=ReasonCode.CONFLICT, why="this operator is disabled")
    if change is Change.DISABLE and not _another_administers(of, among):
        return Refusal(code=ReasonCode.CONFLICT, why="the last administrator cannot be disabled")
    return None


def caller_refusal(change: CallerChange, *, role: Role | None, suspended: bool, has_key: bool) -> Refusal | None:
    """Return why somebody with `role` may not make a change to an agent or executor, or None."""
    roles = {CallerChange.SUSPEND: MAY_STOP, CallerChange.RESUME: MAY_PERMIT}.get(change, MAY_ADMINISTER)
    if role not in roles:
        return Refusal(code=ReasonCode.FORBIDDEN, why=_needs(roles))
    why = {
        CallerChange.CREATE: "it has a key already; rotate it" if has_key else None,
        CallerChange.ROTATE: None if has_key else "it has no key; create one",
        CallerChange.SUSPEND: "it is suspended already" if suspended else None,
        CallerChange.RESUME: None if suspended else "it is not suspended",
    }[change]
    return None if why is None else Refusal(code=ReasonCode.CONFLICT, why=why)


def _another_administers(of: Operator, among: Iterable[Operator]) -> bool:
    return any(one.role in MAY_ADMINISTER and one.disabled_at is None and one.username != of.username for one in among)


def _needs(roles: Iterable[Role]) -> str:
    return f"this needs one of the roles {', '.join(sorted(roles))}"
