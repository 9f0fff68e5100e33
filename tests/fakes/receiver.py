"""A real HTTP server on loopback that receives, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self):
        return json.loads(self.body)


HANG = "hang"
CLOSE = "close"
ENDLESS = "endless"
BROKEN = "broken"  # a 200 whose body breaks off
SILENT = "silent"  # a 200 whose body never comes


class HTTPReceiver:
    """Answers what `script` says next: a status, (status, headers) or one of the words above; 204 when it is empty."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.script: deque = deque()
        self.always = 204
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/hook"

    async def got(self, count: int) -> list[Received]:
        """Return once `count` requests have come."""
        async with asyncio.timeout(20):
            while len(self.received) < count:  # noqa: ASYNC110 - a fake has no event for everything
                await asyncio.sleep(0.005)
        return self.received

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.received.append(Received(method, path, headers, body))
                if not await self._answer(writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, writer: asyncio.StreamWriter) -> bool:
        answer = self.script.popleft() if self.script else self.always
        if answer == HANG:
            await asyncio.sleep(3600)
        if answer == CLOSE:
            return False
        if answer in (BROKEN, SILENT):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nsome")
            await writer.drain()
            if answer == SILENT:
                await asyncio.sleep(3600)
            return False
        if answer == ENDLESS:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
                await writer.drain()
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
        if status != 204:
            lines.append("content-length: 0")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        await writer.drain()
        return True
