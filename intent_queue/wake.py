"""Tells the drain to look now, through arq. A hint: lost or doubled it changes nothing but the delay.

The row in PostgreSQL is the job. A job here carries no data, has a fresh id (a fixed one would swallow wake-ups while
queued, running and kept), and is written as JSON, so that nothing in the broker can become code.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Final

from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE_NAME: Final = "holdfast:queue:looks"
JOB_NAME: Final = "look_now"
EXPIRES_S: Final = 10.0

BROKER_AWAY: Final = (RedisError, OSError, TimeoutError)


def dump_job(job: dict[str, Any]) -> bytes:
    """Write an arq job. What JSON cannot say (an exception) is written as its text."""
    return json.dumps(job, default=repr).encode("utf-8")


def load_job(data: bytes) -> dict[str, Any]:
    """Read an arq job. Raises: ValueError, which arq turns into a failed job."""
    try:
        job = json.loads(data)
    except ValueError as error:
        raise ValueError("a job is not JSON") from error
    if not isinstance(job, dict):
        raise ValueError("a job is not an object")  # noqa: TRY004 - malformed data, not a caller's mistake
    return job


def connect(broker_url: str, *, socket_timeout_s: float) -> ArqRedis:
    """Return a client that has not connected yet. Every wait on its sockets ends after `socket_timeout_s`."""
    pool = ConnectionPool.from_url(
        broker_url, socket_timeout=socket_timeout_s, socket_connect_timeout=socket_timeout_s, max_connections=8
    )
    return ArqRedis(pool, job_serializer=dump_job, job_deserializer=load_job, default_queue_name=QUEUE_NAME)


class Waker:
    """Sends wake-ups, at most one each `spacing_s`, and none for `cooldown_s` after the broker failed."""

    def __init__(
        self,
        broker_url: str | None,
        *,
        timeout_s: float = 0.25,
        spacing_s: float = 0.05,
        cooldown_s: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = connect(broker_url, socket_timeout_s=timeout_s) if broker_url is not None else None
        self._timeout_s = timeout_s
        self._spacing_s = spacing_s
        self._cooldown_s = cooldown_s
        self._monotonic = monotonic
        self._quiet_until = float("-inf")
        self._told = False

    async def wake(self) -> bool:
        """Tell a worker to look now, within `timeout_s`. False if nobody was told: the ticker looks within a second.

        Never raises for a broker that is away. A burst is one wake-up: the answer to its others is that of the last.
        """
        now = self._monotonic()
        if self._redis is None:
            return False
        if now < self._quiet_until:
            return self._told
        # Set before the await: callers that come while the broker hangs return at once.
        self._quiet_until, self._told = now + self._timeout_s + self._cooldown_s, False
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send(self._redis)
        except BROKER_AWAY:
            self._quiet_until = self._monotonic() + self._cooldown_s
            return False
        self._quiet_until, self._told = now + self._spacing_s, True
        return True

    async def _send(self, redis: ArqRedis) -> None:
        await redis.enqueue_job(JOB_NAME, _expires=EXPIRES_S)

    async def close(self) -> None:
        """Close the connections to the broker."""
        if self._redis is not None:
            await self._redis.aclose(close_connection_pool=True)
