"""Reads of orders whose time ran out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.postgres.order_rows import order_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.decision.orders import Order
    from services.postgres.pool import ReadPool

_LAPSED: Final = """
SELECT order_id, kind, scope, reason, issued_at, issued_by, people, in_force_at, expires_at, ended_at,
       document::text AS document, '{}'::text[] AS confirmed_by
  FROM orders
 WHERE kind = 'override' AND ended_at IS NULL AND expires_at <= $1
 ORDER BY expires_at, order_id LIMIT 100
"""


class PostgresLapsed:
    """The Lapsed port on PostgreSQL."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def lapsed(self, now: datetime) -> Sequence[Order]:
        """Return overrides that expired and that nobody ended, the first to expire first."""
        async with self._pool.connection() as connection:
            return [order_of(row) for row in await connection.fetch(_LAPSED, now)]
