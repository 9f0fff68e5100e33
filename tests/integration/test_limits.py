"""The limits on a real Valkey: exact, shared, durable, and a refusal whenever they cannot be read."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from queue_processes import ROOT
from redis.asyncio import Redis

from services.decision.manifest import RateLimit
from services.limits import ValkeyLimits
from services.ports import Charge, LimitsUnreachable

pytest_plugins = ["queue_servers"]
pytestmark = pytest.mark.integration

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CALLS = RateLimit(maxCallsPerMinute=3)
TOKENS = RateLimit(maxTokensPerDay=1_000)


class Counters:
    """Limits, and the keys behind them, to let time pass and to look."""

    def __init__(self, url):
        self.limits = ValkeyLimits(url)
        self.raw = Redis.from_url(url, decode_responses=True)
        self._next = 0

    async def charge(self, limit, *, tokens=0, agent="bot", intent=None, now=NOON):
        self._next += 1
        intent_id = intent or f"int_{self._next}"
        return await self.limits.charge(
            Charge(agent=agent, intent_id=intent_id, limit=limit, model_tokens=tokens, now=now)
        )

    async def used(self, *, agent="bot", day="20261120"):
        return int(await self.raw.get(f"holdfast:{{{agent}}}:tokens:{day}") or 0)

    async def age(self, seconds, *, oldest=None):
        """Let the counted calls be that much older: the window runs by Valkey's clock, which a test cannot set."""
        members = await self.raw.zrange("holdfast:{bot}:calls", 0, -1 if oldest is None else oldest - 1)
        for member in members:
            await self.raw.zincrby("holdfast:{bot}:calls", -seconds * 1000, member)

    async def close(self):
        await self.limits.close()
        await self.raw.aclose()


@pytest.fixture
async def counters(queue_broker):
    opened = Counters(queue_broker.url)
    yield opened
    await opened.close()


