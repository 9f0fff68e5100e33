"""Bytes in, bytes out: bounded bodies, strict JSON, problems, request ids."""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import TYPE_CHECKING, Final, TypeVar

import orjson
from holdfast import strict_json
from holdfast.errors import MalformedJSON
from holdfast.reasons import ReasonCode
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from collections.abc import Set as AbstractSet

    from holdfast.strict_json import JSON
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_T = TypeVar("_T")

MAX_BODY_BYTES: Final = 256 * 1024
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_PATH_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REQUEST_ID_HEADER: Final = "x-request-id"
_RETRY_SPREAD_S: Final = 5

_TITLES: Final[Mapping[int, str]] = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    410: "Gone",
    422: "Unprocessable Content",
    503: "Service Unavailable",
}


class Endpoint:
    """An ASGI endpoint around one handler; a Problem becomes its response. No framework layer on the hot path."""

    def __init__(self, handler: Callable[[Request], Awaitable[Response]]) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            response = await self._handler(Request(scope, receive))
        except Problem as problem:
            response = problem_response(problem)
        except ClientDisconnect:
            return
        await response(scope, receive, send)


class RequestIds:
    """Puts `X-Request-ID` on every response: the caller's own, if it is well formed, or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(_REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else "req_" + secrets.token_hex(12)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[_REQUEST_ID_HEADER] = request_id
                headers["cache-control"] = headers.get("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_id)


async def read_json(request: Request, *, max_bytes: int = MAX_BODY_BYTES) -> JSON:
    """Return the body as strict JSON. Raises: Problem 400."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise Problem(400, ReasonCode.REQUEST_MALFORMED, f"the body is larger than {max_bytes} bytes")
        chunks.append(chunk)
    try:
        return strict_json.loads(b"".join(chunks))
    except MalformedJSON as error:
        raise Problem(400, ReasonCode.REQUEST_MALFORMED, str(error)) from error


def members(body: JSON, known: AbstractSet[str]) -> dict[str, JSON]:
    """Return the body's members. Raises: Problem 400 unless it is an object with no others than `known`."""
    if not isinstance(body, dict) or body.keys() - known:
        raise Problem(400, ReasonCode.REQUEST_MALFORMED, f"the body is an object with {', '.join(sorted(known))}")
    return body


def line(body: Mapping[str, JSON], name: str, *, most: int) -> str:
    """Return a member that is one line of text with at most `most` characters. Raises: Problem 400."""
    found = body.get(name)
    if not isinstance(found, str) or not found.strip() or len(found) > most or not found.isprintable():
        raise Problem(400, ReasonCode.REQUEST_MALFORMED, f"`{name}` is a line of 1 to {most} characters")
    return found


async def while_connected(request: Request, answer: Coroutine[None, None, _T]) -> _T:
    """Return the answer; give it up when its caller leaves. Raises: ClientDisconnect."""
    answering, leaving = asyncio.create_task(answer), asyncio.create_task(left(request.receive))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise ClientDisconnect
    finally:
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def left(receive: Receive) -> None:
    """Return when the caller has closed the connection. What else it sends is nobody's business."""
    while (await receive())["type"] != "http.disconnect":
        pass


def path_id(request: Request, name: str) -> str:
    """Return the id in the path. Raises: Problem 404 for what no id looks like."""
    given = request.path_params[name]
    if not isinstance(given, str) or _PATH_ID.fullmatch(given) is None:
        raise Problem(404, ReasonCode.NOT_FOUND, "there is nothing by that id")
    return given


def query(request: Request, known: AbstractSet[str]) -> dict[str, str]:
    """Return the query. Raises: Problem 400 for a parameter that is unknown, stands twice, or holds a NUL."""
    pairs = request.query_params.multi_items()
    found = dict(pairs)
    if found.keys() - known:
        names = ", ".join(sorted(known)) or "none here"
        raise Problem(400, ReasonCode.REQUEST_MALFORMED, f"the query's parameters are {names}")
    if len(found) != len(pairs) or any("\x00" in value for value in found.values()):
        raise Problem(400, ReasonCode.REQUEST_MALFORMED, "a parameter of the query stands twice or holds a NUL")
    return found


def json_response(status: int, body: Mapping[str, JSON], *, retry_after_s: int | None = None) -> Response:
    """Return `body` as JSON."""
    headers = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
    return Response(orjson.dumps(body), status_code=status, media_type="application/json", headers=headers)


def problem_response(problem: Problem) -> Response:
    """Return RFC 9457 problem details."""
    body = {
        "type": "about:blank",
        "title": _TITLES.get(problem.status, "Error"),
        "status": problem.status,
        "detail": problem.detail,
        "reason_code": problem.reason_code.value,
        **problem.members,
    }
    headers = {}
    if problem.retry_after_s is not None:
        # Callers that were refused together must not come back together.
        headers["retry-after"] = str(problem.retry_after_s + secrets.randbelow(_RETRY_SPREAD_S))
    if problem.status == 401:  # noqa: PLR2004 - HTTP
        headers["www-authenticate"] = "Bearer"
    return Response(
        orjson.dumps(body), status_code=problem.status, media_type="application/problem+json", headers=headers
    )
