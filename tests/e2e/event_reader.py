"""A reader of server-sent events over a plain socket, as careful or as careless as a test wants it."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from e2e.running_service import RunningService

PATIENCE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Event:
    id: str
    name: str
    data: dict[str, Any]


class EventReader:
    """One connection. `status` and `headers` are read at once, events as they are asked for."""

    def __init__(
        self,
        service: RunningService,
        path: str,
        *,
        agent: str = "alpha",
        last_event_id: str | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(("127.0.0.1", service.port))
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {service.key('agent', agent)}"]
        if last_event_id is not None:
            lines.append(f"Last-Event-ID: {last_event_id}")
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._left = b""
        head = self._until(b"\r\n\r\n").decode()
        status, *headers = head.split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in headers)}
        self._chunked = b""
        self.last_event_id = last_event_id
        self.retry_ms: int | None = None

    def block(self) -> dict[str, str] | None:
        """Return the next block's fields, None when the stream has ended."""
        while b"\n\n" not in self._chunked:
            size = int(self._until(b"\r\n"), 16)
            if size == 0:
                return None
            while len(self._left) < size + 2:
                self._receive()
            self._chunked += self._left[:size]
            self._left = self._left[size + 2 :]
        block, _, self._chunked = self._chunked.partition(b"\n\n")
        fields = {}
        for line in block.decode().split("\n"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        if "id" in fields:
            self.last_event_id = fields["id"]
        if "retry" in fields:
            self.retry_ms = int(fields["retry"])
        return fields

    def next(self) -> Event | None:
        """Return the next event, None when the stream has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            fields = self.block()
            if fields is None:
                return None
            if "data" in fields:
                return Event(id=fields["id"], name=fields["event"], data=json.loads(fields["data"]))
        raise TimeoutError("no event came")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._left:
            self._receive()
        found, _, self._left = self._left.partition(mark)
        return found

    def _receive(self) -> None:
        piece = self._socket.recv(65536)
        if not piece:
            raise ConnectionError("the service closed the connection")
        self._left += piece
