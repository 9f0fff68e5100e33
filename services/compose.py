"""Puts the parts of one process together, and keeps them alive.

The API and the worker are the same machine: the worker only has another way in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.reasons import Cause, ReasonCode

from intent_queue.store import QueueStore
from intent_queue.wake import Waker
from services.authorizer import Authorizer, Boundaries
from services.boundary import Boundary, WrongAnswer
from services.breaker import State
from services.canary import AuditCanary, EvaluationCanary
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
from services.remote_classifier import ClassifierUnreachable, ClassifierUnsure, RemoteClassifier
from services.replicas import LiveTraffic, Replicas, Reporter
from services.review_watch import ReviewWatch
from services.shadow import ShadowEvaluator
from services.shared_activity import SharedActivity
from services.signing import RemoteSigner
from services.snapshot_watch import SnapshotWatch
from services.system import SystemClock, SystemIds
from services.waiting import QueueCensus
from signer.client import SignerClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from intent_queue.bounds import Bounds
    from services.boundary import BoundaryState
    from services.breaker import Transition
    from services.decision.orders import Orders
    from services.decision.policy import Policy
    from services.settings import Settings

_log = logging.getLogger(__name__)

_PROBE_INTERVAL_S = 0.1
_SIGNER_CHECK_INTERVAL_S = 1.0
_CLASSIFIER_CHECK_INTERVAL_S = 1.0
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


class Upkeep:
    """Listens to each dependency's own sign of health, and sends the canaries."""

    def __init__(self, *, lane: Lane, signer: RemoteSigner, clock: SystemClock) -> None:
        self._lane = lane
        self._signer = signer
        self._clock = clock
        self._boundaries: Boundaries | None = None
        self._evaluation: EvaluationCanary | None = None
        self._heartbeat: Heartbeat | None = None
        self._classifier: RemoteClassifier | None = None
        self._policies: ActivePolicies | None = None
        self._bounds: Bounds | None = None

    def watch(
        self,
        boundaries: Boundaries,
        heartbeat: Heartbeat,
        *,
        policies: ActivePolicies,
        classifier: RemoteClassifier | None,
        bounds: Bounds,
    ) -> None:
        """Take what is built after this."""
        self._bounds = bounds
        self._boundaries = boundaries
        self._policies, self._classifier = policies, classifier
        self._heartbeat = heartbeat
        self._evaluation = EvaluationCanary(heartbeat)

    # --- signs of health ------------------------------------------------------------------------------------------

    def on_beat(self, missed: StoreUnreachable | None) -> None:
        """Take one heartbeat of the store. Records rest on it too, unless they go to the journal: the lane tells."""
        if self._boundaries is None:
            return
        if missed is None:
            self._boundaries.evaluation.dependency_is_back()
            if not self._lane.in_journal:
                self._boundaries.audit.dependency_is_back()
        else:
            self._boundaries.evaluation.dependency_missed(str(missed))

    def on_lane_mode(self, in_journal: bool) -> None:  # noqa: FBT001 - the lane's callback
        """Take a change of where records go."""
        if self._boundaries is None:
            return
        if in_journal:
            self._boundaries.audit.dependency_is_gone("PostgreSQL takes no commits")
        else:
            if self._bounds is not None:
                self._bounds.journal_is_empty()
            self._boundaries.audit.dependency_is_back()

    def on_orders(self, orders: Orders) -> None:
        """Hold open what operators ordered to be held open, on any replica, and probe again what they let go."""
        built = self._built()
        for boundary in (built.intent, built.evaluation, built.token, built.audit):
            order = orders.forced(boundary.name)
            if order is not None:
                boundary.force_open(f"held open by {order.issued_by}: {order.reason}")
            elif boundary.state.state is State.FORCED_OPEN:
                boundary.reset("no order holds it open any more")

    def probe_again(self, name: str) -> None:
        """Let an open boundary be probed now. It closes by correct canaries alone."""
        built = self._built()
        for boundary in (built.intent, built.evaluation, built.token, built.audit):
            if boundary.name == name:
                boundary.reset("an operator asked for a probe")

    async def watch_signer(self) -> None:
        """Ask the signer for a sign of health until cancelled."""
        boundaries = self._built()
        while True:
            try:
                await self._signer.healthy()
                boundaries.token.dependency_is_back()
            except SigningFailed as error:
                boundaries.token.dependency_missed(str(error))
            await asyncio.sleep(_SIGNER_CHECK_INTERVAL_S)

    async def watch_classifier(self) -> None:
        """Ask a remote classifier for a sign of health while its boundary is open, until cancelled."""
        boundaries, classifier, policies = self._built(), self._classifier, self._policies
        if classifier is None or policies is None:
            return
        while True:
            await asyncio.sleep(_CLASSIFIER_CHECK_INTERVAL_S)
            if boundaries.intent.state.state is not State.OPEN:
                continue  # as long as intents reach it, they tell
            with contextlib.suppress(TimeoutError, ClassifierUnreachable, ClassifierUnsure, WrongAnswer):
                async with asyncio.timeout(_CLASSIFIER_CHECK_INTERVAL_S):
                    await classifier.check(policies.current())
                boundaries.intent.dependency_is_back()

    # --- canaries -------------------------------------------------------------------------------------------------

    async def probe(self) -> None:
        """Send canaries through every boundary that wants one, until cancelled."""
        boundaries, evaluation = self._built(), self._evaluation
        if evaluation is None:
            raise RuntimeError("the canaries are built with the boundaries")
        audit = AuditCanary(self._lane, self._clock)
        while True:
            await boundaries.evaluation.probe(evaluation.ask, proves=evaluation.proves)
            await boundaries.intent.probe(
                lambda: self._classify_canary(evaluation), proves=evaluation.proves_unclassified
            )
            await boundaries.token.probe(self._sign_canary, proves=_is_true)
            await boundaries.audit.probe(audit.ask, proves=audit.proves)
            await asyncio.sleep(_PROBE_INTERVAL_S)

    async def _classify_canary(self, evaluation: EvaluationCanary) -> object:
        if self._classifier is not None and self._policies is not None:
            await self._classifier.check(self._policies.current())
        return await evaluation.classify()

    async def _sign_canary(self) -> bool:
        # The signer signs a fresh nonce, and the pinned key verifies it: that is the known answer.
        await self._signer.healthy()
        return True

    # --- what health endpoints read -------------------------------------------------------------------------------

    def boundaries(self) -> Sequence[BoundaryState]:
        """Return every required boundary as of now."""
        built = self._built()
        return [built.intent.state, built.evaluation.state, built.token.state, built.audit.state]

    def troubles(self) -> Sequence[str]:
        """Return what else makes the service unfit for traffic."""
        found = []
        try:
            if self._heartbeat is not None:
                self._heartbeat.check()
        except StoreUnreachable:
            found.append("store_unreachable")
        if self._lane.closed:
            found.append("nothing_takes_records")
        elif self._lane.in_journal:
            found.append("recording_in_journal")
        if not self._signer.verify_keys():
            found.append("signer_keys_unknown")
        if self._policies is not None and self._policies.trouble() is not None:
            found.append("policy_stale")
        return found

    def in_journal(self) -> bool:
        """Return whether records go to the journal."""
        return self._lane.in_journal

    def records_are_refused(self) -> bool:
        """Return whether neither PostgreSQL nor the journal takes records."""
        return self._lane.closed

    def journal_bytes(self) -> int:
        """Return how many journal bytes PostgreSQL does not have yet."""
        return self._lane.journal_bytes

    def records(self) -> Mapping[str, int]:
        """Return how many records were made durable since the start, by sink."""
        counters = self._lane.counters
        return {"postgresql": counters.committed, "journal": counters.journalled}

    def closed_for_s(self) -> float:
        """Return for how long every boundary has been closed, 0 while one is not or another trouble stands."""
        if self.troubles():
            return 0.0
        built = self._built()
        return min(b.closed_for_s() for b in (built.intent, built.evaluation, built.token, built.audit))

    def _built(self) -> Boundaries:
        if self._boundaries is None:
            raise RuntimeError("the boundaries are built before anything asks for them")
        return self._boundaries


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


def _is_true(answer: object) -> None:
    if answer is not True:
        raise WrongAnswer("the signer's canary was not verified")
