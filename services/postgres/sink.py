"""The log in PostgreSQL, through one connection of its own per lane."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import asyncpg
import orjson
from holdfast.audit.record import Receipt

from intent_queue.driver import UNREACHABLE
from services.recording.effects import ATTACH
from services.recording.sink import Fork, Refusal, Rejected, SinkFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from services.recording.sink import Batch

_SQL: Final = Path(__file__).resolve().parent / "sql"
_APPEND: Final = (_SQL / "append_batch.sql").read_text(encoding="utf-8")
_FENCE: Final = (_SQL / "fence.sql").read_text(encoding="utf-8")
_LAST_STREAM: Final = (_SQL / "last_stream.sql").read_text(encoding="utf-8")
_REFUSALS: Final = (_SQL / "refusals.sql").read_text(encoding="utf-8")
_HASH_AT: Final = "SELECT hash FROM audit_records WHERE stream = $1 AND seq = $2"

#: The batch does not follow, or another record stands there. Source: 0002_append_batch.sql.
_FORK: Final = frozenset({"HF002", "HF003"})
#: Data and integrity errors: the same values fail tomorrow as well.
_VALUES: Final = ("22", "23")
_WEAK_COMMITS: Final = frozenset({"off", "local", "remote_write"})


class _Statement(Protocol):
    async def fetchval(self, *args: object) -> object: ...


class PostgresSink:
    """The AuditSink port on PostgreSQL. Needs a direct connection: a pooler in between would defeat the fence.

    A statement that runs longer than `statement_timeout_s` is ended by the server too, and a fence waits for at most
    `fence_timeout_s` until a terminated backend is gone.
    """

    def __init__(
        self,
        dsn: str,
        *,
        connect_timeout_s: float = 2.0,
        statement_timeout_s: float = 5.0,
        fence_timeout_s: float = 2.0,
    ) -> None:
        self._dsn = dsn
        self._connect_timeout_s = connect_timeout_s
        self._statement_timeout_s = statement_timeout_s
        self._fence_timeout_s = fence_timeout_s
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._append: _Statement | None = None
        self.on_lost: Callable[[], None] | None = None

    async def connect(self, identity: str) -> None:
        """Open a connection, and fence every other of this `identity`. Raises: SinkFailed."""
        self.abandon()
        async with _translated():
            connection = await asyncpg.connect(
                self._dsn,
                timeout=self._connect_timeout_s,
                command_timeout=self._statement_timeout_s,
                server_settings={
                    "application_name": _application_name(identity),
                    "statement_timeout": str(int(self._statement_timeout_s * 1000)),
                    "jit": "off",
                    # Every lookup is by key. A plan made while a table was small must not scan it when it has grown.
                    "enable_seqscan": "off",
                    "enable_hashjoin": "off",
                    "enable_mergejoin": "off",
                },
            )
            try:
                await self._fence(connection, identity)
                if await connection.fetchval("SHOW synchronous_commit") in _WEAK_COMMITS:
                    await connection.execute("SET synchronous_commit = on")
                append = await connection.prepare(_APPEND)
            except BaseException:
                connection.terminate()
                raise
        self._connection, self._append = connection, append
        connection.add_termination_listener(self._on_termination)

    async def fence(self, identity: str) -> None:
        """Fence every other connection of another `identity`. Raises: SinkFailed."""
        async with _translated():
            await self._fence(self._open(), identity)

    async def commit_batch(self, batch: Batch) -> frozenset[int]:
        """Store the rows and apply their effects in one transaction; return the indexes of refused effects."""
        if self._append is None:
            raise SinkFailed("there is no connection")
        async with _translated():
            refused = await self._append.fetchval(
                batch.stream,
                batch.rows[0].seq,
                batch.prev,
                [row.body for row in batch.rows],
                [row.hash for row in batch.rows],
                batch.seal,
                _effects(batch),
                batch.recovering,
            )
        if not isinstance(refused, list):
            raise SinkFailed("the database did not say what it did")
        return frozenset(refused)

    def abandon(self) -> None:
        """Drop the connection at once."""
        if self._connection is not None:
            self._connection.terminate()
        self._connection = self._append = None

    async def hash_at(self, stream: str, seq: int) -> str | None:
        """Return the hash of a stored record, 64 hexadecimal digits."""
        async with _translated():
            stored = await self._open().fetchval(_HASH_AT, stream, seq)
        return None if stored is None else bytes(stored).hex()

    async def last_stream(self, lane: str, *, other_than: str) -> Receipt | None:
        """Return the last record of the newest stream that `lane` opened, `other_than` left out."""
        async with _translated():
            row = await self._open().fetchrow(_LAST_STREAM, lane, other_than)
        if row is None:
            return None
        return Receipt(stream=row["stream"], seq=row["seq"], hash=bytes(row["hash"]).hex())

    async def refusals(self, lane: str, *, other_than: str, streams: Iterable[str] = ()) -> tuple[Refusal, ...]:
        """Return the records whose effect was refused and that no void names yet."""
        async with _translated():
            rows = await self._open().fetch(_REFUSALS, lane, other_than, list(streams))
        return tuple(
            Refusal(
                receipt=Receipt(stream=row["stream"], seq=row["seq"], hash=bytes(row["hash"]).hex()),
                kind=orjson.loads(row["body"])["kind"],
            )
            for row in rows
        )

    async def close(self) -> None:
        """Close the connection, politely if the server listens."""
        connection, self._connection, self._append = self._connection, None, None
        if connection is not None:
            try:
                await connection.close(timeout=self._connect_timeout_s)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                connection.terminate()

    def _on_termination(self, connection: object) -> None:
        # What was abandoned, closed or replaced is not this sink's connection any more.
        if connection is self._connection and self.on_lost is not None:
            self.on_lost()

    async def _fence(self, connection: asyncpg.Connection[asyncpg.Record], identity: str) -> None:
        async with asyncio.timeout(self._fence_timeout_s):
            pause_s = 0.001
            while await connection.fetch(_FENCE, _application_name(identity)):
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.1)

    def _open(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is None:
            raise SinkFailed("there is no connection")
        return self._connection


@contextlib.asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except asyncpg.PostgresError as error:
        text = f"{type(error).__name__}: {error}"
        if error.sqlstate in _FORK:
            raise Fork(text) from error
        if error.sqlstate.startswith(_VALUES):
            raise Rejected(text) from error
        raise SinkFailed(text) from error
    except UNREACHABLE as error:
        raise SinkFailed(f"{type(error).__name__}: {error}") from error


def _application_name(identity: str) -> str:
    return "holdfast-lane-" + hashlib.sha256(identity.encode("utf-8")).hexdigest()[:32]


def _effects(batch: Batch) -> str | None:
    """Return `{"open_intent": [{"i": 0, …}], …}`, put together from members that are JSON already.

    An effect that comes from a journal says `late`: whoever asked for it was answered then.
    """
    by_op: dict[str, list[bytes]] = {}
    for index, row in enumerate(batch.rows):
        if row.effect is not None:
            members = row.effect.members[1:-1]
            # What comes from a journal was acknowledged before.
            place = (b'{"i":%d,"late":true' if batch.recovering else b'{"i":%d') % index
            by_op.setdefault(row.effect.op, []).append(place + (b"," + members if members else b"") + b"}")
            for notice in row.effect.notices:
                by_op.setdefault(ATTACH, []).append(place + b"," + notice[1:])
    if not by_op:
        return None
    return "{" + ",".join(f'"{op}":[{b",".join(list_).decode("utf-8")}]' for op, list_ in by_op.items()) + "}"
