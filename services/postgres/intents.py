"""Reads of intents and of what became of their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from intent_queue.store import QueueUnavailable
from services.ports import Consumed, StoredIntent, StoreUnreachable, TokenState

if TYPE_CHECKING:
    import asyncpg

    from intent_queue.store import QueueStore
    from services.postgres.pool import ReadPool

_COLUMNS: Final = """
SELECT i.intent_id, i.agent, i.request_digest, i.idempotency_key, i.submission, i.status, i.reason_code, i.envelope,
       i.claims, i.version, i.created_at, i.claim_by,
       EXISTS (SELECT FROM consumptions c WHERE c.iss = i.claims->>'iss' AND c.txn = i.intent_id) AS consumed,
       EXISTS (SELECT FROM revoked_tokens r WHERE r.jti = i.jti) AS revoked
FROM intents i
"""
_GET: Final = _COLUMNS + "WHERE i.intent_id = $1"
_BY_KEY: Final = _COLUMNS + "WHERE i.agent = $1 AND i.idempotency_key = $2"

_STATE: Final = """
SELECT EXISTS (SELECT FROM consumptions WHERE iss = $1 AND (txn = $2 OR jti = $3)) AS consumed,
       EXISTS (SELECT FROM revoked_tokens WHERE jti = $3) AS revoked,
       EXISTS (SELECT FROM intents WHERE intent_id = $2 AND jti = $3 AND status = 'granted') AS granted
"""
_CONSUMED: Final = """
SELECT c.executor, c.txn, i.agent FROM consumptions c LEFT JOIN intents i ON i.intent_id = c.txn
WHERE c.iss = $1 AND c.jti = $2
"""


class PostgresIntents:
    """The IntentStore and TokenStore ports on PostgreSQL."""

    def __init__(self, pool: ReadPool, queue: QueueStore) -> None:
        self._pool = pool
        self._queue = queue

    async def get(self, intent_id: str) -> StoredIntent | None:
        """Return the intent, whoever asked for it."""
        async with self._pool.connection(prompt=True) as connection:
            return _stored(await connection.fetchrow(_GET, intent_id))

    async def by_key(self, agent: str, idempotency_key: str) -> StoredIntent | None:
        """Return the agent's intent with this key."""
        async with self._pool.connection(prompt=True) as connection:
            return _stored(await connection.fetchrow(_BY_KEY, agent, idempotency_key))

    async def waiting_for(self, agent: str, act_hash: str) -> StoredIntent | None:
        """Return the agent's intent that waits, undecided and in time, for this action."""
        self._pool.check()
        try:
            found = await self._queue.find_duplicate(agent, act_hash)
        except QueueUnavailable as error:
            raise StoreUnreachable(str(error)) from error
        return None if found is None else await self.get(found)

    async def position(self, intent_id: str) -> int | None:
        """Return the 1-based place of a waiting intent, None if it does not wait."""
        self._pool.check()
        try:
            return await self._queue.position(intent_id)
        except QueueUnavailable as error:
            raise StoreUnreachable(str(error)) from error

    async def state(self, iss: str, txn: str, jti: str) -> TokenState:
        """Return the token's state."""
        async with self._pool.connection(prompt=True) as connection:
            row = await connection.fetchrow(_STATE, iss, txn, jti)
        if row is None:
            return TokenState.UNKNOWN
        if row["consumed"]:
            return TokenState.CONSUMED
        if row["revoked"]:
            return TokenState.REVOKED
        return TokenState.FRESH if row["granted"] else TokenState.UNKNOWN

    async def consumed(self, iss: str, jti: str) -> Consumed | None:
        """Return who consumed the token."""
        async with self._pool.connection(prompt=True) as connection:
            row = await connection.fetchrow(_CONSUMED, iss, jti)
        return None if row is None else Consumed(executor=row["executor"], intent_id=row["txn"], agent=row["agent"])


def _stored(row: asyncpg.Record | None) -> StoredIntent | None:
    if row is None:
        return None
    return StoredIntent(
        intent_id=row["intent_id"],
        agent=row["agent"],
        request_digest=bytes(row["request_digest"]).hex(),
        idempotency_key=row["idempotency_key"],
        submission=bytes(row["submission"]),
        status=row["status"],
        reason_code=row["reason_code"],
        envelope=orjson.loads(row["envelope"]),
        claims=None if row["claims"] is None else orjson.loads(row["claims"]),
        version=row["version"],
        created_at=row["created_at"],
        claim_by=row["claim_by"],
        consumed=row["consumed"],
        revoked=row["revoked"],
    )
