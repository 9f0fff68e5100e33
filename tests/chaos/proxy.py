"""A proxy between the service and one dependency, which passes everything on until it is told to do harm.

It knows enough of each protocol to tell which step of an intent a connection serves, so that one step can be broken and
the others left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from chaos.matrix import Fault, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CHUNK = 1 << 16
_PG_HEAD = 5  # a type and a length


class Protocol(StrEnum):
    POSTGRESQL = "postgresql"
    VALKEY = "valkey"
    SIGNER = "signer"
    HTTP = "http"


class Way(StrEnum):
    QUESTION = "question"
    ANSWER = "answer"


#: Which bytes of a question say that an intent is at the step; on a connection where they were seen, or the first.
MARKS: dict[tuple[Protocol, Step], bytes] = {
    (Protocol.POSTGRESQL, Step.RECORD): b'"kind":"decision"',
    (Protocol.POSTGRESQL, Step.RELEASE): b'"kind":"decision"',
    (Protocol.VALKEY, Step.RISK): b"holdfast:activity:",
    (Protocol.VALKEY, Step.EVALUATE): b"}:calls",
    (Protocol.SIGNER, Step.SIGN): b'"op":"sign"',
    (Protocol.SIGNER, Step.RELEASE): b'"op":"sign"',
    (Protocol.HTTP, Step.CLASSIFY): b"POST ",
}
_LOG = b"holdfast-lane-"
#: What the signer signed: a signature ends each, in base64url.
_SIGNED = re.compile(rb'"(?:token|canary)":"[^"]*"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """What is done to the connections of a step until `over`. `hold_s` is for how long a slow message is held."""

    fault: Fault
    step: Step
    hold_s: float
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class _Connection:
    client: asyncio.StreamWriter
    upstream: asyncio.StreamWriter
    started: bool = False
    is_log: bool = False
    seen: set[Step] = field(default_factory=set)
    head: bytes = b""
    left: int = 0

    def bodies(self, data: bytes) -> Iterator[slice]:
        """Follow PostgreSQL's framing through its answers; yield where message bodies lie in `data`."""
        at = 0
        while at < len(data):
            if self.left == 0:
                missing = _PG_HEAD - len(self.head)
                self.head += data[at : at + missing]
                at += missing
                if len(self.head) == _PG_HEAD:
                    self.left, self.head = int.from_bytes(self.head[1:], "big") - 4, b""
            else:
                body = slice(at, min(len(data), at + self.left))
                yield body
                self.left -= body.stop - at
                at = body.stop

    def cut(self) -> None:
        for writer in (self.client, self.upstream):
            writer.transport.abort()


