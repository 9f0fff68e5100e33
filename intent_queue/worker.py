"""Runs the drain's ticks: on a wake-up from the broker, and at least every interval without one.

The loop that ticks depends on nothing but the tick. Beside it a supervised arq worker does one thing, set a flag. The
broker may be killed, hang or be flushed: the supervisor starts over, and meanwhile the interval does the same work up
to a second later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Any, Final

from arq.connections import ArqRedis
from arq.worker import Worker, func

from intent_queue.drain import TickReport
from intent_queue.wake import BROKER_AWAY, EXPIRES_S, JOB_NAME, QUEUE_NAME, connect, dump_job, load_job

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from intent_queue.leader import Leader

POLL_S: Final = 0.1
BROKER_TIMEOUT_S: Final = 1.0
RETRY_FIRST_S: Final = 0.05
RETRY_CAP_S: Final = 1.0

_log = logging.getLogger(__name__)


async def run(
    broker_url: str | None,
    tick: Callable[[], Awaitable[TickReport]],
    *,
    tick_interval_s: float = 1.0,
    stop: asyncio.Event,
) -> None:
    """Tick until `stop` is set; the tick under way is finished first. What `tick` raises ends the worker.

    `broker_url` is `redis://`, `rediss://` or `unix://`; None runs on the interval alone.
    """
    looks = _Looks()
    async with asyncio.TaskGroup() as group:
        listener = group.create_task(_listen(broker_url, looks)) if broker_url is not None else None
        stopper = group.create_task(_stop_looking(stop, looks))
        while not stop.is_set():
            looks.asked.clear()
            report = await tick()
            looks.want(wanted=report.led)
            if report.more:
                await asyncio.sleep(report.pause_s)
                continue
            with contextlib.suppress(TimeoutError):
                # Spread, so that many workers do not ask the database in the same instant.
                async with asyncio.timeout(tick_interval_s * random.uniform(0.9, 1.0)):  # noqa: S311 - no secret
                    await looks.asked.wait()
        stopper.cancel()
        if listener is not None:
            listener.cancel()


def led_by(
    leader: Leader, tick: Callable[[], Awaitable[TickReport]], stand_by: Callable[[], Awaitable[None]]
) -> Callable[[], Awaitable[TickReport]]:
    """Return a tick that only stands by where another worker leads."""

    async def tick_if_leading() -> TickReport:
        if not await leader.leads():
            await stand_by()
            return TickReport(led=False)
        return await tick()

    return tick_if_leading


class _Looks:
    """What the listener and the ticking loop tell each other."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._wanted = True
        self._worker: Worker | None = None

    def heard_by(self, worker: Worker) -> None:
        """Say who takes the wake-ups now."""
        self._worker = worker
        worker.allow_pick_jobs = self._wanted

    def want(self, *, wanted: bool) -> None:
        """Take wake-ups, or leave them in the broker: a worker that does not lead leaves them to the one that does."""
        self._wanted = wanted
        if self._worker is not None:
            self._worker.allow_pick_jobs = wanted


async def _stop_looking(stop: asyncio.Event, looks: _Looks) -> None:
    await stop.wait()
    looks.asked.set()


async def _listen(broker_url: str, looks: _Looks) -> None:
    """Keep an arq worker alive. It dies with its connection, so each attempt has connections of its own."""
    delay_s = RETRY_FIRST_S
    while True:
        redis = connect(broker_url, socket_timeout_s=BROKER_TIMEOUT_S)
        context: dict[Any, Any] = {"looks": looks, "reached": False}
        worker = _worker(redis, context)
        looks.heard_by(worker)
        listening = asyncio.create_task(worker.main())
        try:
            await asyncio.wait([listening])
            listening.result()
        except (*BROKER_AWAY, ValueError) as error:  # ValueError: an id in the queue that is not text
            if context["reached"]:
                delay_s = RETRY_FIRST_S
            _log.warning("the broker is away (%s), the ticker carries on", type(error).__name__)
        finally:
            await _abandon(listening, worker, redis)
        await asyncio.sleep(delay_s)
        delay_s = min(RETRY_CAP_S, delay_s * 2)


def _worker(redis: ArqRedis, context: dict[Any, Any]) -> Worker:
    return Worker(
        functions=[func(_look_now, name=JOB_NAME, keep_result=0, timeout=1, max_tries=1)],
        queue_name=QUEUE_NAME,
        redis_pool=redis,
        ctx=context,
        handle_signals=False,
        max_jobs=100,
        poll_delay=POLL_S,
        job_serializer=dump_job,
        job_deserializer=load_job,
        on_startup=_reached,
        log_results=False,
    )


async def _look_now(ctx: dict[Any, Any], *_args: Any, **_kwargs: Any) -> None:
    """Do the only job there is: have the ticking loop look. Harmless if lost or doubled."""
    looks: _Looks = ctx["looks"]
    looks.asked.set()


async def _reached(ctx: dict[Any, Any]) -> None:
    """Note that the broker answered; look, and forget the wake-ups from before, whose jobs have expired."""
    looks: _Looks = ctx["looks"]
    redis: ArqRedis = ctx["redis"]
    await redis.zremrangebyscore(QUEUE_NAME, "-inf", (time.time() - EXPIRES_S) * 1000)
    ctx["reached"] = True
    looks.asked.set()


async def _abandon(listening: asyncio.Task[None], worker: Worker, redis: ArqRedis) -> None:
    """End what still runs and close the connections, without asking the broker for anything."""
    tasks = {listening, *worker.tasks.values()}
    pending = tasks
    while pending:
        # Again and again: the client library can swallow a cancellation.
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=RETRY_FIRST_S)
    await asyncio.gather(*tasks, return_exceptions=True)  # a failure was reported by `listening` already
    with contextlib.suppress(*BROKER_AWAY):
        await redis.aclose(close_connection_pool=True)
