"""Puts the parts of one process together, and keeps them alive.

The API and the worker are the same machine: the worker only has another way in.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.reasons import Cause, ReasonCode

from intent_queue.store import QueueStore
from intent_queue.wake import Waker
from services.authorizer import Authorizer, Boundaries
from services.boundary import Boundary, WrongAnswer
from services.evaluation import CatalogueClassifier, PolicyEvaluator
from services.hub import Hub
from services.limits import ValkeyLimits
from services.metrics import Metrics
from services.notifying import Notifying, read_notifications
from services.policies import ActivePolicies
from services.policy_keys import TrustedKeys
from services.ports import BundleStale, Entry, RecordingFailed, SigningFailed, StoreUnreachable
from services.postgres.break_glass import BreakGlassBook
from services.postgres.bundles import PostgresBundles
from services.postgres.changes import PostgresChanges
from services.postgres.credentials import CredentialDirectory
from services.postgres.heartbeat import Heartbeat
from services.postgres.intents import PostgresIntents
from services.postgres.orders import OrderBook
from services.postgres.pool import ReadPool
from services.postgres.queued import PostgresQueued
from services.postgres.reports import PostgresReports
from services.postgres.reviews import PostgresReviews
from services.postgres.shadows import PostgresShadows
from services.postgres.sink import PostgresSink
from services.postgres.webhooks import PostgresDeliveries, PostgresWebhookKeys
from services.recording.journal import Journal
from services.recording.lane import Lane, LaneSettings, Unrecordable
from services.remote_classifier import ClassifierUnreachable, RemoteClassifier
from services.replicas import LiveTraffic, Replicas, Reporter
from services.review_watch import ReviewWatch
from services.shadow import ShadowEvaluator
from services.shared_activity import SharedActivity
from services.signing import RemoteSigner
from services.snapshot_watch import SnapshotWatch
from services.system import SystemClock, SystemIds
from services.upkeep import Upkeep
from services.waiting import QueueCensus
from signer.client import SignerClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from services.breaker import Transition
    from services.decision.policy import Policy
    from services.settings import Settings

_log = logging.getLogger(__name__)

#: What a commit may take beyond the lane's own deadline before the boundary stops waiting: the journal's fsync.
_JOURNAL_MARGIN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts that the API and the worker share."""

    settings: Settings
    policies: ActivePolicies
    orders: OrderBook
    break_glass: BreakGlassBook
    bundles: PostgresBundles
    shadow: ShadowEvaluator
    shadows: PostgresShadows
    clock: SystemClock
    ids: SystemIds
    metrics: Metrics
    pool: ReadPool
    heartbeat: Heartbeat
    lane: Lane
    signer: RemoteSigner
    queue: QueueStore
    intents: PostgresIntents
    changes: PostgresChanges
    hub: Hub
    deliveries: PostgresDeliveries
    webhook_keys: PostgresWebhookKeys
    queued: PostgresQueued
    credentials: CredentialDirectory
    census: QueueCensus
    limits: ValkeyLimits
    activity: SharedActivity
    boundaries: Boundaries
    authorizer: Authorizer
    upkeep: Upkeep
    wakeups: Wakeups
    notices: Notifying
    reporter: Reporter
    replicas: Replicas
    snapshots: SnapshotWatch


class Wakeups:
    """Tells the worker to look now, outside the path of any request."""

    def __init__(self, waker: Waker) -> None:
        self._waker = waker
        self._wanted = asyncio.Event()

    def want(self) -> None:
        """Ask for a wake-up. Returns at once; many wishes are one."""
        self._wanted.set()

    async def run(self) -> None:
        """Pass wishes on until cancelled. One that reaches nobody costs a second: the worker looks by itself."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self._waker.wake()


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Build one process's parts and close them again. Raises: NoPolicies, and what stops the lane from starting."""
    clock, ids, metrics = SystemClock(), SystemIds(), Metrics()
    pool = ReadPool(settings.database_url)
    await pool.start()
    try:
        bundles = PostgresBundles(pool)
        policies = ActivePolicies(
            bundles,
            clock=clock,
            keys=TrustedKeys(settings.policy_keys),
            cache=settings.data_dir / f"policies-{settings.instance}.bundle",
            on_stale=lambda stale: metrics.policy_stale.set(int(stale)),
        )
        # The policies first: without them nothing starts.
        await policies.start()
        async with _open_parts(settings, pool, bundles, policies, metrics, clock, ids) as service:
            yield service
    finally:
        await pool.close()


