"""The operators' endpoints for the keys of agents and executors: list, create, rotate."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from holdfast.reasons import ReasonCode
from starlette.routing import Route

from services.administering import By
from services.credentials import MAY_ADMINISTER, Kind, Role
from services.http.orders import shown
from services.http.wire import Endpoint, json_response, line, members, read_json
from services.operators import MAX_OVERLAP, CallerChange, caller_refusal
from services.outcome import rfc3339
from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.strict_json import JSON
    from starlette.requests import Request
    from starlette.responses import Response

    from services.administering import Administering
    from services.http.callers import Callers
    from services.operators import Key
    from services.ports import StandingOrders

_MAX_NOTE: Final = 500
_MAX_NAME: Final = 256
_KEY_CHANGES: Final = (CallerChange.CREATE, CallerChange.ROTATE)


class KeyholderEndpoints:
    """`/v1/operator/agents` and `/v1/operator/executors`, as far as their keys are concerned."""

    def __init__(
        self,
        *,
        callers: Callers,
        administering: Administering,
        orders: StandingOrders,
        waiting: Callable[[str], int | None],
    ) -> None:
        self._callers = callers
        self._administering = administering
        self._orders = orders
        self._waiting = waiting

    def routes(self) -> list[Route]:
        """Return the routes."""
        found = []
        for kind in (Kind.AGENT, Kind.EXECUTOR):
            path = f"/v1/operator/{kind}s"
            found += [
                Route(path, Endpoint(partial(self._list, kind)), methods=["GET"]),
                Route(path, Endpoint(partial(self._create, kind)), methods=["POST"]),
                Route(path + "/{name}/rotate", Endpoint(partial(self._rotate, kind)), methods=["POST"]),
            ]
        return found

    async def _list(self, kind: Kind, request: Request) -> Response:
        _, role = await self._callers.operator(request)
        try:
            keys = await self._administering.keys(kind)
        except Problem:
            keys = None  # who is suspended is known in an outage too
        names = sorted(self._administering.names(kind))
        show = self._agent if kind is Kind.AGENT else _executor
        listed = [show(name, role, None if keys is None else keys.get(name, ())) for name in names]
        return json_response(200, {f"{kind}s": [*listed]})

    def _agent(self, name: str, role: Role | None, keys: Sequence[Key] | None) -> JSON:
        suspension = self._orders.current().suspension(name)
        return {
            "name": name,
            "suspended": None if suspension is None else shown(suspension),
            "keys": _keys(keys),
            "waiting": self._waiting(name),
            "allowed_actions": _actions(CallerChange, role, keys, suspended=suspension is not None),
        }

    async def _create(self, kind: Kind, request: Request) -> Response:
        username = await self._callers.require_operator(request, MAY_ADMINISTER)
        body = members(await read_json(request), {"name", "note"})
        name = line(body, "name", most=_MAX_NAME)
        made = await self._administering.create(kind, name, by=_by(username, body))
        return json_response(201, {"name": made.name, "token": made.token})

    async def _rotate(self, kind: Kind, request: Request) -> Response:
        username = await self._callers.require_operator(request, MAY_ADMINISTER)
        body = members(await read_json(request), {"overlap_seconds", "note"})
        name = request.path_params["name"]
        made = await self._administering.rotate(kind, name, overlap=_overlap(body), by=_by(username, body))
        until = None if made.old_until is None else rfc3339(made.old_until)
        return json_response(200, {"name": made.name, "token": made.token, "old_key_until": until})


def _executor(name: str, role: Role | None, keys: Sequence[Key] | None) -> JSON:
    return {
        "name": name,
        "keys": _keys(keys),
        "allowed_actions": _actions(_KEY_CHANGES, role, keys, suspended=False),
    }


def _keys(keys: Sequence[Key] | None) -> JSON:
    if keys is None:
        return None
    return [
        {
            "created_at": rfc3339(key.created_at),
            "expires_at": None if key.expires_at is None else rfc3339(key.expires_at),
        }
        for key in keys
    ]


def _actions(
    changes: Sequence[CallerChange] | type[CallerChange],
    role: Role | None,
    keys: Sequence[Key] | None,
    *,
    suspended: bool,
) -> JSON:
    found: list[JSON] = []
    for change in changes:
        refused = caller_refusal(change, role=role, suspended=suspended, has_key=bool(keys))
        why = None if refused is None else refused.why
        if keys is None and change in _KEY_CHANGES:
            why = "the keys cannot be read now"
        found.append({"action": change.value, "allowed": why is None, "reason": why})
    return found


def _overlap(body: dict[str, JSON]) -> timedelta | None:
    seconds, most = body.get("overlap_seconds"), int(MAX_OVERLAP.total_seconds())
    if seconds is None:
        return None
    if type(seconds) is not int or not 1 <= seconds <= most:
        raise Problem(400, ReasonCode.REQUEST_MALFORMED, f"`overlap_seconds` is a whole number from 1 to {most}")
    return timedelta(seconds=seconds)


def _by(username: str, body: dict[str, JSON]) -> By:
    note = None if body.get("note") is None else line(body, "note", most=_MAX_NOTE)
    return By(username=username, role=Role.ADMIN, note=note)
