"""The operators' endpoints for orders: halts, suspensions, boundaries, overrides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.reasons import ReasonCode
from starlette.routing import Route

from services.credentials import MAY_PERMIT, MAY_STOP, Kind
from services.decision.orders import EVERYTHING, OrderKind
from services.decision.risk import PRODUCTION
from services.http.wire import Endpoint, json_response, line, members, path_id, read_json
from services.ordering import MAX_OVERRIDE_S
from services.outcome import rfc3339
from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.strict_json import JSON
    from starlette.requests import Request
    from starlette.responses import Response

    from services.boundary import BoundaryState
    from services.decision.orders import Order
    from services.http.callers import Callers
    from services.ordering import Ordering, Taken
    from services.ports import Clock, PolicySource, StandingOrders

_MAX_TEXT: Final = 500
_MAX_PER_MINUTE: Final = 100_000
_ORDINARY_PER_MINUTE: Final = 60
_SCOPES: Final = frozenset({EVERYTHING, "agent", "category", "executor"})


class OrderEndpoints:
    """`/v1/operator/halt`, `resume`, `overrides`, `boundaries`, and the suspension of agents."""

    def __init__(
        self,
        *,
        callers: Callers,
        ordering: Ordering,
        orders: StandingOrders,
        policies: PolicySource,
        boundaries: Callable[[], Sequence[BoundaryState]],
        probe: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._callers = callers
        self._ordering = ordering
        self._orders = orders
        self._policies = policies
        self._boundaries = boundaries
        self._probe = probe
        self._clock = clock

    def routes(self) -> list[Route]:
        """Return the routes."""
        operator = "/v1/operator"
        boundary, agent = operator + "/boundaries/{name}", operator + "/agents/{name}"
        return [
            Route(f"{operator}/halt", Endpoint(self._halts), methods=["GET"]),
            Route(f"{operator}/halt", Endpoint(self._halt), methods=["POST"]),
            Route(f"{operator}/resume", Endpoint(self._resume), methods=["POST"]),
            Route(f"{operator}/overrides", Endpoint(self._overrides), methods=["GET"]),
            Route(f"{operator}/overrides", Endpoint(self._override), methods=["POST"]),
            Route(operator + "/overrides/{order_id}/end", Endpoint(self._end_override), methods=["POST"]),
            Route(f"{operator}/boundaries", Endpoint(self._list_boundaries), methods=["GET"]),
            Route(f"{boundary}/force-open", Endpoint(self._force_open), methods=["POST"]),
            Route(f"{boundary}/reset", Endpoint(self._reset), methods=["POST"]),
            Route(f"{agent}/suspend", Endpoint(self._suspend), methods=["POST"]),
            Route(f"{agent}/resume", Endpoint(self._reinstate), methods=["POST"]),
        ]

    # --- halts ----------------------------------------------------------------------------------------------------

    async def _halts(self, request: Request) -> Response:
        await self._callers.require(request, Kind.OPERATOR)
        return json_response(200, {"halts": self._standing(OrderKind.HALT)})

    async def _halt(self, request: Request) -> Response:
        by = await self._callers.require_operator(request, MAY_STOP)
        body = members(await read_json(request), {"scope", "subject", "reason"})
        return _taken(await self._ordering.halt(_scope(body), by=by, reason=line(body, "reason", most=_MAX_TEXT)))

    async def _resume(self, request: Request) -> Response:
        by = await self._callers.require_operator(request, MAY_PERMIT)
        body = members(await read_json(request), {"scope", "subject", "note"})
        ended = await self._ordering.resume(_scope(body), by=by, note=line(body, "note", most=_MAX_TEXT))
        return json_response(200, shown(ended))

    # --- overrides ------------------------------------------------------------------------------------------------

    async def _overrides(self, request: Request) -> Response:
        await self._callers.require(request, Kind.OPERATOR)
        now = self._clock.now()
        found = [shown(order) for order in self._orders.current().of(OrderKind.OVERRIDE) if order.is_in_force(now)]
        return json_response(200, {"overrides": [*found]})

    async def _override(self, request: Request) -> Response:
        by = await self._callers.require_operator(request, MAY_PERMIT)
        body = members(await read_json(request), {"tier", "reason", "expires_in", "max_per_minute"})
        order = await self._ordering.override(
            line(body, "tier", most=16),
            by=by,
            reason=line(body, "reason", most=_MAX_TEXT),
            expires_in_s=_integer(body, "expires_in", None, MAX_OVERRIDE_S),
            max_per_minute=_integer(body, "max_per_minute", _ORDINARY_PER_MINUTE, _MAX_PER_MINUTE)
            or _ORDINARY_PER_MINUTE,
        )
        return json_response(201, {**shown(order), "warnings": self._production_warnings()})

    def _production_warnings(self) -> list[JSON]:
        if self._policies.current().settings.environment != PRODUCTION:
            return []
        return ["reads pass unevaluated in production while this override stands"]

    async def _end_override(self, request: Request) -> Response:
        by = await self._callers.require_operator(request, MAY_STOP)
        note = line(members(await read_json(request), {"note"}), "note", most=_MAX_TEXT)
        ended = await self._ordering.end_override(path_id(request, "order_id"), by=by, note=note)
        return json_response(200, shown(ended))

    # --- boundaries -----------------------------------------------------------------------------------------------

    async def _list_boundaries(self, request: Request) -> Response:
        await self._callers.require(request, Kind.OPERATOR)
        return json_response(
            200,
            {
                "boundaries": [self._boundary(state) for state in self._boundaries()],
                "warnings": [str(warning) for warning in self._policies.current().warnings],
            },
        )

    async def _force_open(self, request: Request) -> Response:
        by = await self._callers.require_operator(request, MAY_STOP)
        name = self._known_boundary(request)
        reason = line(members(await read_json(request), {"reason"}), "reason", most=_MAX_TEXT)
        return _taken(await self._ordering.force_open(name, by=by, reason=reason))

    async def _reset(self, request: Request) -> Response:
        by = await self._callers.require_operator(request, MAY_STOP)
        name = self._known_boundary(request)
        note = line(members(await read_json(request), {"reason"}), "reason", most=_MAX_TEXT)
        if self._orders.current().forced(name) is not None:
            await self._ordering.release(name, by=by, note=note)
        self._probe(name)
        (state,) = (state for state in self._boundaries() if state.name == name)
        return json_response(200, self._boundary(state))

    def _known_boundary(self, request: Request) -> str:
        name = path_id(request, "name")
        if name not in {state.name for state in self._boundaries()}:
            raise Problem(404, ReasonCode.NOT_FOUND, "there is no such boundary")
        return name

    def _boundary(self, state: BoundaryState) -> dict[str, JSON]:
        forced = self._orders.current().forced(state.name)
        return {
            "name": state.name,
            "state": state.state.value,
            "last_error": state.last_error,
            "held_open": None if forced is None else shown(forced),
        }

    # --- agents ---------------------------------------------------------------------------------------------------

    async def _suspend(self, request: Request) -> Response:
        by = await self._callers.require_operator(request, MAY_STOP)
        reason = line(members(await read_json(request), {"reason"}), "reason", most=_MAX_TEXT)
        return _taken(await self._ordering.suspend(_name(request), by=by, reason=reason))

    async def _reinstate(self, request: Request) -> Response:
        by = await self._callers.require_operator(request, MAY_PERMIT)
        note = line(members(await read_json(request), {"note"}), "note", most=_MAX_TEXT)
        return json_response(200, shown(await self._ordering.reinstate(_name(request), by=by, note=note)))

    def _standing(self, kind: OrderKind) -> list[JSON]:
        return [shown(order) for order in self._orders.current().of(kind)]


def _scope(body: dict[str, JSON]) -> str:
    scope = line(body, "scope", most=16)
    if scope not in _SCOPES:
        raise Problem(400, ReasonCode.REQUEST_MALFORMED, f"`scope` is one of {', '.join(sorted(_SCOPES))}")
    if scope == EVERYTHING:
        if body.get("subject") is not None:
            raise Problem(400, ReasonCode.REQUEST_MALFORMED, "a halt of everything has no `subject`")
        return EVERYTHING
    return f"{scope}:{line(body, 'subject', most=256)}"


def _name(request: Request) -> str:
    name = request.path_params["name"]
    return name if isinstance(name, str) else ""


def _integer(body: dict[str, JSON], name: str, default: int | None, most: int) -> int | None:
    value = body.get(name, default)
    if value is not None and (type(value) is not int or not 1 <= value <= most):
        raise Problem(400, ReasonCode.REQUEST_MALFORMED, f"`{name}` is a whole number from 1 to {most}")
    return value


def _taken(taken: Taken) -> Response:
    if not taken.new:
        return json_response(200, shown(taken.order))
    return json_response(201, {**shown(taken.order), "recorded": "journal" if taken.in_journal else "database"})


def shown(order: Order) -> dict[str, JSON]:
    """Return an order as operators see it."""
    kind, _, subject = order.scope.partition(":")
    scope: dict[str, JSON] = {"scope": order.scope}
    if order.kind is OrderKind.HALT:
        scope = {"scope": kind, "subject": subject or None}
    return {
        "order_id": order.order_id,
        "kind": order.kind.value,
        **scope,
        "reason": order.reason,
        "by": order.issued_by,
        "at": rfc3339(order.issued_at),
        "expires_at": None if order.expires_at is None else rfc3339(order.expires_at),
        "ended_at": None if order.ended_at is None else rfc3339(order.ended_at),
        **order.document,
    }
