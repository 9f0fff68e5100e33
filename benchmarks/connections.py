"""A minimal HTTP/1.1 client: keep-alive connections, one request at a time on each, answers as they are."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, cast

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable

#: Servers close a connection that idles for some seconds; uvicorn after five.
_MAX_IDLE_NS: Final = 3_000_000_000
_REFRESH_S: Final = 0.5


class Receiver(Protocol):
    """Who is told what became of a request."""

    def answered(self, number: int, at_ns: int, status: int, body: bytes) -> None:
        """Take an answer. `at_ns` is the monotonic time at which its last bytes were there."""
        ...

    def lost(self, number: int, at_ns: int) -> None:
        """Learn that the connection went before the answer came."""
        ...


class Connections:
    """A fixed number of connections. A request that finds all of them busy waits its turn, and its clock runs."""

    def __init__(self, host: str, port: int, *, count: int, receiver: Receiver) -> None:
        self._address = host, port
        self._count = count
        self._receiver = receiver
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._all: set[_Connection] = set()
        self._reopening: set[asyncio.Task[None]] = set()
        self._refreshing: asyncio.TimerHandle | None = None
        self._closing = False

    async def open(self) -> None:
        """Connect. Raises: OSError."""
        for _ in range(self._count):
            await self._connect()
        self._refresh()

    def send(self, number: int, request: bytes) -> None:
        """Send the bytes of request `number` as soon as a connection is free."""
        # The last used first, as a client's pool does: what a busy connection costs is seen, too.
        if self._idle:
            self._idle.pop().send(number, request)
        else:
            self._waiting.append((number, request))

    def close(self) -> None:
        """Close them all."""
        self._closing = True
        if self._refreshing is not None:
            self._refreshing.cancel()
        for task in self._reopening:
            task.cancel()
        for connection in list(self._all):
            connection.close()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self), *self._address)
        self._all.add(connection)
        self._free(connection, self._idle.appendleft)

    def _free(self, connection: _Connection, rest: Callable[[_Connection], None]) -> None:
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            connection.idle_since_ns = time.monotonic_ns()
            rest(connection)

    def _refresh(self) -> None:
        """Replace what idled for long, before the server closes it under a request."""
        oldest_ns = time.monotonic_ns() - _MAX_IDLE_NS
        for connection in [one for one in self._idle if one.idle_since_ns < oldest_ns]:
            self._idle.remove(connection)
            connection.close()
        self._refreshing = asyncio.get_running_loop().call_later(_REFRESH_S, self._refresh)

    def answered(self, connection: _Connection, number: int, at_ns: int, status: int, body: bytes) -> None:
        """Pass an answer on."""
        self._receiver.answered(number, at_ns, status, body)
        self._free(connection, self._idle.append)

    def gone(self, connection: _Connection, number: int | None) -> None:
        """Replace a connection that was closed by the other side."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._closing:
            return
        if number is not None:
            self._receiver.lost(number, time.monotonic_ns())
        task = asyncio.get_running_loop().create_task(self._reopen())
        self._reopening.add(task)
        task.add_done_callback(self._reopening.discard)

    async def _reopen(self) -> None:
        """Connect again, as long as it takes: until then there is one connection less, and requests wait."""
        while True:
            try:
                await self._connect()
            except OSError:
                await asyncio.sleep(0.05)
            else:
                return


class _Connection(asyncio.Protocol):
    """One connection. The methods without a docstring are httptools' callbacks."""

    def __init__(self, pool: Connections) -> None:
        self._pool = pool
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self.idle_since_ns = 0
        self._number: int | None = None
        self._body: list[bytes] = []
        self._at_ns = 0

    def send(self, number: int, request: bytes) -> None:
        """Write a request in one piece."""
        self._number = number
        self._transport.write(request)

    def close(self) -> None:
        """Close it."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport. The loop has set TCP_NODELAY."""
        # A TCP connection's transport; uvloop's is one by its methods, not by its class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read, with the time at which it was there."""
        self._at_ns = time.monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter to the figures
        """Say that it is gone."""
        number, self._number = self._number, None
        self._pool.gone(self, number)

    def on_message_begin(self) -> None:
        self._body = []

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        number, self._number = self._number, None
        if number is not None:
            status = self._parser.get_status_code()
            self._pool.answered(self, number, self._at_ns, status, b"".join(self._body))
