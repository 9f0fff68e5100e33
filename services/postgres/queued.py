"""Reads of waiting intents as operators see them, and of what people approved."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Final

import orjson

from services.decision.approvals import Approval
from services.queued import Glance, QueuedIntent, QueueEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import asyncpg

    from services.postgres.intents import PostgresIntents
    from services.postgres.pool import ReadPool

_ENTRY: Final = """
SELECT state, leased_from, lane, rank_at, enqueued_at, expires_at, attempts FROM queue_entries WHERE intent_id = $1
"""
_APPROVALS: Final = """
SELECT approval_id, intent_id, act_hash, bundle, approved_by, roles, approved_at, note
  FROM approvals WHERE intent_id = ANY ($1::text[]) ORDER BY approved_at, approval_id
"""
_GLANCES: Final = """
SELECT intent_id, act_hash, envelope->>'category' AS category, envelope->>'impact' AS impact,
       envelope->'policy' AS policy
  FROM intents WHERE intent_id = ANY ($1::text[])
"""


class PostgresQueued:
    """The QueuedIntents and Approvals ports on PostgreSQL."""

    def __init__(self, pool: ReadPool, intents: PostgresIntents) -> None:
        self._pool = pool
        self._intents = intents

    async def get(self, intent_id: str) -> QueuedIntent | None:
        """Return an intent, whether it still waits or not."""
        # The intent first: what comes after can only be newer, and its version then refuses what was built on both.
        stored = await self._intents.get(intent_id)
        if stored is None:
            return None
        async with self._pool.connection() as connection:
            entry = await connection.fetchrow(_ENTRY, intent_id)
            approvals = await connection.fetch(_APPROVALS, [intent_id])
        return QueuedIntent(
            stored=stored,
            entry=None if entry is None else _entry(entry),
            approvals=tuple(_approval(row) for row in approvals),
        )

    async def given(self, intent_id: str) -> tuple[Approval, ...]:
        """Return every approval of an intent, whether it counts or not."""
        async with self._pool.connection() as connection:
            return tuple(_approval(row) for row in await connection.fetch(_APPROVALS, [intent_id]))

    async def glances(self, intent_ids: Sequence[str]) -> Mapping[str, Glance]:
        """Return what a list shows of each intent."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_GLANCES, intent_ids)
            approvals = [_approval(row) for row in await connection.fetch(_APPROVALS, intent_ids)]
        return {row["intent_id"]: _glance(row, approvals) for row in rows}


def _entry(row: asyncpg.Record) -> QueueEntry:
    leased = row["state"] == "leased"
    return QueueEntry(
        state=row["leased_from"] if leased else row["state"],
        leased=leased,
        lane=row["lane"],
        rank_at=row["rank_at"].astimezone(UTC),
        enqueued_at=row["enqueued_at"].astimezone(UTC),
        expires_at=row["expires_at"].astimezone(UTC),
        attempts=row["attempts"],
    )


def _approval(row: asyncpg.Record) -> Approval:
    return Approval(
        approval_id=row["approval_id"],
        intent_id=row["intent_id"],
        act_hash=row["act_hash"],
        bundle=row["bundle"],
        approved_by=row["approved_by"],
        roles=tuple(row["roles"]),
        approved_at=row["approved_at"].astimezone(UTC),
        note=row["note"],
    )


def _glance(row: asyncpg.Record, approvals: Iterable[Approval]) -> Glance:
    policy = orjson.loads(row["policy"])
    return Glance(
        act_hash=row["act_hash"],
        category=row["category"],
        impact=row["impact"],
        bundle=policy["bundle"],
        determining=tuple(policy["determining"]),
        approvals=tuple(approval for approval in approvals if approval.intent_id == row["intent_id"]),
    )
