"""The API process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from services.administering import Administering
from services.break_glass import BreakGlass
from services.compose import background, open_service
from services.consumption import Consumption
from services.explaining import Explainer
from services.http.app import create_app
from services.http.break_glass import BreakGlassEndpoints
from services.http.callers import Callers
from services.http.events import EventEndpoints
from services.http.health import HealthEndpoints
from services.http.intents import IntentEndpoints
from services.http.keyholders import KeyholderEndpoints
from services.http.operators import OperatorEndpoints
from services.http.orders import OrderEndpoints
from services.http.policy import PolicyEndpoints
from services.http.protocol import ContractProtocol
from services.http.queue import QueueEndpoints
from services.http.reviews import ReviewEndpoints
from services.http.tokens import TokenEndpoints
from services.http.webhooks import WebhookEndpoints
from services.notices.configuration import ConfigurationInvalid
from services.ordering import Ordering
from services.outbound.post import SystemResolver
from services.policies import NoPolicies
from services.policy_keys import TrustedKeys
from services.postgres.decisions import PostgresDecisions
from services.postgres.reviews import PostgresReviews
from services.postgres.roster import PostgresRoster
from services.process import (
    LOG_UNUSABLE,
    allow_connections,
    configure_logging,
    end_with,
    read_settings,
    refuse,
    refuse_log,
)
from services.publishing import Publisher
from services.reviewing import Reviewing
from services.settings import guard_of
from services.submissions import Submissions
from services.tending import Tending
from services.webhooks import Callbacks

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator

    from starlette.types import ASGIApp

    from services.compose import Service
    from services.settings import Settings

_GRACEFUL_S = 3


def main(args: argparse.Namespace) -> int:
    """Run the API until told to stop. `args` has `host` and `port`, or `fd`, a listening socket it was handed."""
    configure_logging()
    allow_connections()
    settings = read_settings()
    if settings is None:
        return 1
    try:
        uvloop.run(_serve(settings, args))
    except NoPolicies as error:
        return refuse(f"refusing to start without policies: {error}")
    except ConfigurationInvalid as error:
        return refuse(str(error))
    except LOG_UNUSABLE as error:
        return refuse_log(error, settings)
    return 0


async def _serve(settings: Settings, args: argparse.Namespace) -> None:
    async with open_service(settings) as service, asyncio.TaskGroup() as tasks:
        callbacks = callbacks_of(service)
        upkeep = (*background(service), service.hub.run(), callbacks.run())
        running = [tasks.create_task(coroutine) for coroutine in upkeep]
        for task in running:
            task.add_done_callback(end_with)
        server = _Server(
            uvicorn.Config(
                build_app(service, callbacks),
                host=args.host,
                port=args.port,
                http=ContractProtocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                date_header=True,
                timeout_graceful_shutdown=_GRACEFUL_S,
            )
        )
        loop = asyncio.get_running_loop()

        def stop() -> None:
            server.stop()
            service.hub.close()  # nobody who waits holds up the end

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        # What lives from here on as long as the process need not be looked at by every collection.
        gc.collect()
        gc.freeze()
        await server.serve(sockets=None if args.fd is None else [socket.socket(fileno=args.fd)])
        for task in running:
            task.cancel()


class _Server(uvicorn.Server):
    """Leaves signals to the process: it has a log to close after the last response."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture nothing."""
        yield

    def stop(self) -> None:
        """Finish what is under way and return from `serve`."""
        self.should_exit = True


def callbacks_of(service: Service) -> Callbacks:
    """Return who judges where agents want to be called back."""
    return Callbacks(
        guard=guard_of(service.settings),
        resolver=SystemResolver(),
        published=service.webhook_keys,
        deliveries=service.deliveries,
        metrics=service.metrics,
    )


def build_app(service: Service, callbacks: Callbacks) -> ASGIApp:
    """Return the application over the service's parts."""
    callers = Callers(service.credentials)
    submissions = Submissions(
        authorizer=service.authorizer,
        store=service.intents,
        clock=service.clock,
        ids=service.ids,
        hub=service.hub,
        on_parked=service.wakeups.want,
        in_journal=service.upkeep.in_journal,
        on_ended=service.census.bounds.forget,
    )
    consumption = Consumption(
        issuer=service.settings.issuer,
        recorder=service.lane,
        signer=service.signer,
        store=service.intents,
        limits=service.limits,
        orders=service.orders,
        audit=service.boundaries.audit,
        clock=service.clock,
    )
    reviews = PostgresReviews(service.pool)
    administering = Administering(
        roster=PostgresRoster(service.pool),
        policies=service.policies,
        recorder=service.lane,
        audit=service.boundaries.audit,
        clock=service.clock,
        on_change=service.credentials.refresh,
    )
    tending = Tending(
        authorizer=service.authorizer,
        queued=service.queued,
        policies=service.policies,
        activity=service.activity,
        recorder=service.lane,
        audit=service.boundaries.audit,
        clock=service.clock,
        ids=service.ids,
        on_waiting=service.wakeups.want,
    )
    return create_app(
        [
            *IntentEndpoints(
                callers=callers, submissions=submissions, callbacks=callbacks, metrics=service.metrics
            ).routes(),
            *WebhookEndpoints(callbacks=callbacks).routes(),
            *EventEndpoints(callers=callers, submissions=submissions, hub=service.hub, feed=service.changes).routes(),
            *TokenEndpoints(
                callers=callers, consumption=consumption, signer=service.signer, metrics=service.metrics
            ).routes(),
            *PolicyEndpoints(
                callers=callers,
                policies=service.policies,
                bundles=service.bundles,
                publisher=Publisher(
                    bundles=service.bundles,
                    recorder=service.lane,
                    clock=service.clock,
                    keys=TrustedKeys(service.settings.policy_keys),
                ),
                shadows=service.shadows,
                explainer=Explainer(PostgresDecisions(service.pool), service.bundles),
            ).routes(),
            *QueueEndpoints(callers=callers, queue=service.queue, tending=tending).routes(),
            *OperatorEndpoints(callers=callers, administering=administering).routes(),
            *KeyholderEndpoints(
                callers=callers,
                administering=administering,
                orders=service.orders,
                waiting=service.census.waiting,
            ).routes(),
            *OrderEndpoints(
                callers=callers,
                ordering=Ordering(
                    orders=service.orders,
                    policies=service.policies,
                    recorder=service.lane,
                    audit=service.boundaries.audit,
                    clock=service.clock,
                    ids=service.ids,
                ),
                orders=service.orders,
                policies=service.policies,
                boundaries=service.upkeep.boundaries,
                probe=service.upkeep.probe_again,
                clock=service.clock,
            ).routes(),
            *BreakGlassEndpoints(
                callers=callers,
                break_glass=BreakGlass(
                    orders=service.orders,
                    ledger=service.break_glass,
                    policies=service.policies,
                    recorder=service.lane,
                    audit=service.boundaries.audit,
                    clock=service.clock,
                    ids=service.ids,
                ),
                reviews=reviews,
                ledger=service.break_glass,
                clock=service.clock,
            ).routes(),
            *ReviewEndpoints(
                callers=callers,
                reviewing=Reviewing(
                    reviews=reviews, recorder=service.lane, audit=service.boundaries.audit, clock=service.clock
                ),
                reviews=reviews,
                clock=service.clock,
            ).routes(),
            *HealthEndpoints(vitals=service.upkeep, metrics=service.metrics).routes(),
        ]
    )
