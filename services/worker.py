"""The worker process: drains the queue by full re-evaluation once the dependencies are back."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Final, TypeAlias

import uvloop

from intent_queue import worker
from intent_queue.drain import Drain
from intent_queue.leader import Leader
from intent_queue.pace import Pace
from services.compose import background, open_service
from services.draining import AuthorizingDecider
from services.notices.configuration import ConfigurationInvalid
from services.notices.notice import ID_PREFIX, Kind, Notice, Severity
from services.policies import NoPolicies
from services.ports import Entry, RecordingFailed
from services.process import configure_logging, read_settings, refuse

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

    from intent_queue.drain import TickReport
    from services.compose import Service
    from services.settings import Settings

    Tick: TypeAlias = Callable[[], Awaitable[TickReport]]

_log = logging.getLogger(__name__)

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
    except NoPolicies as error:
        return refuse(f"refusing to start without policies: {error}")
    except ConfigurationInvalid as error:
        return refuse(str(error))
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
        running = [tasks.create_task(coroutine) for coroutine in (*background(service), service.changes.run())]
        drain = Drain(
            service.queue,
            AuthorizingDecider(service.authorizer),
            service.clock,
            Pace(),
            lambda: not stop.is_set() and service.upkeep.closed_for_s() >= _CLOSED_FOR_S,
            worker=settings.instance,
        )
        tick = parking_recorded(drain.tick, service)
        await worker.run(settings.broker_url, worker.led_by(leader, tick, drain.stand_by), stop=stop)
        for task in running:
            task.cancel()


def _parked(service: Service, intent_id: str) -> Notice:
    return Notice(
        notice_id=service.ids.new(ID_PREFIX),
        kind=Kind.QUEUE_PARKED,
        severity=Severity.WARNING,
        dedupe_key=f"parked:{intent_id}",
        summary=f"{intent_id} was tried too often and is parked: it stays denied until an operator looks at it",
        at=service.clock.now(),
        details={"intent_id": intent_id, "instance": service.settings.instance},
    )


def parking_recorded(
    tick: Callable[[], Awaitable[TickReport]], service: Service
) -> Callable[[], Awaitable[TickReport]]:
    """Return a tick that records which intents it parked: they stay denied until an operator looks at them."""

    async def tick_and_record() -> TickReport:
        report = await tick()
        for intent_id in report.parked:
            _log.error("%s was tried too often and is parked", intent_id)
            entry = Entry(
                kind="queue.parked",
                at=service.clock.now(),
                members={"intent_id": intent_id},
                journal_may_release=True,
                notices=(_parked(service, intent_id),),
            )
            try:
                service.lane.append(entry)
            except RecordingFailed as error:
                _log.error("the parking of %s could not be recorded: %s", intent_id, error)
        return report

    return tick_and_record
