"""The credentials in force, kept in memory, and in a local file for a start while the store is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from typing import TYPE_CHECKING, Final

import orjson

from services.credentials import Kind, Principal, Role
from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from services.postgres.pool import ReadPool

_log = logging.getLogger(__name__)

_ALL: Final = """
SELECT encode(c.key_hash, 'hex') AS key_hash, c.kind, c.subject, o.role
  FROM credentials AS c LEFT JOIN operators AS o ON c.kind = 'operator' AND o.username = c.subject
 WHERE c.revoked_at IS NULL
"""
_ONE: Final = _ALL + "AND c.key_hash = decode($1, 'hex')"
_STAMP: Final = """
SELECT count(*), count(revoked_at), max(created_at), max(revoked_at), (SELECT count(*) FROM operators) FROM credentials
"""


class CredentialDirectory:
    """Looks up hashes. A revocation is in force within `interval_s` here, at once where the store answers a miss.

    The snapshot holds hashes only. While the store is away a stale entry of an agent can obtain a recorded denial, or
    what break-glass opened for that agent; one of an operator can stop things, or be one of the people behind
    break-glass. Nothing newer can be known then.
    """

    def __init__(self, pool: ReadPool, snapshot: Path, *, interval_s: float = 1.0) -> None:
        self._pool = pool
        self._snapshot = snapshot
        self._interval_s = interval_s
        self._known: dict[str, Principal] = {}
        self._stamp: tuple[object, ...] | None = None

    async def start(self) -> None:
        """Load what is in force, from the store or else from the snapshot."""
        try:
            await self.refresh()
        except StoreUnreachable as error:
            self._known = self._read_snapshot()
            _log.warning("credentials come from the local snapshot, %d of them: %s", len(self._known), error)

    async def find(self, key_hash: str) -> Principal | None:
        """Return whose credential has this hash. Raises: StoreUnreachable when nobody can tell."""
        known = self._known.get(key_hash)
        if known is not None:
            return known
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(_ONE, key_hash)
        return None if row is None else _principal(row)

    async def refresh(self) -> None:
        """Read all again if any changed. Raises: StoreUnreachable."""
        async with self._pool.connection() as connection:
            stamp = tuple(await connection.fetchrow(_STAMP) or ())
            if stamp == self._stamp:
                return
            rows = await connection.fetch(_ALL)
        self._known = {row["key_hash"]: _principal(row) for row in rows}
        self._stamp = stamp
        await asyncio.to_thread(self._write_snapshot)

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            with contextlib.suppress(StoreUnreachable):  # the heartbeat tells of it
                await self.refresh()

    def _read_snapshot(self) -> dict[str, Principal]:
        try:
            entries = orjson.loads(self._snapshot.read_bytes())
            return {
                digest: Principal(kind=Kind(kind), subject=subject, role=None if role is None else Role(role))
                for digest, kind, subject, role in entries
            }
        except (OSError, ValueError, TypeError) as error:
            _log.warning("there is no usable snapshot of the credentials: %s", error)
            return {}

    def _write_snapshot(self) -> None:
        entries = [[digest, known.kind, known.subject, known.role] for digest, known in self._known.items()]
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self._snapshot.parent, prefix=".credentials-")
            with os.fdopen(descriptor, "wb") as file:
                file.write(orjson.dumps(entries))
            os.replace(temporary, self._snapshot)  # noqa: PTH105 - one call, atomic
        except OSError as error:
            _log.warning("the snapshot of the credentials could not be written: %s", error)


def _principal(row: asyncpg.Record) -> Principal:
    role = row["role"]
    return Principal(kind=Kind(row["kind"]), subject=row["subject"], role=None if role is None else Role(role))
