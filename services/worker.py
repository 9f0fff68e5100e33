"""The worker process: drains the queue by full re-evaluation once the dependencies are back."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

import uvloop

from intent_queue import worker
from intent_queue.drain import Drain
from intent_queue.leader import Leader
from intent_queue.pace import Pace
from services.compose import background, open_service
from services.decision.finding import BundleInvalid
from services.draining import AuthorizingDecider
from services.process import configure_logging, read_settings, refuse_bundle

if TYPE_CHECKING:
    import argparse

    from services.settings import Settings

#: The boundaries must have been closed this long before the drain starts: a recovered dependency is fragile.
_CLOSED_FOR_S: Final = 5.0


def main(args: argparse.Namespace) -> int:  # noqa: ARG001 - every command takes its arguments
    """Run the worker until told to stop."""
    configure_logging()
    settings = read_settings()
    if settings is None:
        return 1
    try:
        uvloop.run(_work(settings))
    except BundleInvalid as error:
        return refuse_bundle(error)
    return 0


async def _work(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with (
        open_service(settings) as service,
        Leader(settings.database_url) as leader,
        asyncio.TaskGroup() as tasks,
    ):
        running = [tasks.create_task(coroutine) for coroutine in background(service)]
        drain = Drain(
            service.queue,
            AuthorizingDecider(service.authorizer),
            service.clock,
            Pace(),
            lambda: service.upkeep.closed_for_s() >= _CLOSED_FOR_S,
            worker=settings.instance,
        )
        await worker.run(settings.broker_url, worker.led_by(leader, drain.tick), stop=stop)
        for task in running:
            task.cancel()
