"""The credentials in force, kept in memory, and in a local file for a start while the store is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import orjson

from services.credentials import Kind, Principal, Role
from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from services.ports import Clock
    from services.postgres.pool import ReadPool

_log = logging.getLogger(__name__)

#: Who was given a credential this long before an outage is somebody in it.
_INTERVAL_S: Final = 0.25

_ALL: Final = """
SELECT encode(c.key_hash, 'hex') AS key_hash, c.kind, c.subject, o.role, c.expires_at
  FROM credentials AS c LEFT JOIN operators AS o ON c.kind = 'operator' AND o.username = c.subject
 WHERE c.revoked_at IS NULL AND (c.expires_at IS NULL OR c.expires_at > now())
   AND (c.kind <> 'operator' OR o.username IS NOT NULL AND o.disabled_at IS NULL)
"""
_ONE: Final = _ALL + "AND c.key_hash = decode($1, 'hex')"
_STAMP: Final = """
SELECT count(*), count(revoked_at), max(created_at), max(revoked_at), max(expires_at),
       (SELECT count(*) FROM operators), (SELECT sum(version) FROM operators)
  FROM credentials
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """Whose key, and until when it is good."""

    principal: Principal
    expires_at: datetime | None

    def is_good(self, now: datetime) -> bool:
        return self.expires_at is None or now < self.expires_at


class CredentialDirectory:
    """Looks up hashes.

    A revoked key of an agent or executor is dead within `interval_s` here, and at once after a `refresh`. For every
    request of an operator the store is asked, so that who was shut out or lost a role on another replica has lost it
    here: memory answers only while the store does not.

    The snapshot holds hashes only. While the store is away a stale entry of an agent can obtain a recorded denial, or
    what break-glass opened for that agent; one of an operator can stop things, or be one of the people behind
    break-glass. Nothing newer can be known then.
    """

    def __init__(self, pool: ReadPool, snapshot: Path, *, clock: Clock, interval_s: float = _INTERVAL_S) -> None:
        self._pool = pool
        self._snapshot = snapshot
        self._clock = clock
        self._interval_s = interval_s
        self._known: dict[str, _Known] = {}
        self._stamp: tuple[object, ...] | None = None
        self._reading = asyncio.Lock()
        self._heard = False  # whether the store answered when it was asked last

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
        if known is not None and not known.is_good(self._clock.now()):
            known = None
        if known is not None and (known.principal.kind is not Kind.OPERATOR or not self._heard):
            return known.principal
        try:
            async with self._pool.connection(prompt=True) as connection:
                row = await connection.fetchrow(_ONE, key_hash)
                found = None if row is None else _read(row).principal
        except StoreUnreachable:
            if known is None:
                raise
            self._heard = False
            return known.principal
        return found

    async def refresh(self) -> None:
        """Read all again if any changed. Raises: StoreUnreachable."""
        async with self._reading:  # of two that overlap, the one that read less must not have the last word
            try:
                async with self._pool.connection() as connection:
                    stamp = tuple(await connection.fetchrow(_STAMP) or ())
                    rows = None if stamp == self._stamp else await connection.fetch(_ALL)
                    known = None if rows is None else {row["key_hash"]: _read(row) for row in rows}
            except StoreUnreachable:
                self._heard = False
                raise
            self._heard = True
            if known is not None:
                self._known, self._stamp = known, stamp
                await asyncio.to_thread(self._write_snapshot)

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            with contextlib.suppress(StoreUnreachable):  # the heartbeat tells of it
                await self.refresh()

    def _read_snapshot(self) -> dict[str, _Known]:
        try:
            entries = orjson.loads(self._snapshot.read_bytes())
            return {
                digest: _Known(
                    principal=Principal(kind=Kind(kind), subject=subject, role=None if role is None else Role(role)),
                    expires_at=None if until is None else datetime.fromisoformat(until),
                )
                for digest, kind, subject, role, until in entries
            }
        except (OSError, ValueError, TypeError) as error:
            _log.warning("there is no usable snapshot of the credentials: %s", error)
            return {}

    def _write_snapshot(self) -> None:
        entries = [
            [digest, one.principal.kind, one.principal.subject, one.principal.role, one.expires_at]
            for digest, one in self._known.items()
        ]
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self._snapshot.parent, prefix=".credentials-")
            with os.fdopen(descriptor, "wb") as file:
                file.write(orjson.dumps(entries))
            os.replace(temporary, self._snapshot)  # noqa: PTH105 - one call, atomic
        except OSError as error:
            _log.warning("the snapshot of the credentials could not be written: %s", error)


def _read(row: asyncpg.Record) -> _Known:
    role, until = row["role"], row["expires_at"]
    return _Known(
        principal=Principal(kind=Kind(row["kind"]), subject=row["subject"], role=None if role is None else Role(role)),
        expires_at=None if until is None else until.astimezone(UTC),
    )
