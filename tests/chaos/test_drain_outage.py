"""A second outage in a drain of the whole service: it stops, counts nothing against anybody, and goes on."""

from __future__ import annotations

import asyncio

import asyncpg
import orjson
import pytest
from e2e.running_service import RunningService, read_note
from holdfast.intent import Intent

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.chaos_long]

INTENTS = 15_000
PATIENCE_S = 90

_INTENTS = """
INSERT INTO intents (intent_id, agent, request_digest, submission, act_hash, status, reason_code, envelope, created_at,
                     decided_at)
SELECT 'int_' || lpad(n::text, 26, '0'), 'alpha', sha256($2), $2, 'sha-256:' || n, 'queued', 'EVALUATION_UNAVAILABLE',
       '{}', now(), now()
  FROM generate_series(1, $1::int) AS n
"""
_ENTRIES = """
INSERT INTO queue_entries (intent_id, agent, act_hash, state, lane, rank_at, enqueued_at, expires_at, not_before,
                           reason_code)
SELECT intent_id, agent, act_hash, 'waiting', 2, now(), now(), now() + interval '1 hour', now(), reason_code
  FROM intents
"""
#: The boundary that opens with each.
FAULTS = {"signer": "token", "postgres": "evaluation"}


@pytest.fixture
def service(tmp_path):
    running = RunningService(tmp_path)
    running.start()
    yield running
    running.close()


async def count(service, where="true"):
    connection = await asyncpg.connect(service.database_url)
    try:
        return await connection.fetchval(f"SELECT count(*) FROM queue_entries WHERE {where}")
    finally:
        await connection.close()


async def until(holds):
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110 - only the service knows
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("child", FAULTS)
async def test_a_second_outage_in_a_drain_stops_it_and_poisons_nothing(service, child):
    submission = orjson.dumps(Intent.from_json(read_note()).to_json(), option=orjson.OPT_SORT_KEYS)
    connection = await asyncpg.connect(service.database_url)
    async with connection.transaction():
        await connection.execute(_INTENTS, INTENTS, submission)
        await connection.execute(_ENTRIES)
    await connection.close()

    async def under_way():
        return await count(service, "state = 'claimable'") > INTENTS // 20

    async def open_now():
        answer = await asyncio.to_thread(service.get, "/readyz")
        return FAULTS[child] in answer.json()["open"]

    await until(under_way)
    with service.stopped(child):
        await until(open_now)
        if child != "postgres":
            # Nothing more is leased, and what was in hand is back.
            await until(lambda: none(service, "state = 'leased'"))
            left = await count(service, "state = 'waiting'")
            assert left > 0, "the drain was over before the outage"
            await asyncio.sleep(2)  # several ticks
            assert await count(service, "state = 'waiting'") == left
        else:
            await asyncio.sleep(2)
    assert await count(service, "state = 'parked' OR attempts > 0") == 0

    await until(lambda: none(service, "state IN ('waiting', 'leased')"))
    assert await count(service, "state = 'claimable' AND attempts = 0") == INTENTS
    assert service.faults() == []
    verified = await asyncio.to_thread(service.verify, [])
    assert verified.returncode == 0, verified.stdout[-2000:]


async def none(service, where):
    return await count(service, where) == 0
