"""Reads of operators, and of the keys of agents and executors. Never of a secret, nor of its hash."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Final

from services.credentials import Kind, Role
from services.operators import Key, Operator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from services.postgres.pool import ReadPool

_OPERATORS: Final = """
SELECT o.username, o.role, o.created_at, o.disabled_at, o.disabled_by,
       (SELECT max(c.created_at) FROM credentials AS c
         WHERE c.kind = 'operator' AND c.subject = o.username AND c.revoked_at IS NULL
           AND (c.expires_at IS NULL OR c.expires_at > now())) AS token_created_at
  FROM operators AS o ORDER BY o.username
"""
_KEYS: Final = """
SELECT subject, created_at, expires_at FROM credentials
 WHERE kind = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
 ORDER BY subject, created_at DESC
"""


class PostgresRoster:
    """The Roster port on PostgreSQL."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def operators(self) -> Sequence[Operator]:
        """Return every operator by name, those who are shut out included."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_OPERATORS)
            return [
                Operator(
                    username=row["username"],
                    role=Role(row["role"]),
                    created_at=row["created_at"].astimezone(UTC),
                    token_created_at=_utc(row["token_created_at"]),
                    disabled_at=_utc(row["disabled_at"]),
                    disabled_by=row["disabled_by"],
                )
                for row in rows
            ]

    async def keys(self, kind: Kind) -> Mapping[str, Sequence[Key]]:
        """Return the good keys of agents or executors by name, the newest first."""
        found: dict[str, list[Key]] = {}
        async with self._pool.connection() as connection:
            for row in await connection.fetch(_KEYS, kind.value):
                key = Key(created_at=row["created_at"].astimezone(UTC), expires_at=_utc(row["expires_at"]))
                found.setdefault(row["subject"], []).append(key)
        return found


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
