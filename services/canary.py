"""Canaries with known answers: a boundary closes on correct answers, not on any answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from holdfast.intent import Intent, Resource
from holdfast.reasons import ReasonCode

from services.boundary import WrongAnswer
from services.decision.bundle import read_bundle
from services.decision.policy import Classified, Policy, Request
from services.decision.risk import Signals
from services.decision.verdict import Allow, Deny
from services.ports import Entry

if TYPE_CHECKING:
    from services.ports import Clock, Recorder, Settled
    from services.postgres.heartbeat import Heartbeat

_CATALOG: Final = b"""
version: 1
categories:
  canary: {description: Known answers, impact: low, effect: read, reversible: true}
executors:
  canary: {description: Executes nothing}
actions:
  canary.allowed: {category: canary, executor: canary, resource: canary}
  canary.denied: {category: canary, executor: canary, resource: canary}
"""
_AGENT: Final = b"""
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: canary}
spec:
  tools: [canary.allowed, canary.denied]
"""
_RULES: Final = b"""
@id("canary-denied")
forbid (principal, action == Action::"canary.denied", resource);
"""
_AT: Final = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


class EvaluationCanary:
    """A known allow and a known deny, through the same evaluator, after a round trip to the store."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        files = {"catalog.yaml": _CATALOG, "agents/canary.yaml": _AGENT, "rules/canary.cedar": _RULES}
        self._policy = Policy.compile(read_bundle(files))

    async def ask(self) -> tuple[object, object]:
        """Return the verdicts on what must be allowed and on what must be denied. Raises: StoreUnreachable."""
        await self._heartbeat.beat()
        self._heartbeat.check()
        return self._verdict("canary.allowed"), self._verdict("canary.denied")

    @staticmethod
    def proves(verdicts: tuple[object, object]) -> None:
        """Raise WrongAnswer unless both verdicts are the known ones."""
        allowed, denied = verdicts
        if not isinstance(allowed, Allow):
            raise WrongAnswer("the canary that must be allowed was not")
        if not isinstance(denied, Deny) or denied.determining != ("canary-denied",):
            raise WrongAnswer("the canary that must be denied was not")

    def _verdict(self, action: str) -> object:
        intent = Intent(action=action, resource=Resource(type="canary", id="1"))
        classified = self._policy.classify(intent)
        if not isinstance(classified, Classified):
            return classified
        risk = self._policy.assess(
            intent,
            classified,
            agent="canary",
            signals=Signals(recent_denials=0, velocity=0, novel=False),
            now=_AT,
        )
        return self._policy.evaluate(Request(agent="canary", intent=intent, classified=classified, risk=risk, now=_AT))

    async def classify(self) -> object:
        """Return the classification of an action that the catalogue does not know."""
        return self._policy.classify(Intent(action="canary.unknown", resource=Resource(type="canary", id="1")))

    @staticmethod
    def proves_unclassified(answer: object) -> None:
        """Raise WrongAnswer unless the unknown action was refused as unclassified."""
        if not isinstance(answer, Deny) or answer.reason_code is not ReasonCode.INTENT_UNCLASSIFIED:
            raise WrongAnswer("the unknown action was classified")


class AuditCanary:
    """A record that must rest on a commit."""

    def __init__(self, recorder: Recorder, clock: Clock) -> None:
        self._recorder = recorder
        self._clock = clock

    async def ask(self) -> Settled:
        """Record the canary. Raises: RecordingFailed."""
        entry = Entry(kind="boundary.canary", at=self._clock.now(), members={"boundary": "audit"})
        return await self._recorder.append(entry).settled()

    @staticmethod
    def proves(settled: Settled) -> None:
        """Raise WrongAnswer unless the record is committed."""
        if settled.in_journal or not settled.applied:
            raise WrongAnswer("the canary is not in PostgreSQL")
