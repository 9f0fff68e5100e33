"""Reads of the tokens that left around the evaluation, and of their reviews."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson
from holdfast.reasons import Mode

from services.decision.review import Pile
from services.outcome import rfc3339
from services.postgres.order_rows import order_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import asyncpg
    from holdfast.strict_json import JSON

    from services.decision.orders import Order
    from services.postgres.pool import ReadPool

_SELECT: Final = """
SELECT u.review_id, u.mode, u.intent_id, u.activation, o.scope AS policy, u.agent, u.category, u.environment, u.jti,
       u.instance, u.used_at, u.due_at, u.over_cap, u.after_end, u.voided_at, u.reminded_at, u.reconciled_at,
       u.would::text AS would, u.flagged, u.closed_at, u.closed_by, u.verdict, u.note,
       behind_use(u.mode, u.activation, u.approvals) AS behind
  FROM opening_uses AS u LEFT JOIN orders AS o ON o.order_id = u.activation
"""
_OPEN: Final = (
    _SELECT
    + """
 WHERE u.closed_at IS NULL AND u.voided_at IS NULL AND ($2::text IS NULL OR u.mode = $2)
   AND ($3::timestamptz IS NULL OR (u.due_at, u.review_id) > ($3, $4::text))
 ORDER BY u.due_at, u.review_id LIMIT $1
"""
)
_ALL: Final = (
    _SELECT
    + """
 WHERE u.voided_at IS NULL AND ($2::text IS NULL OR u.mode = $2)
   AND ($3::timestamptz IS NULL OR (u.used_at, u.review_id) < ($3, $4::text))
 ORDER BY u.used_at DESC, u.review_id DESC LIMIT $1
"""
)
_ALONE: Final = (
    _SELECT
    + """
 WHERE u.closed_at IS NULL AND u.voided_at IS NULL AND u.mode IN ('break_glass', 'operator')
 ORDER BY u.due_at, u.review_id LIMIT $1
"""
)
_OF: Final = _SELECT + "WHERE u.activation = $1 ORDER BY u.used_at, u.review_id LIMIT $2"
_ONE: Final = _SELECT + "WHERE u.review_id = $1 AND u.voided_at IS NULL"
_UNRECONCILED: Final = (
    _SELECT + "WHERE u.reconciled_at IS NULL AND u.voided_at IS NULL ORDER BY u.used_at, u.review_id LIMIT $1"
)
_PILE: Final = """
SELECT count(*) AS reviews, count(*) FILTER (WHERE due_at <= $1) AS overdue, count(*) FILTER (WHERE flagged) AS flagged,
       count(*) FILTER (WHERE reminded_at IS NULL) AS unreminded, min(used_at) AS first_used_at,
       min(due_at) AS first_due_at, max(reminded_at) AS reminded_at,
       (array_agg(review_id ORDER BY due_at, review_id))[1] AS first_review_id
  FROM opening_uses WHERE mode = 'fail_open' AND closed_at IS NULL AND voided_at IS NULL
"""
_COUNTS: Final = """
SELECT mode, count(*) AS open, count(*) FILTER (WHERE due_at <= $1) AS overdue
  FROM opening_uses WHERE closed_at IS NULL AND voided_at IS NULL GROUP BY mode
"""
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
                  FROM opening_uses WHERE activation = o.order_id AND voided_at IS NULL) AS u
 WHERE o.kind = 'break_glass' AND o.in_force_at IS NOT NULL AND coalesce(least(o.ended_at, o.expires_at), $1) < $1
   AND u.open = 0 AND (s.activation IS NULL OR s.uses < u.uses)
 ORDER BY o.issued_at LIMIT $2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class UseRow:
    """One use with its review.

    `policy` is what its activation is of, or the tier of its override; None where there is none, or it is not stored.
    `behind` are the people who stand behind it: None where nobody does, empty where it is not known who does.
    """

    review_id: str
    mode: Mode
    intent_id: str
    activation: str | None
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
    behind: tuple[str, ...] | None

    def to_json(self, now: datetime) -> dict[str, JSON]:
        """Return what lists show."""
        return {
            "review_id": self.review_id,
            "mode": self.mode.value,
            "intent_id": self.intent_id,
            "activation_id": self.activation,
            "policy": self.policy,
            "behind": None if self.behind is None else [*self.behind],
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

    async def open(
        self, *, limit: int, mode: Mode | None = None, after: tuple[datetime, str] | None = None
    ) -> Sequence[UseRow]:
        """Return the uses whose review is open, the first due first. `after` is where an earlier page ended."""
        return await self._rows(_OPEN, limit, mode, *(after or (None, None)))

    async def latest(
        self, *, limit: int, mode: Mode | None = None, after: tuple[datetime, str] | None = None
    ) -> Sequence[UseRow]:
        """Return the latest uses, closed ones included, newest first. `after` is where an earlier page ended."""
        return await self._rows(_ALL, limit, mode, *(after or (None, None)))

    async def alone(self, *, limit: int) -> Sequence[UseRow]:
        """Return the open ones of which people are reminded one by one, the first due first."""
        return await self._rows(_ALONE, limit)

    async def pile(self, now: datetime) -> Pile | None:
        """Return the open reviews of what failed open, taken together; None where there is none."""
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(_PILE, now)
        return None if row is None or row["reviews"] == 0 else Pile(**dict(row))

    async def counts(self, now: datetime) -> Mapping[Mode, tuple[int, int]]:
        """Return how many are open, and how many of these overdue, by mode; a mode without any is left out."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_COUNTS, now)
        return {Mode(row["mode"]): (row["open"], row["overdue"]) for row in rows}

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
    mode, would, behind = members.pop("mode"), members.pop("would"), members.pop("behind")
    return UseRow(
        **members,
        mode=Mode(mode),
        would=None if would is None else orjson.loads(would),
        behind=None if behind is None else tuple(behind),
    )