class Proxy:
    """One listener. `fault` is None while all is well; `watch` calls back once when a step passes."""

    def __init__(self, protocol: Protocol, upstream: Path | tuple[str, int]) -> None:
        self._protocol = protocol
        self._upstream = upstream
        self._place: Path | None = None
        self._port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._harm: Harm | None = None
        self._watch: tuple[Step, Callable[[], None]] | None = None

    # --- listening ------------------------------------------------------------------------------------------------

    async def listen(self, place: Path | None = None) -> int:
        """Listen at a path, or on a port of the loopback, the same one every time; return the port."""
        self._place = place
        if place is not None:
            place.unlink(missing_ok=True)  # noqa: ASYNC240 - a name in memory
            self._server = await asyncio.start_unix_server(self._serve, str(place), limit=_CHUNK)
            place.chmod(0o600)  # noqa: ASYNC240 - likewise
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=_CHUNK)
            self._port = self._server.sockets[0].getsockname()[1]
        return self._port

    def close(self) -> None:
        """Refuse whoever comes, and cut whoever is there."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.cut()

    # --- harm -----------------------------------------------------------------------------------------------------

    def watch(self, step: Step, passes: Callable[[], None]) -> None:
        """Call `passes` once, when the first bytes of the step are about to be passed on."""
        self._watch = step, passes

    def harm(self, harm: Harm) -> None:
        """Do harm from now on."""
        self._harm = harm
        if harm.fault is Fault.REFUSING:
            self.close()
        elif harm.fault in {Fault.KILLED, Fault.AWAY}:
            for connection in list(self._connections):
                connection.cut()

    async def heal(self) -> None:
        """Pass everything on again, late messages too."""
        harm, self._harm, self._watch = self._harm, None, None
        if harm is not None:
            harm.over.set()
        if self._server is None:
            await self.listen(self._place)

    # --- passing on -----------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self._upstream, tuple):
                answers, upstream = await asyncio.open_connection(*self._upstream, limit=_CHUNK)
            else:
                answers, upstream = await asyncio.open_unix_connection(str(self._upstream), limit=_CHUNK)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(client=writer, upstream=upstream)
        self._connections.add(connection)
        try:
            pumps = [
                asyncio.create_task(self._pump(connection, Way.QUESTION, reader, upstream)),
                asyncio.create_task(self._pump(connection, Way.ANSWER, answers, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self._connections.discard(connection)
            for end in (writer, upstream):
                end.close()

    async def _pump(
        self, connection: _Connection, way: Way, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_CHUNK):
                if way is Way.QUESTION:
                    self._learn(connection, data)
                framed = self._protocol is Protocol.POSTGRESQL and way is Way.ANSWER
                bodies = list(connection.bodies(data)) if framed else [slice(0, len(data))]
                self._notice(connection, way)
                harm = self._harm
                if harm is not None and self._concerns(harm, connection, way):
                    data = await self._harmed(harm, data, bodies)
                target.write(data)
                await target.drain()

    def _learn(self, connection: _Connection, data: bytes) -> None:
        if not connection.started:
            connection.started = True
            connection.is_log = _LOG in data
        for (protocol, step), mark in MARKS.items():
            if protocol is self._protocol and mark in data:
                connection.seen.add(step)
        if self._protocol is Protocol.POSTGRESQL and not connection.is_log:
            connection.seen.add(Step.EVALUATE)

    def _notice(self, connection: _Connection, way: Way) -> None:
        if self._watch is None:
            return
        step, passes = self._watch
        if step in connection.seen and way is _way(step):
            self._watch = None
            passes()

    def _concerns(self, harm: Harm, connection: _Connection, way: Way) -> bool:
        """Whether this message is among those to harm: the step's connections, and those nobody knows yet."""
        of_step = harm.step in connection.seen
        if self._protocol is Protocol.POSTGRESQL:
            of_step = connection.is_log is (harm.step is not Step.EVALUATE)
        if harm.fault is Fault.CORRUPT:
            return of_step and way is (Way.QUESTION if harm.step in {Step.RECORD, Step.SIGN} else Way.ANSWER)
        if harm.fault is Fault.STOPPED:
            return way is Way.ANSWER  # what the dependency said before it was stopped is not heard either
        return harm.fault is Fault.SLOW and of_step and way is _way(harm.step)

    async def _harmed(self, harm: Harm, data: bytes, bodies: list[slice]) -> bytes:
        if harm.fault is Fault.CORRUPT:
            if self._protocol is Protocol.SIGNER and harm.step is Step.RELEASE:
                harmed = bytearray(data)
                for found in _SIGNED.finditer(data):  # one read may hold several answers
                    harmed[found.end() - 20] ^= 1
                return bytes(harmed)
            # PostgreSQL's framing stays: the driver never returns from a message of negative length.
            harmed = bytearray(data)
            for body in bodies:
                harmed[body] = bytes(byte ^ 0xFF for byte in data[body])
            return bytes(harmed)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(harm.hold_s if harm.fault is Fault.SLOW else None):
                await harm.over.wait()
        return data


def _way(step: Step) -> Way:
    return Way.ANSWER if step is Step.RELEASE else Way.QUESTION
