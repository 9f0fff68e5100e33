"""Listens to what a process depends on, and probes the boundaries that are open."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from services.boundary import WrongAnswer
from services.breaker import State
from services.canary import AuditCanary, EvaluationCanary
from services.ports import SigningFailed, StoreUnreachable
from services.remote_classifier import ClassifierUnreachable, ClassifierUnsure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from intent_queue.bounds import Bounds
    from services.authorizer import Boundaries
    from services.boundary import BoundaryState
    from services.decision.orders import Orders
    from services.policies import ActivePolicies
    from services.postgres.heartbeat import Heartbeat
    from services.recording.lane import Lane
    from services.remote_classifier import RemoteClassifier
    from services.signing import RemoteSigner
    from services.system import SystemClock

_PROBE_INTERVAL_S = 0.1
_SIGNER_CHECK_INTERVAL_S = 1.0
_CLASSIFIER_CHECK_INTERVAL_S = 1.0


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


def _is_true(answer: object) -> None:
    if answer is not True:
        raise WrongAnswer("the signer's canary was not verified")