@asynccontextmanager
async def _open_parts(
    settings: Settings,
    pool: ReadPool,
    bundles: PostgresBundles,
    policies: ActivePolicies,
    metrics: Metrics,
    clock: SystemClock,
    ids: SystemIds,
) -> AsyncIterator[Service]:
    # Deadlines are those of the bundle at the start; only the lease follows the active one.
    policy = policies.current()
    limits_ms = policy.settings.limits
    lane = _lane(settings, clock, ids, commit_deadline_s=limits_ms.audit_ms / 1000)
    signer_client = SignerClient(settings.signer_socket, total_timeout_s=limits_ms.signing_ms / 1000)
    signer = RemoteSigner(signer_client)
    upkeep = Upkeep(lane=lane, signer=signer, clock=clock)
    lane.on_mode_change = upkeep.on_lane_mode
    heartbeat = Heartbeat(pool, on_beat=upkeep.on_beat)
    queue = QueueStore(pool.pool)
    queued = PostgresQueued(pool, intents := PostgresIntents(pool, queue))
    census = QueueCensus(queue, metrics)
    limits = ValkeyLimits(settings.broker_url)
    activity = SharedActivity(settings.broker_url, clock=clock, process=ids.new(f"{settings.instance}_"))
    waker = Waker(settings.broker_url)
    reports = PostgresReports(pool)
    reporter = Reporter(
        reports,
        process=ids.new(f"{settings.instance}_"),
        boundaries=upkeep.boundaries,
        live=LiveTraffic(metrics),
    )
    notices = Notifying(
        read_notifications(settings),
        instance=settings.instance,
        database_url=settings.database_url,
        lane=lane,
        metrics=metrics,
        clock=clock,
        ids=ids,
    )
    boundaries = _boundaries(policy, clock, lane, metrics, notices, reporter)
    notices.watch((boundaries.intent, boundaries.evaluation, boundaries.token, boundaries.audit), policies)
    remote = _remote_classifier(settings)
    upkeep.watch(boundaries, heartbeat, policies=policies, classifier=remote, bounds=census.bounds)
    orders = OrderBook(
        pool,
        settings.data_dir / f"orders-{settings.instance}.json",
        clock=clock,
        in_journal=upkeep.in_journal,
        on_change=upkeep.on_orders,
    )
    break_glass = BreakGlassBook(
        pool,
        settings.data_dir / f"break-glass-{settings.instance}.json",
        instance=settings.instance,
        clock=clock,
        in_journal=upkeep.in_journal,
    )
    shadow = ShadowEvaluator(PolicyEvaluator(store=heartbeat, limits=limits), policies.candidate)
    authorizer = Authorizer(
        issuer=settings.issuer,
        policies=policies,
        orders=orders,
        uses=break_glass,
        classifier=remote or CatalogueClassifier(),
        evaluator=shadow,
        approvals=queued,
        activity=activity,
        waiting=census.bounds,
        places=intents,
        recorder=lane,
        signer=signer,
        boundaries=boundaries,
        clock=clock,
        ids=ids,
    )
    credentials = CredentialDirectory(pool, settings.data_dir / f"credentials-{settings.instance}.json", clock=clock)

    changes = PostgresChanges(pool)
    hub = Hub(changes)
    metrics.waiters.set_function(lambda: hub.waiters)
    metrics.streams.set_function(lambda: hub.streams)

    await lane.start()
    try:
        await notices.start()
        await signer_client.start()
        await credentials.start()
        await orders.start()
        await break_glass.start()
        await census.start()
        policies.record_to(lane)
        yield Service(
            settings=settings,
            policies=policies,
            orders=orders,
            break_glass=break_glass,
            bundles=bundles,
            shadow=shadow,
            shadows=PostgresShadows(pool),
            clock=clock,
            ids=ids,
            metrics=metrics,
            pool=pool,
            heartbeat=heartbeat,
            lane=lane,
            signer=signer,
            queue=queue,
            changes=changes,
            hub=hub,
            deliveries=PostgresDeliveries(pool),
            webhook_keys=PostgresWebhookKeys(pool),
            intents=intents,
            queued=queued,
            credentials=credentials,
            census=census,
            limits=limits,
            activity=activity,
            boundaries=boundaries,
            authorizer=authorizer,
            upkeep=upkeep,
            wakeups=Wakeups(waker),
            notices=notices,
            reporter=reporter,
            replicas=Replicas(reports, clock),
            snapshots=SnapshotWatch(reports, clock, metrics),
        )
    finally:
        await signer_client.close()
        await activity.close()
        if remote is not None:
            await remote.close()
        await limits.close()
        await waker.close()
        await lane.stop()
        await notices.close()


