"""Calls per minute and model tokens per day, counted in Valkey by atomic scripts, shared by every replica.

The minute is a sliding window by Valkey's own clock, so that replicas whose clocks differ share one window. The day is
UTC's. An intent counts once, however often it is evaluated: the drain does not charge it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.ports import LimitsUnreachable

if TYPE_CHECKING:
    from services.ports import Charge

_TIMEOUT_S: Final = 0.25
_MINUTE_MS: Final = 60_000
_DAY_S: Final = 86_400

# KEYS: calls (intents by the milliseconds they were counted at), tokens of the day, what the intent was charged.
# ARGV: calls allowed or -1, tokens allowed or -1, tokens asked, the intent, what to note as charged, seconds to the end
# of the day. Returns 0, or the milliseconds to wait. Nothing is written before every limit has agreed.
_CHARGE: Final = """
local calls, tokens, asked = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local call = false
if calls >= 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 60000)
  call = not redis.call('ZSCORE', KEYS[1], ARGV[4])
  local counted = redis.call('ZCARD', KEYS[1])
  if call and counted >= calls then
    local leaving = redis.call('ZRANGE', KEYS[1], counted - calls, counted - calls, 'WITHSCORES')
    return math.max(1, tonumber(leaving[2]) + 60000 - now)
  end
end
local spend = tokens >= 0 and redis.call('GET', KEYS[3]) ~= ARGV[5]
if spend then
  local used = tonumber(redis.call('GET', KEYS[2]) or '0')
  if used >= tokens or used + asked > tokens then return tonumber(ARGV[6]) * 1000 end
end
if call then
  redis.call('ZADD', KEYS[1], now, ARGV[4])
  redis.call('PEXPIRE', KEYS[1], 61000)
end
if spend then
  redis.call('INCRBY', KEYS[2], ARGV[3])
  redis.call('EXPIRE', KEYS[2], tonumber(ARGV[6]) + 3600)
  redis.call('SET', KEYS[3], ARGV[5], 'EX', tonumber(ARGV[6]) + 3600)
end
return 0
"""

# KEYS: what the intent was charged, tokens of the day of that charge. ARGV: the charge as it was read, tokens charged,
# tokens used. Returns 1 if it corrected. The note goes with the correction, so there is no second one.
_CORRECT: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
local used = redis.call('GET', KEYS[2])
if not used then return 0 end
local corrected = math.max(0, tonumber(used) - tonumber(ARGV[2]) + tonumber(ARGV[3]))
redis.call('SET', KEYS[2], string.format('%.0f', corrected), 'KEEPTTL')
return 1
"""


class ValkeyLimits:
    """Counters that survive a restart as far as Valkey's append-only file does."""

    def __init__(self, broker_url: str) -> None:
        self._redis: Redis = Redis.from_url(
            broker_url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, decode_responses=True
        )
        self._charge = self._redis.register_script(_CHARGE)
        self._correct = self._redis.register_script(_CORRECT)

    async def charge(self, charge: Charge) -> int:
        """Count the intent and return 0, or return the seconds to wait and count nothing. Raises: LimitsUnreachable."""
        day = charge.now.strftime("%Y%m%d")
        midnight_s = _DAY_S - int(charge.now.timestamp()) % _DAY_S
        calls, tokens = charge.limit.max_calls_per_minute, charge.limit.max_tokens_per_day
        keys = [_calls(charge.agent), _tokens(charge.agent, day), _charged(charge.agent, charge.intent_id)]
        arguments = [
            -1 if calls is None else calls,
            -1 if tokens is None else tokens,
            charge.model_tokens,
            charge.intent_id,
            f"{day}:{charge.model_tokens}",
            midnight_s,
        ]
        try:
            wait_ms = await self._charge(keys=keys, args=arguments)
        except _UNREACHABLE as error:
            raise LimitsUnreachable(f"{type(error).__name__}: {error}") from error
        if type(wait_ms) is not int or not 0 <= wait_ms <= max(_MINUTE_MS, midnight_s * 1000):
            raise LimitsUnreachable("the counters answered wrongly")
        return -(-wait_ms // 1000)

    async def correct(self, agent: str, intent_id: str, *, model_tokens: int) -> bool:
        """Put the tokens really used in place of those charged, on the day of the charge, once.

        Raises: LimitsUnreachable.
        """
        noted = _charged(agent, intent_id)
        try:
            charged = await self._redis.get(noted)
            if charged is None:
                return False
            day, _, asked = charged.partition(":")
            done = await self._correct(keys=[noted, _tokens(agent, day)], args=[charged, int(asked), model_tokens])
        except _UNREACHABLE as error:
            raise LimitsUnreachable(f"{type(error).__name__}: {error}") from error
        if done not in (0, 1):
            raise LimitsUnreachable("the counters answered wrongly")
        return bool(done)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


#: ValueError: what answers does not speak the protocol, or the text is none.
_UNREACHABLE: Final = (RedisError, OSError, TimeoutError, ValueError)


# The braces keep the keys of one agent on one node of a cluster: a script sees no other.
def _calls(agent: str) -> str:
    return f"holdfast:{{{agent}}}:calls"


def _tokens(agent: str, day: str) -> str:
    return f"holdfast:{{{agent}}}:tokens:{day}"


def _charged(agent: str, intent_id: str) -> str:
    return f"holdfast:{{{agent}}}:charged:{intent_id}"
