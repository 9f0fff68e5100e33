"""HTTP/1.1 as it arrives: what the parser refuses is a problem of the contract too, and a head is bounded."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from holdfast.reasons import ReasonCode
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.http.wire import problem_response
from services.submissions import Problem

if TYPE_CHECKING:
    from starlette.responses import Response
    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

#: Request line and headers. What one read brings beyond it is let through: reads are bounded by themselves.
MAX_HEAD_BYTES: Final = 64 * 1024
#: Where a request's scope holds what ends its connection at once, with whatever its reader did not take.
ABORT: Final = "holdfast.abort"


class ContractProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, with the contract's answer to what is not HTTP."""

    _in_head = False
    _head_bytes = 0
    _running: RequestResponseCycle | None = None

    def data_received(self, data: bytes) -> None:
        """Take what the socket brought."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response(f"the request's head is larger than {MAX_HEAD_BYTES} bytes")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Start to count a head."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop counting."""
        self._in_head = False
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered that nobody listens; uvicorn tells only the last pipelined one."""
        if self._running is not None:
            self._running.disconnected = True
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        cycle.scope[ABORT] = self.transport.abort  # type: ignore[typeddict-unknown-key] # ours, beside ASGI's
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused, and close: nobody knows where the next request would start."""
        response = problem_response(Problem(400, ReasonCode.REQUEST_MALFORMED, msg))
        self.transport.write(_on_the_wire(response))
        self.transport.close()


def _on_the_wire(response: Response) -> bytes:
    headers = [
        *response.raw_headers,
        (b"x-request-id", b"req_" + secrets.token_hex(12).encode("ascii")),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
    ]
    lines = [b"HTTP/1.1 400 Bad Request", *(name + b": " + value for name, value in headers), b"", b""]
    return b"\r\n".join(lines) + bytes(response.body)
