"""Reads of what was decided, with what the log says of it."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import asyncpg
import orjson
from holdfast.errors import InvalidIntent
from holdfast.intent import Intent

from services.decision.replay import Recorded
from services.decision.risk import Factor, Risk, Tier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.postgres.pool import ReadPool

_SELECT: Final = """
SELECT i.intent_id, i.agent, i.submission, i.created_at, i.decided_at, i.envelope, r.body
  FROM intents i
  LEFT JOIN audit_records r ON r.stream = i.envelope->'receipt'->>'stream'
                           AND r.seq = (i.envelope->'receipt'->>'seq')::bigint
"""
_ONE: Final = _SELECT + "WHERE i.intent_id = $1"
_COUNT: Final = "SELECT count(*) FROM intents WHERE intent_id >= $1"
_WINDOW: Final = (
    _SELECT
    + """
 WHERE i.intent_id >= $1 AND abs(hashtext(i.intent_id)::bigint) % greatest($2::bigint, 1) < $3::bigint
 ORDER BY i.intent_id
"""
)
_FETCHED: Final = 500
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_CHARACTERS: Final = 10
#: An identifier is 48 bits of milliseconds above 80 random bits, in 26 characters of 5 bits.
_TIME_SHIFT: Final = 80


class DecisionDamaged(Exception):
    """A stored decision cannot be read."""


class PostgresDecisions:
    """Decisions, one by one. Raises StoreUnreachable."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def get(self, intent_id: str) -> Recorded | None:
        """Return the latest decision on an intent. Raises: DecisionDamaged."""
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(_ONE, intent_id)
        return None if row is None else recorded(row)


class Window:
    """The intents that arrived since a time, in order of arrival, as of one moment."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], since: datetime, total: int) -> None:
        self._connection = connection
        self._first = first_id(since)
        self.total = total

    async def read(self, *, sample: int | None = None) -> AsyncIterator[Recorded | None]:
        """Yield each intent, or about `sample` of them, spread evenly; None for one that cannot be read."""
        kept = self.total if sample is None else sample
        async for row in self._connection.cursor(_WINDOW, self._first, self.total, kept, prefetch=_FETCHED):
            try:
                yield recorded(row)
            except DecisionDamaged:
                yield None


@contextlib.asynccontextmanager
async def open_window(database_url: str, since: datetime) -> AsyncIterator[Window]:
    """Lend the intents since a time. Raises: asyncpg and OS errors as they come."""
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            total = await connection.fetchval(_COUNT, first_id(since))
            yield Window(connection, since, int(total))
    finally:
        await connection.close(timeout=5)


def first_id(since: datetime) -> str:
    """Return what is not greater than any intent's id from then on: ids sort by time."""
    number = max(0, int(since.timestamp() * 1000)) << _TIME_SHIFT
    return "int_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, 125 - 5 * _TIME_CHARACTERS, -5))


def recorded(row: asyncpg.Record) -> Recorded:
    """Return a row of the query above as what it means. Raises: DecisionDamaged."""
    try:
        envelope = orjson.loads(row["envelope"])
        members = {} if row["body"] is None else orjson.loads(row["body"])
        policy = envelope["policy"]
        return Recorded(
            intent_id=row["intent_id"],
            agent=row["agent"],
            intent=Intent.from_json(orjson.loads(row["submission"])),
            received_at=row["created_at"].astimezone(UTC),
            at=row["decided_at"].astimezone(UTC),
            drained=bool(members.get("drained") or members.get("claimed")),
            bundle=policy["bundle"],
            decision=envelope["decision"],
            reason_code=envelope["reason_code"],
            detail=envelope["detail"],
            determining=tuple(policy["determining"]),
            risk=_risk(envelope["risk"]),
        )
    except (InvalidIntent, ValueError, TypeError, KeyError) as error:
        raise DecisionDamaged(f"the stored decision on {row['intent_id']} cannot be read: {error}") from error


def _risk(document: dict[str, object] | None) -> Risk | None:
    match document:
        case None:
            return None
        case {"score": int(score), "tier": str(tier), "factors": list(factors)}:
            return Risk(
                score=score,
                tier=Tier(tier),
                factors=tuple(Factor(name=f["name"], points=f["points"], why=f["why"]) for f in factors),
            )
        case _:
            raise ValueError("the risk is malformed")
