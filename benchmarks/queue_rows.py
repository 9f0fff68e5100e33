"""Fills the queue by SQL, in one transaction: a million rows in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncpg

#: Stands for the intent's number in a submission.
NUMBER: Final = "{number}"

#: $1 how many, $2 agents, $3 their prefix, $4 the canonical submission, $5 what stands for the number in it.
_INTENTS: Final = """
INSERT INTO intents (intent_id, agent, request_digest, submission, act_hash, status, reason_code, envelope,
                     created_at, decided_at)
SELECT 'int_' || lpad(n::text, 26, '0'), $3 || lpad((n % $2)::text, 3, '0'), sha256(s.bytes), s.bytes,
       'sha-256:' || n, 'queued', 'EVALUATION_UNAVAILABLE', '{}', now(), now()
  FROM generate_series(1, $1::int) AS n, LATERAL (SELECT convert_to(replace($4, $5, n::text), 'UTF8') AS bytes) AS s
"""
#: $1 how many, $2 agents, $3 their prefix, $4 seconds until they expire.
_ENTRIES: Final = """
INSERT INTO queue_entries (intent_id, agent, act_hash, state, lane, rank_at, enqueued_at, expires_at, not_before,
                           reason_code, category)
SELECT 'int_' || lpad(n::text, 26, '0'), $3 || lpad((n % $2)::text, 3, '0'), 'sha-256:' || n, 'waiting', 1 + n % 3,
       now() - make_interval(secs => ($1::int - n) * 0.0001), now() - make_interval(secs => ($1::int - n) * 0.0001),
       now() + make_interval(secs => $4), now(), 'EVALUATION_UNAVAILABLE',
       'cat-' || lpad((n % 50)::text, 3, '0')
  FROM generate_series(1, $1::int) AS n
"""


async def fill(
    connection: asyncpg.Connection[asyncpg.Record],
    rows: int,
    *,
    agents: int,
    agent_prefix: str,
    submission: bytes,
    expires_in_s: float = 3600.0,
) -> None:
    """Queue `rows` intents of `agents` agents in three lanes, and let the planner know.

    Where the submission holds `NUMBER`, no two are alike.
    """
    async with connection.transaction():
        text = submission.decode("utf-8")
        await connection.execute(_INTENTS, rows, agents, agent_prefix, text, NUMBER, timeout=600)
        await connection.execute(_ENTRIES, rows, agents, agent_prefix, expires_in_s, timeout=600)
    await connection.execute("ANALYZE intents", timeout=600)
    await connection.execute("ANALYZE queue_entries", timeout=600)
