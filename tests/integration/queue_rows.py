"""Puts intents into the queue's tables and settles them, as the recorder's transaction would."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from intent_queue.drain import PoisonIntent, Postponed, Result

#: The recorder's part: every settlement leaves a line, the state change happens only under the lease's epoch.
OUTCOMES = "CREATE TABLE IF NOT EXISTS outcomes (intent_id text NOT NULL, outcome text NOT NULL)"

_SETTLE = """
WITH gone AS (
    DELETE FROM queue_entries WHERE intent_id = $1 AND state = 'leased' AND epoch = $2
     AND EXISTS (SELECT FROM intents WHERE intent_id = $1 AND version = $3)
    RETURNING intent_id
), moved AS (
    UPDATE intents SET status = $4, version = version + 1 WHERE intent_id IN (SELECT intent_id FROM gone)
)
INSERT INTO outcomes SELECT intent_id, $4 FROM gone RETURNING intent_id
"""


@dataclass(frozen=True)
class Row:
    """One intent to queue. Ages and times are in seconds relative to now."""

    intent_id: str
    agent: str = "agent-1"
    lane: int = 2
    age_s: float = 60.0
    boost_s: float = 0.0
    expires_in_s: float = 900.0
    not_before_in_s: float = -60.0
    state: str = "waiting"
    attempts: int = 0
    reason_code: str = "EVALUATION_UNAVAILABLE"
    act_hash: str | None = None
    claim_in_s: float | None = None
    version: int = 1
    category: str | None = None


async def put(pool, *rows, now=None):
    """Store intents and their queue rows. Returns the time that ages count from."""
    now = datetime.now(UTC) if now is None else now
    status = {"waiting": "queued", "parked": "queued", "leased": "queued"}

    def later(seconds):
        return now + timedelta(seconds=seconds)

    async with pool.acquire() as connection, connection.transaction():
        await connection.executemany(
            """INSERT INTO intents (intent_id, agent, request_digest, submission, act_hash, status, reason_code,
                                    envelope, version, created_at, decided_at, claim_by)
               VALUES ($1, $2, '', $3, $4, $5, $6, '{}', $7, $8, $8, $9)""",
            [
                (
                    row.intent_id,
                    row.agent,
                    f'{{"id":"{row.intent_id}"}}'.encode(),
                    row.act_hash or row.intent_id,
                    status.get(row.state, row.state),
                    row.reason_code,
                    row.version,
                    later(-row.age_s),
                    None if row.claim_in_s is None else later(row.claim_in_s),
                )
                for row in rows
            ],
        )
        await connection.executemany(
            """INSERT INTO queue_entries (intent_id, agent, act_hash, state, lane, rank_at, enqueued_at, expires_at,
                                          not_before, attempts, reason_code, category)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)""",
            [
                (
                    row.intent_id,
                    row.agent,
                    row.act_hash or row.intent_id,
                    row.state,
                    row.lane,
                    later(-row.age_s - row.boost_s),
                    later(-row.age_s),
                    later(row.expires_in_s),
                    later(row.not_before_in_s),
                    row.attempts,
                    row.reason_code,
                    row.category,
                )
                for row in rows
            ],
        )
    return now


async def entries(pool):
    """Return the queue's rows by id."""
    return {row["intent_id"]: row for row in await pool.fetch("SELECT * FROM queue_entries")}


async def outcomes(pool):
    """Return every outcome line, in no order: a list, so that a second outcome of an intent would show."""
    return sorted((row["intent_id"], row["outcome"]) for row in await pool.fetch("SELECT * FROM outcomes"))


async def lapse_leases(pool, *intent_ids):
    """Let time run past the leases, all or the named."""
    await pool.execute(
        "UPDATE queue_entries SET lease_until = now() - interval '1 second' "
        "WHERE state = 'leased' AND (cardinality($1::text[]) = 0 OR intent_id = ANY($1))",
        list(intent_ids),
    )


async def make_due(pool):
    """Let time run past every deferral."""
    await pool.execute("UPDATE queue_entries SET not_before = now()")


async def settle(pool, item, outcome):
    """Record a final outcome if the lease still holds; the answer is the decider's."""
    done = await pool.fetchrow(_SETTLE, item.intent_id, item.epoch, item.version, outcome)
    return Result.FINISHED if done is not None else Result.LOST


class SqlDecider:
    """Settles by SQL. `fails` maps intent ids to what happens to them instead: an answer or an exception."""

    def __init__(self, pool):
        self._pool = pool
        self.authorized = []
        self.expired = []
        self.fails = {}
        self.before = None  # awaited with each item before it is settled

    async def authorize(self, item):
        self.authorized.append(item)
        return await self._settle(item, "denied")

    async def expire(self, item):
        self.expired.append(item)
        return await self._settle(item, "expired")

    async def _settle(self, item, outcome):
        if self.before is not None:
            await self.before(item)
        planned = self.fails.get(item.intent_id)
        if isinstance(planned, (Result, Postponed)):
            return planned
        if planned is PoisonIntent:
            raise PoisonIntent(item.intent_id)
        if planned is not None:
            raise planned
        return await settle(self._pool, item, outcome)


class Watch:
    """A clock that stands still until told."""

    def __init__(self):
        self.elapsed_s = 0.0

    def now(self):
        return datetime.now(UTC)

    def monotonic(self):
        return self.elapsed_s
