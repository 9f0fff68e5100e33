"""Reads of operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from services.postgres.pool import ReadPool

_ROLE: Final = "SELECT role FROM operators WHERE username = $1"


class PostgresOperators:
    """Who may do what. Raises StoreUnreachable."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def role(self, username: str) -> str | None:
        """Return the operator's role as of now; None for nobody."""
        async with self._pool.connection() as connection:
            role = await connection.fetchval(_ROLE, username)
        return role if isinstance(role, str) else None
