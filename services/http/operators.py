"""The operators' endpoints for operators: list, create, role, rotate, disable, enable."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from holdfast.reasons import ReasonCode
from starlette.routing import Route

from services.administering import By
from services.credentials import MAY_ADMINISTER, Role
from services.http.wire import Endpoint, json_response, line, members, read_json
from services.operators import Change, refusal
from services.outcome import rfc3339
from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from holdfast.strict_json import JSON
    from starlette.requests import Request
    from starlette.responses import Response

    from services.administering import Administering
    from services.http.callers import Callers
    from services.operators import Operator

_MAX_NOTE: Final = 500
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")


class OperatorEndpoints:
    """`/v1/operator/operators`."""

    def __init__(self, *, callers: Callers, administering: Administering) -> None:
        self._callers = callers
        self._administering = administering

    def routes(self) -> list[Route]:
        """Return the routes."""
        operators = "/v1/operator/operators"
        one = operators + "/{name}"
        return [
            Route(operators, Endpoint(self._list), methods=["GET"]),
            Route(operators, Endpoint(self._create), methods=["POST"]),
            Route(f"{one}/role", Endpoint(self._role), methods=["POST"]),
            Route(f"{one}/rotate", Endpoint(self._rotate), methods=["POST"]),
            Route(f"{one}/disable", Endpoint(self._disable), methods=["POST"]),
            Route(f"{one}/enable", Endpoint(self._enable), methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        username, role = await self._callers.operator(request)
        everyone, by = await self._administering.operators(), By(username=username, role=role)
        return json_response(200, {"operators": [_shown(one, among=everyone, by=by) for one in everyone]})

    async def _create(self, request: Request) -> Response:
        username = await self._callers.require_operator(request, MAY_ADMINISTER)
        body = members(await read_json(request), {"username", "role", "note"})
        name = line(body, "username", most=64)
        if _NAME.fullmatch(name) is None:
            raise _malformed("`username` is 1 to 64 letters, digits or `_.@-`, the first a letter or digit")
        made = await self._administering.add(name, _a_role(body), by=_by(username, Role.ADMIN, body))
        return json_response(201, {"username": name, "role": made.role, "password": made.password, "token": made.token})

    async def _role(self, request: Request) -> Response:
        username = await self._callers.require_operator(request, MAY_ADMINISTER)
        body = members(await read_json(request), {"role", "note"})
        by = _by(username, Role.ADMIN, body, needed=True)
        changed = await self._administering.change_role(_name(request), _a_role(body), by=by)
        return json_response(200, _document(changed))

    async def _rotate(self, request: Request) -> Response:
        username, role = await self._callers.operator(request)
        body = members(await read_json(request), {"note"})
        made = await self._administering.rotate_operator(_name(request), by=_by(username, role, body))
        return json_response(200, {"username": made.name, "token": made.token})

    async def _disable(self, request: Request) -> Response:
        username = await self._callers.require_operator(request, MAY_ADMINISTER)
        body = members(await read_json(request), {"note"})
        by = _by(username, Role.ADMIN, body, needed=True)
        return json_response(200, _document(await self._administering.disable(_name(request), by=by)))

    async def _enable(self, request: Request) -> Response:
        username = await self._callers.require_operator(request, MAY_ADMINISTER)
        body = members(await read_json(request), {"note"})
        made = await self._administering.enable(_name(request), by=_by(username, Role.ADMIN, body, needed=True))
        return json_response(200, {"username": made.name, "role": made.role, "token": made.token})


def _document(operator: Operator) -> dict[str, JSON]:
    return {
        "username": operator.username,
        "role": operator.role.value,
        "created_at": rfc3339(operator.created_at),
        "token_created_at": _moment(operator.token_created_at),
        "disabled_at": _moment(operator.disabled_at),
        "disabled_by": operator.disabled_by,
    }


def _shown(operator: Operator, *, among: Sequence[Operator], by: By) -> dict[str, JSON]:
    actions: list[JSON] = []
    for change in Change:
        why = refusal(change, by=by.username, role=by.role, of=operator, among=among)
        actions.append({"action": change.value, "allowed": why is None, "reason": None if why is None else why.why})
    return {**_document(operator), "allowed_actions": actions}


def _by(username: str, role: Role | None, body: dict[str, JSON], *, needed: bool = False) -> By:
    note = line(body, "note", most=_MAX_NOTE) if needed or body.get("note") is not None else None
    return By(username=username, role=role, note=note)


def _a_role(body: dict[str, JSON]) -> Role:
    try:
        return Role(line(body, "role", most=16))
    except ValueError as error:
        raise _malformed(f"`role` is one of {', '.join(Role)}") from error


def _name(request: Request) -> str:
    name = request.path_params["name"]
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise Problem(404, ReasonCode.NOT_FOUND, "there is no such operator")
    return name


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def _malformed(detail: str) -> Problem:
    return Problem(400, ReasonCode.REQUEST_MALFORMED, detail)
