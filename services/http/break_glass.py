"""The operators' endpoints for break-glass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from holdfast.reasons import ReasonCode
from starlette.routing import Route

from services.credentials import MAY_STOP, Kind
from services.http.wire import Endpoint, json_response, line, members, path_id, read_json
from services.outcome import rfc3339
from services.ports import StoreUnreachable
from services.submissions import Problem

if TYPE_CHECKING:
    from datetime import datetime

    from holdfast.strict_json import JSON
    from starlette.requests import Request
    from starlette.responses import Response

    from services.activations import BreakGlassLedger
    from services.break_glass import BreakGlass, Changed
    from services.decision.orders import Order
    from services.http.callers import Callers
    from services.ports import Clock
    from services.postgres.reviews import PostgresReviews

_MAX_TEXT: Final = 500
_MAX_MINUTES: Final = 24 * 60
_MAX_LISTED: Final = 500


class BreakGlassEndpoints:
    """`/v1/operator/break-glass`."""

    def __init__(
        self,
        *,
        callers: Callers,
        break_glass: BreakGlass,
        reviews: PostgresReviews,
        ledger: BreakGlassLedger,
        clock: Clock,
    ) -> None:
        self._callers = callers
        self._break_glass = break_glass
        self._reviews = reviews
        self._ledger = ledger
        self._clock = clock

    def routes(self) -> list[Route]:
        """Return the routes."""
        path = "/v1/operator/break-glass"
        one = path + "/{activation_id}"
        return [
            Route(path, Endpoint(self._list), methods=["GET"]),
            Route(path, Endpoint(self._activate), methods=["POST"]),
            Route(one, Endpoint(self._show), methods=["GET"]),
            Route(f"{one}/confirm", Endpoint(self._confirm), methods=["POST"]),
            Route(f"{one}/revoke", Endpoint(self._revoke), methods=["POST"]),
        ]

    # --- break-glass ----------------------------------------------------------------------------------------------

    async def _list(self, request: Request) -> Response:
        await self._callers.require(request, Kind.OPERATOR)
        return json_response(200, {"activations": [self._shown(order) for order in self._break_glass.activations()]})

    async def _show(self, request: Request) -> Response:
        await self._callers.require(request, Kind.OPERATOR)
        activation_id = path_id(request, "activation_id")
        await self._break_glass.hear_of(activation_id)
        order = self._break_glass.activation(activation_id)
        now = self._clock.now()
        reviews: list[JSON] | None
        try:
            reviews = [use.to_json(now) for use in await self._reviews.of(order.order_id, limit=_MAX_LISTED)]
        except StoreUnreachable:
            reviews = None  # how often it was used is known all the same
        return json_response(200, {**self._shown(order), "reviews": reviews})

    async def _activate(self, request: Request) -> Response:
        by = await self._callers.require_operator(request, MAY_STOP)
        body = members(await read_json(request), {"policy", "reason", "incident", "minutes"})
        minutes = body.get("minutes")
        if type(minutes) is not int or not 1 <= minutes <= _MAX_MINUTES:
            raise Problem(400, ReasonCode.REQUEST_MALFORMED, f"`minutes` is a whole number from 1 to {_MAX_MINUTES}")
        changed = await self._break_glass.activate(
            line(body, "policy", most=_MAX_TEXT),
            by=by,
            reason=line(body, "reason", most=_MAX_TEXT),
            incident=line(body, "incident", most=_MAX_TEXT),
            minutes=minutes,
        )
        return self._changed(201, changed)

    async def _confirm(self, request: Request) -> Response:
        by = await self._callers.require_operator(request, MAY_STOP)
        members(await read_json(request), frozenset())
        return self._changed(200, await self._break_glass.confirm(path_id(request, "activation_id"), by=by))

    async def _revoke(self, request: Request) -> Response:
        by = await self._callers.require_operator(request, MAY_STOP)
        note = line(members(await read_json(request), {"note"}), "note", most=_MAX_TEXT)
        return self._changed(200, await self._break_glass.revoke(path_id(request, "activation_id"), by=by, note=note))

    def _changed(self, status: int, changed: Changed) -> Response:
        recorded = "journal" if changed.in_journal else "database"
        return json_response(status, {**self._shown(changed.activation), "recorded": recorded})

    def _shown(self, order: Order) -> dict[str, JSON]:
        people: list[JSON] = [*order.confirmed_by]
        return {
            "activation_id": order.order_id,
            "policy": order.scope,
            "state": _state(order, self._clock.now()),
            "reason": order.reason,
            "by": order.issued_by,
            "at": rfc3339(order.issued_at),
            "people": order.people,
            "confirmed_by": people,
            "in_force_at": _time(order.in_force_at),
            "expires_at": _time(order.expires_at),
            "ended_at": _time(order.ended_at),
            "uses": self._ledger.used(order.order_id),
            **order.document,
        }


def _state(order: Order, now: datetime) -> str:
    if order.ended_at is not None:
        return "revoked"
    if order.expires_at is None or order.expires_at <= now:
        return "lapsed" if order.in_force_at is None else "expired"
    return "pending" if order.in_force_at is None else "in_force"


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)
