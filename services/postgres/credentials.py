"""The credentials in force, kept in memory, and in a local file for a start while the store is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from typing import TYPE_CHECKING, Final

import orjson

from services.credentials import Kind, Principal
from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from pathlib import Path

    from services.postgres.pool import ReadPool

_log = logging.getLogger(__name__)

_ALL: Final = "SELECT encode(key_hash, 'hex') AS key_hash, kind, subject FROM credentials WHERE revoked_at IS NULL"
_ONE: Final = "SELECT kind, subject FROM credentials WHERE key_hash = decode($1, 'hex') AND revoked_at IS NULL"
_STAMP: Final = "SELECT count(*), count(revoked_at), max(created_at), max(revoked_at) FROM credentials"


class CredentialDirectory:
    """Looks up hashes. A revocation is in force within `interval_s` here, at once where the store answers a miss.

    The snapshot holds hashes only, and while the store is away nobody is allowed anything: the worst that a stale entry
    can obtain is a recorded denial.
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
        return None if row is None else Principal(kind=Kind(row["kind"]), subject=row["subject"])

    async def refresh(self) -> None:
        """Read all again if any changed. Raises: StoreUnreachable."""
        async with self._pool.connection() as connection:
            stamp = tuple(await connection.fetchrow(_STAMP) or ())
            if stamp == self._stamp:
                return
            rows = await connection.fetch(_ALL)
        self._known = {row["key_hash"]: Principal(kind=Kind(row["kind"]), subject=row["subject"]) for row in rows}
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
            return {digest: Principal(kind=Kind(kind), subject=subject) for digest, kind, subject in entries}
        except (OSError, ValueError, TypeError) as error:
            _log.warning("there is no usable snapshot of the credentials: %s", error)
            return {}

    def _write_snapshot(self) -> None:
        entries = [[digest, principal.kind, principal.subject] for digest, principal in self._known.items()]
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self._snapshot.parent, prefix=".credentials-")
            with os.fdopen(descriptor, "wb") as file:
                file.write(orjson.dumps(entries))
            os.replace(temporary, self._snapshot)  # noqa: PTH105 - one call, atomic
        except OSError as error:
            _log.warning("the snapshot of the credentials could not be written: %s", error)
