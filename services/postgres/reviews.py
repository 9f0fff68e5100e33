"""Reads of the uses of break-glass and of their reviews."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from services.outcome import rfc3339
from services.postgres.order_rows import order_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import asyncpg
    from holdfast.strict_json import JSON

    from services.decision.orders import Order
    from services.postgres.pool import ReadPool

_SELECT: Final = """
SELECT u.review_id, u.intent_id, u.activation, o.scope AS policy, u.agent, u.category, u.environment, u.jti, u.instance,
       u.used_at, u.due_at, u.over_cap, u.after_end, u.voided_at, u.reminded_at, u.reconciled_at,
       u.would::text AS would, u.flagged, u.closed_at, u.closed_by, u.verdict, u.note
  FROM break_glass_uses AS u LEFT JOIN orders AS o ON o.order_id = u.activation
"""
_OPEN: Final = _SELECT + "WHERE u.closed_at IS NULL AND u.voided_at IS NULL ORDER BY u.due_at, u.review_id LIMIT $1"
_ALL: Final = _SELECT + "WHERE u.voided_at IS NULL ORDER BY u.used_at DESC, u.review_id LIMIT $1"
_OF: Final = _SELECT + "WHERE u.activation = $1 ORDER BY u.used_at, u.review_id LIMIT $2"
_ONE: Final = _SELECT + "WHERE u.review_id = $1 AND u.voided_at IS NULL"
_UNRECONCILED: Final = (
    _SELECT + "WHERE u.reconciled_at IS NULL AND u.voided_at IS NULL ORDER BY u.used_at, u.review_id LIMIT $1"
)
# What is over, wholly reconciled, and not summed up with so many uses. One that never came in force opened nothing.
_TO_SUM: Final = """
SELECT o.order_id, o.kind, o.scope, o.reason, o.issued_at, o.issued_by, o.people, o.in_force_at, o.expires_at,
       o.ended_at, o.document::text AS document,
       ARRAY(SELECT confirmed_by FROM order_confirmations AS c WHERE c.order_id = o.order_id ORDER BY confirmed_at)
           AS confirmed_by,
       u.uses, u.flagged, u.over_cap, u.after_end
  FROM orders AS o
  LEFT JOIN break_glass_sums AS s ON s.activation = o.order_id,
       LATERAL (SELECT count(*) AS uses, count(*) FILTER (WHERE flagged) AS flagged,
                       count(*) FILTER (WHERE over_cap) AS over_cap, count(*) FILTER (WHERE after_end) AS after_end,
                       count(*) FILTER (WHERE reconciled_at IS NULL) AS open
                  FROM break_glass_uses WHERE activation = o.order_id AND voided_at IS NULL) AS u
 WHERE o.kind = 'break_glass' AND o.in_force_at IS NOT NULL AND coalesce(least(o.ended_at, o.expires_at), $1) < $1
   AND u.open = 0 AND (s.activation IS NULL OR s.uses < u.uses)
 ORDER BY o.issued_at LIMIT $2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class UseRow:
    """One use with its review. `policy` is None where its activation is not stored."""

    review_id: str
    intent_id: str
    activation: str
    policy: str | None
    agent: str
    category: str
    environment: str
    jti: str
    instance: str
    used_at: datetime
    due_at: datetime
    over_cap: bool
    after_end: bool
    voided_at: datetime | None
    reminded_at: datetime | None
    reconciled_at: datetime | None
    would: dict[str, JSON] | None
    flagged: bool | None
    closed_at: datetime | None
    closed_by: str | None
    verdict: str | None
    note: str | None

    def to_json(self, now: datetime) -> dict[str, JSON]:
        """Return what lists show."""
        return {
            "review_id": self.review_id,
            "intent_id": self.intent_id,
            "activation_id": self.activation,
            "policy": self.policy,
            "agent": self.agent,
            "category": self.category,
            "environment": self.environment,
            "used_at": rfc3339(self.used_at),
            "due_at": rfc3339(self.due_at),
            "overdue": self.closed_at is None and self.voided_at is None and self.due_at <= now,
            "over_cap": self.over_cap,
            "after_end": self.after_end,
            "voided": self.voided_at is not None,
            "would": self.would,
            "flagged": self.flagged,
            "closed_at": None if self.closed_at is None else rfc3339(self.closed_at),
            "closed_by": self.closed_by,
            "verdict": self.verdict,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What is counted of an activation that is over."""

    activation: Order
    uses: int
    flagged: int
    over_cap: int
    after_end: int


class PostgresReviews:
    """The uses and their reviews. Every method raises StoreUnreachable."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def get(self, review_id: str) -> UseRow | None:
        """Return one use by its review."""
        found = await self._rows(_ONE, review_id)
        return found[0] if found else None

    async def open(self, *, limit: int) -> Sequence[UseRow]:
        """Return the uses whose review is open, the first due first."""
        return await self._rows(_OPEN, limit)

    async def latest(self, *, limit: int) -> Sequence[UseRow]:
        """Return the latest uses, closed ones included, newest first."""
        return await self._rows(_ALL, limit)

    async def of(self, activation: str, *, limit: int) -> Sequence[UseRow]:
        """Return the uses of one activation, oldest first, those whose token never left included."""
        return await self._rows(_OF, activation, limit)

    async def unreconciled(self, *, limit: int) -> Sequence[UseRow]:
        """Return the uses that policy has not been asked about, oldest first."""
        return await self._rows(_UNRECONCILED, limit)

    async def to_sum(self, before: datetime, *, limit: int) -> Sequence[Sum]:
        """Return the activations that were over before a time, wholly reconciled, and are to be summed up."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_TO_SUM, before, limit)
        return [
            Sum(
                activation=order_of(row),
                uses=row["uses"],
                flagged=row["flagged"],
                over_cap=row["over_cap"],
                after_end=row["after_end"],
            )
            for row in rows
        ]

    async def _rows(self, query: str, *values: object) -> list[UseRow]:
        async with self._pool.connection() as connection:
            return [_use(row) for row in await connection.fetch(query, *values)]


def _use(row: asyncpg.Record) -> UseRow:
    members = dict(row)
    would = members.pop("would")
    return UseRow(**members, would=None if would is None else orjson.loads(would))
