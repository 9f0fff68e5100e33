"""Operators and keys: who is added, shut out, given another role, another secret. Each on a commit alone.

Secrets are made here, returned once, and kept as hashes. The roles of the caller were looked up before; the database
looks again where the change is made, so that who lost the role in between changes nothing. Source: design 4.4 and 11.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from holdfast.reasons import ReasonCode

from services.boundary import BoundaryUnavailable
from services.credential_effects import AddKey, AddOperator, ChangeRole, DisableOperator, EnableOperator, RotateKey
from services.credentials import Kind, hash_password, key_hash, new_password, new_secret
from services.operators import CallerChange, Change, caller_refusal, is_same_person, refusal
from services.ports import Entry, StoreUnreachable
from services.settling import committed
from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime, timedelta

    from holdfast.strict_json import JSON

    from services.boundary import Boundary
    from services.credentials import Role
    from services.operators import Key, Operator, Refusal, Roster
    from services.ports import Clock, Effect, PolicySource, Recorder


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """Who asks, as the credential says. `note` is why, where they say so."""

    username: str
    role: Role | None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What is shown once. `old_until` is when the key before dies, None where it is dead."""

    name: str
    token: str
    password: str | None = None
    role: Role | None = None
    old_until: datetime | None = None


class Administering:
    """What administrators do. `on_change` lets this process see a change at once; others see it within a second."""

    def __init__(
        self,
        *,
        roster: Roster,
        policies: PolicySource,
        recorder: Recorder,
        audit: Boundary,
        clock: Clock,
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        self._roster = roster
        self._policies = policies
        self._recorder = recorder
        self._audit = audit
        self._clock = clock
        self._on_change = on_change

    # --- looking --------------------------------------------------------------------------------------------------

    async def operators(self) -> Sequence[Operator]:
        """Return every operator. Raises: Problem 503."""
        try:
            return await self._roster.operators()
        except StoreUnreachable as error:
            raise _unread() from error

    async def keys(self, kind: Kind) -> Mapping[str, Sequence[Key]]:
        """Return the good keys of agents or executors by name. Raises: Problem 503."""
        try:
            return await self._roster.keys(kind)
        except StoreUnreachable as error:
            raise _unread() from error

    def names(self, kind: Kind) -> frozenset[str]:
        """Return the agents or executors of the active policies."""
        policy = self._policies.current()
        return frozenset(policy.agents if kind is Kind.AGENT else policy.executors)

    # --- operators ------------------------------------------------------------------------------------------------

    async def add(self, username: str, role: Role, *, by: By) -> Made:
        """Add an operator. Raises: Problem 409 for a name that is taken, 503."""
        if any(is_same_person(one.username, username) for one in await self.operators()):
            raise Problem(409, ReasonCode.CONFLICT, "the name is taken")
        made = Made(name=username, role=role, password=new_password(), token=new_secret(Kind.OPERATOR))
        effect = AddOperator(
            username=username,
            password_hash=await asyncio.to_thread(hash_password, made.password or ""),
            role=role.value,
            key_hash=key_hash(made.token),
            at=self._clock.now(),
            by=by.username,
        )
        await self._change("operator.created", {"operator": username, "role": role.value}, effect, by=by)
        return made

    async def change_role(self, username: str, role: Role, *, by: By) -> Operator:
        """Give an operator another role. Raises: Problem 403 for one's own, 404, 409, 503."""
        operator = await self._may(Change.ROLE, username, by=by)
        if operator.role is role:
            raise Problem(409, ReasonCode.CONFLICT, f"this operator has the role {role} already")
        effect = ChangeRole(username=username, role=role.value, expect_role=operator.role.value, by=by.username)
        members: dict[str, JSON] = {"operator": username, "role": role.value, "role_before": operator.role.value}
        await self._change("operator.role_changed", members, effect, by=by)
        return replace(operator, role=role)

    async def disable(self, username: str, *, by: By) -> Operator:
        """Shut an operator out: every token of theirs is dead. Raises: Problem 403, 404, 409 for the last, 503."""
        operator, now = await self._may(Change.DISABLE, username, by=by), self._clock.now()
        effect = DisableOperator(username=username, at=now, by=by.username)
        await self._change("operator.disabled", {"operator": username}, effect, by=by)
        return replace(operator, disabled_at=now, disabled_by=by.username, token_created_at=None)

    async def enable(self, username: str, *, by: By) -> Made:
        """Let an operator in again, with a new token. Raises: Problem 403, 404, 409, 503."""
        operator = await self._may(Change.ENABLE, username, by=by)
        made = Made(name=username, role=operator.role, token=new_secret(Kind.OPERATOR))
        effect = EnableOperator(username=username, key_hash=key_hash(made.token), at=self._clock.now(), by=by.username)
        await self._change("operator.enabled", {"operator": username}, effect, by=by)
        return made

    async def rotate_operator(self, username: str, *, by: By) -> Made:
        """Give an operator a new token; the old one is dead. Raises: Problem 403, 404, 409, 503."""
        operator = await self._may(Change.ROTATE, username, by=by)
        made = Made(name=username, role=operator.role, token=new_secret(Kind.OPERATOR))
        effect = self._rotation(Kind.OPERATOR, made, by=by)
        await self._change("operator.credential_rotated", {"operator": username}, effect, by=by)
        return made

    # --- agents and executors -------------------------------------------------------------------------------------

    async def create(self, kind: Kind, name: str, *, by: By) -> Made:
        """Make a key for who has none. Raises: Problem 404 for a name that the policies have not, 409, 503."""
        await self._may_key(CallerChange.CREATE, kind, name, by=by)
        made = Made(name=name, token=new_secret(kind))
        effect = AddKey(
            kind=kind.value, subject=name, key_hash=key_hash(made.token), at=self._clock.now(), by=by.username
        )
        await self._change(f"{kind}.credential_created", {kind.value: name}, effect, by=by)
        return made

    async def rotate(self, kind: Kind, name: str, *, overlap: timedelta | None, by: By) -> Made:
        """Make a new key; the old one dies at once, or after the overlap. Raises: Problem 404, 409, 503."""
        await self._may_key(CallerChange.ROTATE, kind, name, by=by)
        until = None if overlap is None else self._clock.now() + overlap
        made = Made(name=name, token=new_secret(kind), old_until=until)
        members: dict[str, JSON] = {kind.value: name}
        if overlap is not None:
            members["overlap_s"] = int(overlap.total_seconds())
        await self._change(f"{kind}.credential_rotated", members, self._rotation(kind, made, by=by), by=by)
        return made

    # --- details --------------------------------------------------------------------------------------------------

    def _rotation(self, kind: Kind, made: Made, *, by: By) -> RotateKey:
        return RotateKey(
            kind=kind.value,
            subject=made.name,
            key_hash=key_hash(made.token),
            at=self._clock.now(),
            by=by.username,
            old_until=made.old_until,
        )

    async def _may(self, change: Change, username: str, *, by: By) -> Operator:
        everyone = await self.operators()
        operator = _named(everyone, username)
        _hold(refusal(change, by=by.username, role=by.role, of=operator, among=everyone))
        return operator

    async def _may_key(self, change: CallerChange, kind: Kind, name: str, *, by: By) -> None:
        if name not in self.names(kind):
            raise Problem(404, ReasonCode.NOT_FOUND, f"the active policies have no such {kind}")
        has_key = bool((await self.keys(kind)).get(name))
        _hold(caller_refusal(change, role=by.role, suspended=False, has_key=has_key))

    async def _change(self, kind: str, members: dict[str, JSON], effect: Effect, *, by: By) -> None:
        """Record a change with its effect. Raises: Problem 409 where it was refused, 503."""
        who: dict[str, JSON] = {"by": f"operator:{by.username}"}
        why: dict[str, JSON] = {} if by.note is None else {"note": by.note}
        entry = Entry(kind=kind, at=self._clock.now(), members=members | who | why, effect=effect)

        try:
            settled = await committed(self._recorder, self._audit, entry)
        except BoundaryUnavailable as error:
            detail = "the change could not be recorded"
            raise Problem(503, ReasonCode.AUDIT_UNAVAILABLE, detail, retry_after_s=2) from error
        with contextlib.suppress(StoreUnreachable):  # it stands; who cannot read it now reads it later
            await self._on_change()
        if not settled.applied:
            raise Problem(409, ReasonCode.CONFLICT, "somebody changed it, or who may change it, meanwhile; look again")


def _named(operators: Sequence[Operator], username: str) -> Operator:
    for operator in operators:
        if operator.username == username:
            return operator
    raise Problem(404, ReasonCode.NOT_FOUND, "there is no such operator")


def _hold(refused: Refusal | None) -> None:
    if refused is not None:
        raise Problem(403 if refused.code is ReasonCode.FORBIDDEN else 409, refused.code, refused.why)


def _unread() -> Problem:
    return Problem(503, ReasonCode.SERVICE_UNAVAILABLE, "the operators and keys cannot be read now", retry_after_s=2)