# --- exact ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("calls", "tokens", "expected"), [(37, 10**9, 37), (10**6, 7 * 53 + 6, 53)])
def test_of_racing_calls_from_two_processes_exactly_the_allowed_number_pass(queue_broker, calls, tokens, expected):
    program = Path(__file__).parent / "limits_process.py"
    racers = [
        subprocess.Popen(
            [sys.executable, program, queue_broker.url, name, "200", str(calls), str(tokens)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
        )
        for name in ("one", "two")
    ]
    try:
        assert [racer.stdout.readline() for racer in racers] == ["ready\n", "ready\n"]
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        let_through = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()

    assert sum(let_through) == expected


async def test_a_refused_call_counts_nothing_on_any_limit(counters):
    both = RateLimit(maxCallsPerMinute=2, maxTokensPerDay=100)
    assert await counters.charge(both, tokens=60) == 0
    assert await counters.charge(both, tokens=60) > 60  # the day's tokens refuse it
    assert await counters.charge(both, tokens=40) == 0  # so it took no place among the calls
    assert 0 < await counters.charge(both, tokens=0) <= 60

    assert await counters.used() == 100


async def test_an_intent_that_is_evaluated_again_counts_once(counters):
    both = RateLimit(maxCallsPerMinute=2, maxTokensPerDay=100)
    assert [await counters.charge(both, tokens=60, intent="int_again") for _ in range(5)] == [0] * 5

    assert await counters.used() == 60
    assert await counters.charge(both, tokens=1) == 0
    assert await counters.charge(both, tokens=1) > 0


async def test_agents_do_not_share_a_limit(counters):
    one = RateLimit(maxCallsPerMinute=1)
    assert await counters.charge(one, agent="a") == 0
    assert await counters.charge(one, agent="b") == 0
    assert await counters.charge(one, agent="a") > 0


async def test_large_counts_stay_exact(counters):
    much = RateLimit(maxTokensPerDay=10**15)
    assert await counters.charge(much, tokens=10**12) == 0
    assert await counters.charge(much, tokens=10**12 - 1, intent="int_big") == 0
    assert await counters.limits.correct("bot", "int_big", model_tokens=10**12)

    assert await counters.used() == 2 * 10**12


# --- windows ----------------------------------------------------------------------------------------------------------


async def test_the_minute_slides(counters):
    assert [await counters.charge(CALLS) for _ in range(3)] == [0, 0, 0]
    await counters.age(30, oldest=1)
    wait_s = await counters.charge(CALLS)
    assert 29 <= wait_s <= 30

    await counters.age(29, oldest=1)
    assert await counters.charge(CALLS) == 1
    await counters.age(1, oldest=1)
    assert await counters.charge(CALLS) == 0
    assert await counters.charge(CALLS) > 50


async def test_retry_after_counts_how_many_must_leave_first(counters):
    """A bundle may lower the limit while more calls than it allows are still counted."""
    now_s, _ = await counters.raw.time()
    await counters.raw.zadd("holdfast:{bot}:calls", {f"int_{s}": (now_s - s) * 1000 for s in (50, 40, 30, 20)})

    wait_s = await counters.charge(RateLimit(maxCallsPerMinute=2))

    assert 28 <= wait_s <= 30, "three of the four must have left, and the third is thirty seconds old"


@pytest.mark.parametrize(("second", "expected"), [(1, 1), (2, 2), (86_400, 86_400)])
async def test_over_the_days_tokens_the_wait_is_until_midnight_utc(counters, second, expected):
    now = NOON.replace(hour=0) + timedelta(days=1, seconds=-second)
    assert await counters.charge(TOKENS, tokens=1_000, now=now) == 0

    assert await counters.charge(TOKENS, tokens=1, now=now) == expected
    assert await counters.charge(TOKENS, tokens=0, now=now) == expected
    assert await counters.charge(TOKENS, tokens=1_000, now=now + timedelta(seconds=second)) == 0


async def test_counters_expire_by_themselves(counters):
    await counters.charge(RateLimit(maxCallsPerMinute=1, maxTokensPerDay=1))

    keys = [key async for key in counters.raw.scan_iter("holdfast:*")]
    assert len(keys) == 3
    for key in keys:
        assert 0 < await counters.raw.ttl(key) <= 86_400 + 3_600


# --- corrected by outcome ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("announced", "used", "expected"), [(600, 50, 50), (50, 600, 600), (0, 400, 400), (9, 9, 9)])
async def test_what_was_really_used_takes_the_place_of_what_was_announced(counters, announced, used, expected):
    await counters.charge(TOKENS, tokens=announced, intent="int_1")

    assert await counters.limits.correct("bot", "int_1", model_tokens=used)

    assert await counters.used() == expected


async def test_a_second_report_corrects_nothing(counters):
    await counters.charge(TOKENS, tokens=100, intent="int_1")
    await counters.charge(TOKENS, tokens=100, intent="int_2")

    corrections = [await counters.limits.correct("bot", "int_1", model_tokens=used) for used in (30, 30, 0, 900)]

    assert corrections == [True, False, False, False]
    assert await counters.used() == 130


async def test_racing_reports_correct_once(counters):
    await counters.charge(TOKENS, tokens=100, intent="int_1")
    await counters.charge(TOKENS, tokens=500, intent="int_2")

    corrections = await asyncio.gather(
        *(counters.limits.correct("bot", "int_1", model_tokens=10) for _ in range(30)),
    )

    assert corrections.count(True) == 1
    assert await counters.used() == 510


async def test_a_correction_belongs_to_the_day_of_the_charge(counters):
    yesterday = NOON - timedelta(days=1)
    await counters.charge(TOKENS, tokens=100, intent="int_1", now=yesterday)
    await counters.charge(TOKENS, tokens=100, intent="int_2")

    assert await counters.limits.correct("bot", "int_1", model_tokens=0)

    assert (await counters.used(day="20261119"), await counters.used()) == (0, 100)


async def test_a_counter_is_never_below_zero(counters):
    await counters.charge(TOKENS, tokens=100, intent="int_1")
    await counters.raw.set("holdfast:{bot}:tokens:20261120", 10)

    await counters.limits.correct("bot", "int_1", model_tokens=0)

    assert await counters.used() == 0


async def test_what_was_never_charged_cannot_be_corrected(counters):
    await counters.charge(CALLS, tokens=100, intent="int_calls_only")

    for agent, intent in (("bot", "int_unknown"), ("bot", "int_calls_only"), ("nobody", "int_1")):
        assert not await counters.limits.correct(agent, intent, model_tokens=0)


async def test_an_overrun_found_afterwards_closes_the_day(counters):
    await counters.charge(TOKENS, tokens=0, intent="int_1")
    await counters.limits.correct("bot", "int_1", model_tokens=5_000)

    assert await counters.charge(TOKENS, tokens=0) > 0


# --- durable ----------------------------------------------------------------------------------------------------------


async def test_counts_survive_the_death_of_valkey(queue_broker):
    """With the append-only file, as `holdfast up` and the compose file run it."""
    counters = Counters(queue_broker.url)
    await counters.raw.config_set("appendonly", "yes")
    await asyncio.wait_for(_rewritten(counters.raw), 10)
    limit = RateLimit(maxCallsPerMinute=2, maxTokensPerDay=100)
    assert await counters.charge(limit, tokens=60, intent="int_1") == 0
    await counters.close()

    queue_broker.send(signal.SIGKILL)
    queue_broker.start("--appendonly", "yes")
    counters = Counters(queue_broker.url)
    try:
        assert await counters.used() == 60
        assert await counters.charge(limit, tokens=41) > 60
        assert await counters.charge(limit, tokens=40) == 0
        assert 0 < await counters.charge(limit) <= 86_400
        assert await counters.limits.correct("bot", "int_1", model_tokens=0)
    finally:
        await counters.close()


async def _rewritten(raw):
    while (await raw.info("persistence"))["aof_rewrite_in_progress"]:  # noqa: ASYNC110 - only the server knows
        await asyncio.sleep(0)


async def test_the_same_connections_work_again_after_a_restart(queue_broker, counters):
    assert await counters.charge(CALLS) == 0
    queue_broker.send(signal.SIGKILL)
    with pytest.raises(LimitsUnreachable):
        await counters.charge(CALLS)

    queue_broker.start()

    assert await counters.charge(CALLS) == 0, "the script is unknown to the new server and is sent again"


# --- a refusal whenever they cannot be read ---------------------------------------------------------------------------


async def test_a_dead_valkey_is_unreachable(queue_broker, counters):
    queue_broker.stop()

    with pytest.raises(LimitsUnreachable):
        await counters.charge(CALLS)
    with pytest.raises(LimitsUnreachable):
        await counters.limits.correct("bot", "int_1", model_tokens=1)


async def test_a_hung_valkey_is_unreachable_and_its_late_answer_is_nobodys(queue_broker, counters):
    assert await counters.charge(CALLS) == 0
    queue_broker.send(signal.SIGSTOP)
    with pytest.raises(LimitsUnreachable):
        await asyncio.wait_for(counters.charge(CALLS), 5)
    queue_broker.send(signal.SIGCONT)

    answers = [await counters.charge(RateLimit(maxCallsPerMinute=1)) for _ in range(3)]

    assert all(answer > 0 for answer in answers), "no later call may take the hung call's 0 for its own"


async def test_an_abandoned_charge_leaves_no_answer_for_the_next(counters):
    """The evaluation's deadline cancels a charge in flight."""
    full = RateLimit(maxCallsPerMinute=1)
    assert await counters.charge(full) == 0
    for turns in range(12):
        task = asyncio.create_task(counters.charge(full, agent=f"other-{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

        assert await counters.charge(full) > 0


@pytest.mark.parametrize(
    ("key", "value"), [("holdfast:{bot}:tokens:20261120", "many"), ("holdfast:{bot}:calls", "not a sorted set")]
)
async def test_a_damaged_counter_is_unreachable(counters, key, value):
    await counters.raw.set(key, value)

    with pytest.raises(LimitsUnreachable):
        await counters.charge(RateLimit(maxCallsPerMinute=5, maxTokensPerDay=5), tokens=1)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\xff\xfe",
        b":abc\r\n",
        b"$-1\r\n",
        b"$5\r\nhello\r\n",
        b"$2\r\n\xff\xfe\r\n",
        b"*2\r\n:0\r\n:0\r\n",
        b"*0\r\n",
        b"+OK\r\n",
        b"+0\r\n",
        b"#t\r\n",
        b":-1\r\n",
        b":999999999999\r\n",
        b"-ERR no\r\n",
        b"-LOADING busy\r\n",
        b"-READONLY a replica\r\n",
        b"",
    ],
)
async def test_whatever_else_answers_is_unreachable(tmp_path, answer):
    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                if not answer:
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "s"):
        limits = ValkeyLimits(f"unix://{tmp_path / 's'}")
        charge = Charge(agent="bot", intent_id="int_1", limit=CALLS, model_tokens=0, now=NOON)
        try:
            with pytest.raises(LimitsUnreachable):
                await asyncio.wait_for(limits.charge(charge), 5)
        finally:
            await limits.close()
