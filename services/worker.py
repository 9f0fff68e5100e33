"""The worker process: drains the queue by full re-evaluation once the dependencies are back."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import signal
from typing import TYPE_CHECKING, Final, TypeAlias

import uvloop

from intent_queue import worker
from intent_queue.drain import Drain
from intent_queue.leader import Leader
from intent_queue.pace import Pace
from services.aftermath import Aftermath
from services.compose import background, open_service
from services.draining import AuthorizingDecider
from services.lapsing import Lapsing
from services.notices.configuration import ConfigurationInvalid
from services.notices.notice import ID_PREFIX, Kind, Notice, Severity
from services.outbound.keys import read_private_keys
from services.outbound.post import Poster, SystemResolver
from services.outbound.signature import KeyMalformed
from services.policies import NoPolicies
from services.ports import Entry, RecordingFailed
from services.postgres.decisions import PostgresDecisions
from services.postgres.lapsed import PostgresLapsed
from services.postgres.reviews import PostgresReviews
from services.process import LOG_UNUSABLE, configure_logging, end_with, read_settings, refuse, refuse_log
from services.settings import guard_of
from services.webhooks import Webhooks

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from intent_queue.drain import TickReport
    from services.compose import Service
    from services.settings import Settings

    Tick: TypeAlias = Callable[[], Awaitable[TickReport]]

_log = logging.getLogger(__name__)

#: The boundaries must have been closed this long before the drain starts: a recovered dependency is fragile.
_CLOSED_FOR_S: Final = 5.0
_JITTER_S: Final = 1.0
#: The advisory lock of the one worker that follows up on what left around the evaluation.
_AFTERMATH: Final = int.from_bytes(b"hf_glass")
#: And of the one that ends overrides.
_LAPSING: Final = int.from_bytes(b"hf_lapse")


def main(args: argparse.Namespace) -> int:  # noqa: ARG001 - every command takes its arguments
    """Run the worker until told to stop."""
    configure_logging()
    settings = read_settings()
    if settings is None:
        return 1
    try:
        keys = () if settings.webhook_key is None else read_private_keys(settings.webhook_key)
    except KeyMalformed as error:
        return refuse(f"refusing to start without the keys of webhooks: {error}")
    try:
        uvloop.run(_work(settings, keys))
    except NoPolicies as error:
        return refuse(f"refusing to start without policies: {error}")
    except ConfigurationInvalid as error:
        return refuse(str(error))
    except LOG_UNUSABLE as error:
        return refuse_log(error, settings)
    return 0


async def _work(settings: Settings, webhook_keys: Sequence[Ed25519PrivateKey]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with (
        open_service(settings) as service,
        Leader(settings.database_url) as leader,
        Leader(settings.database_url, key=_AFTERMATH) as aftermath_leader,
        Leader(settings.database_url, key=_LAPSING) as lapsing_leader,
        asyncio.TaskGroup() as tasks,
    ):
        upkeep = (
            *background(service),
            service.changes.run(),
            service.replicas.run(),
            *calling_back(service, webhook_keys),
        )
        running = [tasks.create_task(coroutine) for coroutine in upkeep]
        # Not all regions at once.
        quiet_s = _CLOSED_FOR_S + random.uniform(0, _JITTER_S)  # noqa: S311 - no secret
        running.append(tasks.create_task(_aftermath(service).run(aftermath_leader)))
        running.append(tasks.create_task(_lapsing(service).run(lapsing_leader)))
        for task in running:
            task.add_done_callback(end_with)
        drain = Drain(
            service.queue,
            AuthorizingDecider(service.authorizer),
            service.clock,
            Pace(),
            lambda: not stop.is_set() and service.upkeep.closed_for_s() >= quiet_s and service.replicas.clear(),
            worker=settings.instance,
            live=service.replicas.live,
        )
        # What was built at the start stays: no collection during the drain needs to walk it.
        gc.collect()
        gc.freeze()
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


def calling_back(service: Service, keys: Sequence[Ed25519PrivateKey]) -> Sequence[Coroutine[None, None, None]]:
    """Return what calls receivers back; nothing without a key to sign with."""
    settings = service.settings
    if not keys:
        return ()
    webhooks = Webhooks(
        deliveries=service.deliveries,
        published=service.webhook_keys,
        post=Poster(guard_of(settings), SystemResolver(), authorities=settings.webhook_ca),
        keys=keys,
        recorder=service.lane,
        clock=service.clock,
        ids=service.ids,
    )
    return webhooks.run(), webhooks.publish()


def _aftermath(service: Service) -> Aftermath:
    return Aftermath(
        reviews=PostgresReviews(service.pool),
        decisions=PostgresDecisions(service.pool),
        bundles=service.bundles,
        policies=service.policies,
        recorder=service.lane,
        clock=service.clock,
        ids=service.ids,
    )


def _lapsing(service: Service) -> Lapsing:
    return Lapsing(orders=PostgresLapsed(service.pool), recorder=service.lane, clock=service.clock, ids=service.ids)


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
