"""The guard in front of a web application: an ASGI middleware, and a dependency for FastAPI.

The token travels in exactly one `Authority-Token` header. What a request will run is said by a `Bind`: a function of
the scope and the whole body, which are also what the application gets.

    def refund(scope, body):
        return Wanted(
            action="payments.refund.create",
            resource=Resource(type="payment", id=scope["path"].rsplit("/", 1)[-1]),
            parameters=strict_json.loads(body),
        )

    app = AuthorityMiddleware(app, guard, refund)

The application takes what it runs from `scope["holdfast.grant"]`.
"""

from __future__ import annotations

import inspect
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from holdfast.errors import HoldfastError, InvalidIntent, MalformedJSON, TokenRejected
from holdfast.gate import Grant, Wanted
from holdfast.reasons import ReasonCode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping

    from holdfast.executor import Guard

Scope: TypeAlias = "MutableMapping[str, Any]"
Message: TypeAlias = "MutableMapping[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[Message]]"
Send: TypeAlias = "Callable[[Message], Awaitable[None]]"
App: TypeAlias = "Callable[[Scope, Receive, Send], Awaitable[None]]"
Bind: TypeAlias = "Callable[[Scope, bytes], Wanted]"

HEADER: Final = b"authority-token"
GRANT: Final = "holdfast.grant"
MAX_BODY_BYTES: Final = 256 * 1024

_FAILED: Final = 400
_STATUS: Final = {
    ReasonCode.REQUEST_MALFORMED.value: 400,
    ReasonCode.TOKEN_INVALID.value: 401,
    ReasonCode.TOKEN_MISMATCH.value: 403,
    ReasonCode.TOKEN_REVOKED.value: 403,
    ReasonCode.TOKEN_CONSUMED.value: 409,
}
_UNAVAILABLE: Final = 503
_TOO_LATE: Final = 504


class HasBody(Protocol):
    """What a dependency needs of Starlette's `Request`."""

    @property
    def scope(self) -> Scope:
        """The ASGI scope."""
        ...

    async def body(self) -> bytes:
        """Return the whole body; the handler gets the same bytes."""
        ...


class Refusal:
    """The answer to a request that was not let in, as an ASGI application. Source: RFC 9457."""

    def __init__(self, code: str, detail: str, status: int | None = None) -> None:
        self.status = _STATUS.get(code, _UNAVAILABLE) if status is None else status
        members = {"type": "about:blank", "status": self.status, "reason_code": code, "detail": detail}
        self._body = json.dumps(members).encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the problem."""
        del scope, receive
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(self._body)).encode("ascii")),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})


class AuthorityMiddleware:
    """Lets a request through only with a token for exactly what `bind` says that it will run.

    A response of 400 or more is reported as a failed outcome. `open_paths` are served without a token, and are not for
    anything that acts. Web sockets are closed: what they will run cannot be known beforehand.
    """

    def __init__(
        self,
        app: App,
        guard: Guard,
        bind: Bind,
        *,
        open_paths: frozenset[str] = frozenset(),
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._app = app
        self._guard = guard
        self._bind = bind
        self._open_paths = open_paths
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind = scope["type"]
        if kind == "lifespan" or (kind == "http" and scope["path"] in self._open_paths):
            await self._app(scope, receive, send)
        elif kind == "http":
            await self._guarded(scope, receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": 1008})

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await _read(receive, self._max_body_bytes)
            if body is None:
                return
            token, wanted = _asked(scope, body, self._bind)
        except TokenRejected as error:
            await Refusal(error.code, error.detail)(scope, receive, send)
            return
        exchange = _Exchange(body, receive, send)
        try:
            async with AsyncExitStack() as stack:
                try:
                    grant = await stack.enter_async_context(
                        self._guard.authorize(
                            token, action=wanted.action, resource=wanted.resource, parameters=wanted.parameters
                        )
                    )
                except TokenRejected as error:
                    await Refusal(error.code, error.detail)(scope, receive, send)
                    return
                await self._app({**scope, GRANT: grant}, exchange.receive, exchange.send)
                exchange.check_success()
        except _AnsweredFailure:
            return
        except TimeoutError:
            if exchange.status is not None:
                raise
            late = Refusal(ReasonCode.SERVICE_UNAVAILABLE, "the action ran out of time", _TOO_LATE)
            await late(scope, receive, send)


def authority_dependency(
    guard: Guard, bind: Bind, request_type: type[HasBody], *, max_body_bytes: int = MAX_BODY_BYTES
) -> Callable[[HasBody], AsyncIterator[Grant]]:
    """Return a dependency that yields the `Grant` of a request: `Depends(authority_dependency(guard, bind, Request))`.

    It raises TokenRejected before the handler runs; register `rejected` for it. An exception in the handler is a
    failed outcome.
    """

    async def authority(request: HasBody) -> AsyncIterator[Grant]:
        body = await request.body()
        if len(body) > max_body_bytes:
            raise _malformed("the body is too large")
        token, wanted = _asked(request.scope, body, bind)
        async with guard.authorize(
            token, action=wanted.action, resource=wanted.resource, parameters=wanted.parameters
        ) as grant:
            yield grant

    # FastAPI injects by annotation, and this package does not know its Request.
    parameter = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=request_type)
    authority.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
    return authority


async def rejected(request: object, error: Exception) -> Refusal:
    """Answer a TokenRejected: `app.add_exception_handler(TokenRejected, rejected)`."""
    del request
    if isinstance(error, TokenRejected):
        return Refusal(error.code, error.detail)
    return Refusal(ReasonCode.SERVICE_UNAVAILABLE, "the request was not let in")


def one_token(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the token of the only `Authority-Token` header. Raises: TokenRejected for none, two, or a list."""
    values = [value for name, value in headers if name.lower() == HEADER]
    if len(values) != 1 or b"," in values[0]:
        raise TokenRejected(ReasonCode.TOKEN_INVALID, "there is not exactly one token")
    try:
        return values[0].decode("ascii")
    except UnicodeDecodeError as error:
        raise TokenRejected(ReasonCode.TOKEN_INVALID, "the token is not ASCII") from error


class _AnsweredFailure(HoldfastError):
    """The application answered 400 or more: the outcome is failed, and the answer is already out."""


class _Exchange:
    """The application's view of one request: the bytes that were bound, and whether an answer went out."""

    def __init__(self, body: bytes, receive: Receive, send: Send) -> None:
        self._body: bytes | None = body
        self._receive = receive
        self._send = send
        self.status: int | None = None

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    def check_success(self) -> None:
        if self.status is None or self.status >= _FAILED:
            raise _AnsweredFailure(str(self.status))


def _asked(scope: Scope, body: bytes, bind: Bind) -> tuple[str, Wanted]:
    token = one_token(scope["headers"])
    try:
        return token, bind(scope, body)
    except (MalformedJSON, InvalidIntent) as error:
        raise _malformed(str(error)) from error


async def _read(receive: Receive, limit: int) -> bytes | None:
    """Return the whole body, or None if the client went away. Raises: TokenRejected beyond the limit."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            raise _malformed("the body is too large")
        if not message.get("more_body", False):
            return bytes(body)


def _malformed(detail: str) -> TokenRejected:
    return TokenRejected(ReasonCode.REQUEST_MALFORMED, detail)
