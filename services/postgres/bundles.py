"""Reads of policy bundles: what is stored, what is active, and what runs in the shadow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.outcome import rfc3339

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg
    from holdfast.strict_json import JSON

    from services.postgres.pool import ReadPool

_STANDING: Final = """
SELECT (SELECT digest FROM policy_activations ORDER BY id DESC LIMIT 1) AS active, s.id AS shadow, s.digest AS candidate
  FROM (SELECT 1) AS one LEFT JOIN (SELECT id, digest FROM policy_shadow ORDER BY id DESC LIMIT 1) AS s ON true
"""
_ARCHIVE: Final = "SELECT archive FROM policy_bundles WHERE digest = $1"
_SIGNATURES: Final = "SELECT signature FROM policy_signatures WHERE digest = $1 ORDER BY stored_at, signature"
_BUNDLES: Final = """
SELECT b.digest, b.uploaded_at, b.uploaded_by, octet_length(b.archive) AS bytes,
       (SELECT max(a.activated_at) FROM policy_activations a WHERE a.digest = b.digest) AS activated_at
  FROM policy_bundles b ORDER BY b.uploaded_at DESC, b.digest LIMIT $1
"""
_DIGESTS: Final = "SELECT digest FROM policy_bundles WHERE starts_with(digest, $1) LIMIT 2"
_ACTIVATIONS: Final = """
SELECT id, digest, activated_at, activated_by, reason, rolled_back_from FROM policy_activations ORDER BY id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the store says now. `shadow` numbers the shadow run whose candidate is `candidate`."""

    active: str | None
    shadow: int | None
    candidate: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRow:
    """A stored bundle without its content. `bytes` is its packed size."""

    digest: str
    uploaded_at: datetime
    uploaded_by: str
    bytes: int
    activated_at: datetime | None

    def to_json(self) -> dict[str, JSON]:
        """Return what lists show."""
        return {
            "digest": self.digest,
            "uploaded_at": rfc3339(self.uploaded_at),
            "uploaded_by": self.uploaded_by,
            "bytes": self.bytes,
            "activated_at": None if self.activated_at is None else rfc3339(self.activated_at),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """One line of the history. The last one is in force."""

    id: int
    digest: str
    activated_at: datetime
    activated_by: str
    reason: str
    rolled_back_from: int | None

    def to_json(self) -> dict[str, JSON]:
        """Return what lists show."""
        return {
            "id": self.id,
            "digest": self.digest,
            "activated_at": rfc3339(self.activated_at),
            "activated_by": self.activated_by,
            "reason": self.reason,
            "rolled_back_from": self.rolled_back_from,
        }


class PostgresBundles:
    """The policy tables. Every method raises StoreUnreachable."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def standing(self) -> Standing:
        """Return what is active and what runs in the shadow."""
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(_STANDING)
        if row is None:
            return Standing(active=None, shadow=None, candidate=None)
        return Standing(active=row["active"], shadow=row["shadow"], candidate=row["candidate"])

    async def archive(self, digest: str) -> bytes | None:
        """Return the packed files of a bundle, unchecked; None if it is not stored."""
        async with self._pool.connection() as connection:
            found = await connection.fetchval(_ARCHIVE, digest)
        return None if found is None else bytes(found)

    async def signatures(self, digest: str) -> tuple[str, ...]:
        """Return the stored signatures of a bundle, unchecked."""
        async with self._pool.connection() as connection:
            return tuple(row["signature"] for row in await connection.fetch(_SIGNATURES, digest))

    async def bundles(self, *, limit: int = 100) -> list[BundleRow]:
        """Return the latest uploads, newest first."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_BUNDLES, limit)
        return [
            BundleRow(
                digest=row["digest"],
                uploaded_at=row["uploaded_at"],
                uploaded_by=row["uploaded_by"],
                bytes=row["bytes"],
                activated_at=row["activated_at"],
            )
            for row in rows
        ]

    async def matching(self, prefix: str) -> list[str]:
        """Return up to two digests that begin with `prefix`."""
        async with self._pool.connection() as connection:
            return [row["digest"] for row in await connection.fetch(_DIGESTS, prefix)]

    async def activations(self) -> list[Activation]:
        """Return the whole history, oldest first."""
        async with self._pool.connection() as connection:
            return [_activation(row) for row in await connection.fetch(_ACTIVATIONS)]


def _activation(row: asyncpg.Record) -> Activation:
    return Activation(
        id=row["id"],
        digest=row["digest"],
        activated_at=row["activated_at"],
        activated_by=row["activated_by"],
        reason=row["reason"],
        rolled_back_from=row["rolled_back_from"],
    )
