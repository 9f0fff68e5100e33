"""The application: FastAPI around plain ASGI endpoints."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastapi import FastAPI
from holdfast.reasons import ReasonCode
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from services.http.openapi import describe
from services.http.wire import RequestIds, problem_response
from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

_log = logging.getLogger(__name__)

_NO_ROUTE = {404: ReasonCode.NOT_FOUND, 405: ReasonCode.METHOD_NOT_ALLOWED}


def create_app(routes: Iterable[Route]) -> ASGIApp:
    """Return the application that serves `routes`, `/openapi.json` and problems for everything else."""
    app = FastAPI(
        title="Holdfast",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,  # a redirect is no answer of the contract, and would trust the Host header
    )
    app.router.routes.extend(routes)
    app.openapi = describe  # type: ignore[method-assign] # FastAPI's documented way to serve another description
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _fault)
    return RequestIds(app)


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    reason_code = _NO_ROUTE.get(status, ReasonCode.REQUEST_MALFORMED)
    response = problem_response(Problem(status, reason_code, "there is nothing here by that name and method"))
    if reason_code is ReasonCode.METHOD_NOT_ALLOWED:
        response.headers["allow"] = ", ".join(sorted(_allowed(request)))
    return response


def _allowed(request: Request) -> set[str]:
    """Return the methods of every route with this path; RFC 9110 asks for them beside a 405."""
    routes = [route for route in request.app.router.routes if isinstance(route, Route)]
    matching = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return {method for route in matching for method in route.methods or ()}


async def _fault(request: Request, error: Exception) -> Response:
    _log.error("a fault while serving %s %s", request.method, request.url.path, exc_info=error)
    detail = "the service failed while answering"
    return problem_response(Problem(503, ReasonCode.SERVICE_UNAVAILABLE, detail, retry_after_s=2))