def background(service: Service) -> Sequence[Coroutine[None, None, None]]:
    """Return what must run as long as the process does; the end of one is the end of all."""
    return (
        service.lane.until_ended(),
        service.heartbeat.run(),
        service.policies.run(),
        service.orders.run(),
        service.break_glass.run(),
        service.shadow.run(service.shadows, instance=service.settings.instance),
        service.credentials.run(),
        service.census.run(),
        service.upkeep.watch_signer(),
        service.upkeep.watch_classifier(),
        service.upkeep.probe(),
        service.wakeups.run(),
        service.activity.run(),
        service.notices.run(),
        service.reporter.run(),
        service.snapshots.run(),
        ReviewWatch(PostgresReviews(service.pool), service.clock, service.metrics).run(),
    )


def _lane(settings: Settings, clock: SystemClock, ids: SystemIds, *, commit_deadline_s: float) -> Lane:
    hedge_s = min(settings.commit_hedge_ms / 1000, commit_deadline_s)  # a bundle may be stricter than the hedge
    return Lane(
        PostgresSink(settings.database_url),
        Journal(settings.data_dir / "journal" / settings.instance, max_bytes=settings.journal_max_bytes),
        clock,
        ids,
        instance=settings.instance,
        settings=LaneSettings(hedge_s=hedge_s, commit_deadline_s=commit_deadline_s),
    )


def _remote_classifier(settings: Settings) -> RemoteClassifier | None:
    if settings.classifier_url is None:
        return None
    token = settings.classifier_token
    return RemoteClassifier(
        settings.classifier_url,
        token=None if token is None else token.get_secret_value(),
        min_confidence=settings.classifier_min_confidence,
    )


def _boundaries(
    policy: Policy, clock: SystemClock, lane: Lane, metrics: Metrics, notices: Notifying, reporter: Reporter
) -> Boundaries:
    limits = policy.settings.limits
    recorded = _recorder_of_transitions(lane, clock, metrics, notices, reporter)
    return Boundaries(
        intent=Boundary(
            "intent",
            reason_code=ReasonCode.CLASSIFICATION_UNAVAILABLE,
            deadline_s=limits.classification_ms / 1000,
            clock=clock,
            # What the classifier cannot tell of one intent is that intent's trouble.
            counts=(TimeoutError, ClassifierUnreachable),
            on_transition=recorded,
        ),
        evaluation=Boundary(
            "evaluation",
            reason_code=ReasonCode.EVALUATION_UNAVAILABLE,
            deadline_s=limits.evaluation_ms / 1000,
            clock=clock,
            causes={
                StoreUnreachable: Cause.STORE_UNREACHABLE,
                BundleStale: Cause.STALE_BUNDLE,
                TimeoutError: Cause.TIMEOUT,
                Exception: Cause.POLICY_ERROR,
            },
            # An evaluation that fails by itself denies its own intent; it must not stop the others.
            counts=(StoreUnreachable,),
            open_cause=Cause.CIRCUIT_OPEN,
            on_transition=recorded,
        ),
        token=Boundary(
            "token",
            reason_code=ReasonCode.SIGNING_UNAVAILABLE,
            deadline_s=limits.signing_ms / 1000,
            clock=clock,
            counts=(SigningFailed, TimeoutError, WrongAnswer),
            on_transition=recorded,
        ),
        audit=Boundary(
            "audit",
            reason_code=ReasonCode.AUDIT_UNAVAILABLE,
            deadline_s=limits.audit_ms / 1000 + _JOURNAL_MARGIN_S,
            clock=clock,
            # What no log could hold is its own intent's trouble: one agent must not stop the others.
            spares=(Unrecordable,),
            on_transition=recorded,
        ),
    )


def _recorder_of_transitions(
    lane: Lane, clock: SystemClock, metrics: Metrics, notices: Notifying, reporter: Reporter
) -> Callable[[str, Transition], None]:
    def record(name: str, transition: Transition) -> None:
        reporter.changed()
        metrics.boundary_transitions.labels(name, transition.after.value).inc()
        entry = Entry(
            kind="boundary.transition",
            at=clock.now(),
            members={
                "boundary": name,
                "generation": transition.generation,
                "before": transition.before.value,
                "after": transition.after.value,
                "why": transition.why,
            },
            journal_may_release=True,
        )
        try:
            lane.append(entry)
        except RecordingFailed as error:
            # Neither the database nor the journal takes records: every answer is a refusal already.
            _log.error("a transition of the %s boundary could not be recorded: %s", name, error)
        notices.on_transition(name, transition)

    return record
