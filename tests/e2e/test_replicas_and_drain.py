"""The worker does not drain while any process, itself or not, reports a boundary that is not closed."""

from __future__ import annotations

import asyncio

import asyncpg
import orjson
import pytest
from e2e.running_service import PATIENCE_S, read_note
from holdfast.intent import Intent

pytestmark = pytest.mark.integration

_INTENT = """
INSERT INTO intents (intent_id, agent, request_digest, submission, act_hash, status, reason_code, envelope, created_at,
                     decided_at)
VALUES ($2, 'alpha', sha256($1), $1, 'sha-256:' || $2, 'queued', 'EVALUATION_UNAVAILABLE', '{}', now(),
        now())
"""
_ENTRY = """
INSERT INTO queue_entries (intent_id, agent, act_hash, state, lane, rank_at, enqueued_at, expires_at, not_before,
                           reason_code)
SELECT intent_id, agent, act_hash, 'waiting', 2, now(), now(), now() + interval '1 hour', now(), reason_code
  FROM intents WHERE intent_id = $1
"""
#: A replica on another machine, whose report stays fresh.
_ELSEWHERE = """
INSERT INTO boundary_reports (process, not_closed, live_slow, reported_at)
VALUES ('elsewhere', '{token}', false, now() + interval '1 hour')
"""
_STATE = "SELECT state FROM queue_entries WHERE intent_id = $1"


async def becomes(connection, intent_id, state):
    async with asyncio.timeout(PATIENCE_S):
        while await connection.fetchval(_STATE, intent_id) != state:  # noqa: ASYNC110 - only the database knows
            await asyncio.sleep(0.1)


async def waits(connection, intent_id):
    submission = orjson.dumps(Intent.from_json(read_note()).to_json(), option=orjson.OPT_SORT_KEYS)
    await connection.execute(_INTENT, submission, intent_id)
    await connection.execute(_ENTRY, intent_id)


async def test_a_boundary_open_elsewhere_stops_the_drain_here(service):
    connection = await asyncpg.connect(service.database_url)
    try:
        await waits(connection, "int_first")
        await becomes(connection, "int_first", "claimable")

        await connection.execute(_ELSEWHERE)
        await asyncio.sleep(1)  # the worker reads the reports four times a second
        await waits(connection, "int_second")
        await asyncio.sleep(3)  # several ticks
        assert await connection.fetchval(_STATE, "int_second") == "waiting"

        await connection.execute("DELETE FROM boundary_reports WHERE process = 'elsewhere'")
        await becomes(connection, "int_second", "claimable")
    finally:
        await connection.execute("DELETE FROM boundary_reports WHERE process = 'elsewhere'")
        await connection.close()
    for intent_id in ("int_first", "int_second"):
        await asyncio.to_thread(service.cancel, intent_id)
