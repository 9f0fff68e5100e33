"""Calls per minute and model tokens per day, counted in Valkey by one atomic script, shared by every replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.ports import LimitsUnreachable

if TYPE_CHECKING:
    from services.ports import Charge

_TIMEOUT_S: Final = 0.25

# KEYS: calls (sorted set of milliseconds), tokens of the day (counter). ARGV: now in ms, calls allowed or -1, tokens
# allowed or -1, tokens asked, a unique member, seconds to the end of the day. Returns 0, or the milliseconds to wait.
_CHARGE: Final = """
local now, calls, tokens, asked = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if calls >= 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 60000)
  if redis.call('ZCARD', KEYS[1]) >= calls then
    local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
    if #oldest == 0 then return 60000 end
    return math.max(1, tonumber(oldest[2]) + 60000 - now)
  end
end
if tokens >= 0 then
  local used = tonumber(redis.call('GET', KEYS[2]) or '0')
  if used >= tokens or used + asked > tokens then return tonumber(ARGV[6]) * 1000 end
end
if calls >= 0 then
  redis.call('ZADD', KEYS[1], now, ARGV[5])
  redis.call('PEXPIRE', KEYS[1], 61000)
end
if tokens >= 0 then
  redis.call('INCRBY', KEYS[2], asked)
  redis.call('EXPIRE', KEYS[2], 172800)
end
return 0
"""


class ValkeyLimits:
    """Counters that survive a restart as far as Valkey's append-only file does."""

    def __init__(self, broker_url: str) -> None:
        self._redis: Redis = Redis.from_url(
            broker_url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, decode_responses=True
        )
        self._script = self._redis.register_script(_CHARGE)

    async def charge(self, charge: Charge) -> int:
        """Count the call and return 0, or return the seconds until it may be repeated and count nothing.

        Raises: LimitsUnreachable.
        """
        now_ms = int(charge.now.timestamp() * 1000)
        day = charge.now.strftime("%Y%m%d")
        midnight_s = 86_400 - int(charge.now.timestamp()) % 86_400
        calls, tokens = charge.limit.max_calls_per_minute, charge.limit.max_tokens_per_day
        keys = [f"holdfast:calls:{charge.agent}", f"holdfast:tokens:{charge.agent}:{day}"]
        arguments = [
            now_ms,
            -1 if calls is None else calls,
            -1 if tokens is None else tokens,
            charge.model_tokens,
            charge.member,
            midnight_s,
        ]
        try:
            wait_ms = await self._script(keys=keys, args=arguments)
        except (RedisError, OSError, TimeoutError) as error:
            raise LimitsUnreachable(f"{type(error).__name__}: {error}") from error
        if not isinstance(wait_ms, int) or wait_ms < 0:
            raise LimitsUnreachable("the counters answered wrongly")
        return -(-wait_ms // 1000)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
