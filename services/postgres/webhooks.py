"""Deliveries that are owed to webhooks, leased one at a time, and the public keys they are signed with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.webhooks import Delivery

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from services.postgres.pool import ReadPool

#: Longer than an attempt may take, so that none is made twice at once.
LEASE_S: Final = 60
#: A key that nobody signed with for so long is no longer published.
KEY_KEPT_HOURS: Final = 48

_CLAIM: Final = """
WITH due AS (
    SELECT d.intent_id, d.version FROM webhook_deliveries AS d
     WHERE d.due_at <= now() AND d.agent <> ALL($1::text[])
     ORDER BY d.due_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE webhook_deliveries AS d
   SET due_at = now() + make_interval(secs => $2), attempts = d.attempts + 1, epoch = d.epoch + 1
  FROM due JOIN intents AS i ON i.intent_id = due.intent_id
 WHERE d.intent_id = due.intent_id AND d.version = due.version
RETURNING d.intent_id, d.version, d.agent, d.status, d.envelope, d.claim_by, d.created_at, d.attempts, d.epoch,
          i.submission,
          EXISTS (SELECT FROM webhook_receivers_gone AS g WHERE g.intent_id = d.intent_id) AS receiver_is_gone
"""
_POSTPONE: Final = """
UPDATE webhook_deliveries SET due_at = now() + make_interval(secs => $4)
 WHERE intent_id = $1 AND version = $2 AND epoch = $3
"""
_DONE: Final = "DELETE FROM webhook_deliveries WHERE intent_id = $1 AND version = $2 AND epoch = $3"
_GONE: Final = """
WITH gone AS (
    INSERT INTO webhook_receivers_gone (intent_id) VALUES ($1) ON CONFLICT DO NOTHING
)
DELETE FROM webhook_deliveries WHERE intent_id = $1
"""
_OWED: Final = """
SELECT count(*) AS count, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_s
  FROM webhook_deliveries
"""
_PUBLISH: Final = """
INSERT INTO webhook_keys (public_key, published_at, last_used_at) VALUES ($1, now(), now())
    ON CONFLICT (public_key) DO UPDATE SET last_used_at = now()
"""
_IS_PUBLISHED: Final = "SELECT EXISTS (SELECT FROM webhook_keys WHERE public_key = $1)"
_PUBLISHED: Final = """
SELECT public_key FROM webhook_keys WHERE last_used_at > now() - make_interval(hours => $1)
 ORDER BY published_at DESC, public_key LIMIT 16
"""


class PostgresDeliveries:
    """The Deliveries port on PostgreSQL."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def claim(self, *, spared: Collection[str]) -> Delivery | None:
        """Lease the delivery that is due for longest, of an agent that is not spared."""
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(_CLAIM, list(spared), float(LEASE_S))
        if row is None:
            return None
        return Delivery(
            intent_id=row["intent_id"],
            version=row["version"],
            agent=row["agent"],
            status=row["status"],
            stored=row["envelope"],
            claim_by=row["claim_by"],
            created_at=row["created_at"],
            attempts=row["attempts"],
            epoch=row["epoch"],
            submission=bytes(row["submission"]),
            receiver_is_gone=row["receiver_is_gone"],
        )

    async def postpone(self, delivery: Delivery, seconds: float) -> None:
        """Give a delivery back until later."""
        async with self._pool.connection() as connection:
            await connection.execute(_POSTPONE, delivery.intent_id, delivery.version, delivery.epoch, seconds)

    async def done(self, delivery: Delivery) -> None:
        """Forget a delivery."""
        async with self._pool.connection() as connection:
            await connection.execute(_DONE, delivery.intent_id, delivery.version, delivery.epoch)

    async def gone(self, intent_id: str) -> None:
        """Forget every delivery of an intent whose receiver is gone, those that come later too."""
        async with self._pool.connection() as connection:
            await connection.execute(_GONE, intent_id)

    async def owed(self) -> tuple[int, float]:
        """Return how many are owed, and for how many seconds the oldest is."""
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(_OWED)
        return (0, 0.0) if row is None else (row["count"], row["oldest_s"])


class PostgresWebhookKeys:
    """The WebhookKeys port on PostgreSQL."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def is_published(self, public_key: bytes) -> bool:
        """Return whether a key was ever published."""
        async with self._pool.connection() as connection:
            return bool(await connection.fetchval(_IS_PUBLISHED, public_key))

    async def publish(self, public_key: bytes) -> None:
        """Publish a key, or say that it is still used."""
        async with self._pool.connection() as connection:
            await connection.execute(_PUBLISH, public_key)

    async def published(self) -> Sequence[bytes]:
        """Return the keys in use, newest first."""
        async with self._pool.connection() as connection:
            return [bytes(row["public_key"]) for row in await connection.fetch(_PUBLISHED, KEY_KEPT_HOURS)]
