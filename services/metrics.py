"""Every metric this service publishes. Alert rules may name these and no others."""

from __future__ import annotations

from typing import Final

from holdfast.reasons import Decision, Mode, ReasonCode
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATENCY_BUCKETS_S: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

#: Live traffic is slow when too many decisions take longer: half as much again as the p99 that is promised.
SLOW_S: Final = 0.0075

#: The names as Prometheus sees them, with what they count.
METRICS: Final = {
    "holdfast_decisions_total": "decided intents by decision, reason code and mode",
    "holdfast_decision_seconds": "time from the parsed request to the answer",
    "holdfast_boundary_state": "0 closed, 1 half-open, 2 open, 3 forced open",
    "holdfast_boundary_transitions_total": "transitions of a boundary's breaker by new state",
    "holdfast_queue_waiting": "intents that wait, by lane",
    "holdfast_queue_oldest_seconds": "how long the oldest waiting intent has waited",
    "holdfast_fail_open_total": "tokens released by a fail-open rule",
    "holdfast_break_glass_uses_total": "tokens released by break-glass",
    "holdfast_reviews_open": "reviews of tokens around the evaluation that nobody closed yet, by mode",
    "holdfast_reviews_overdue": "those that nobody closed in time, by mode",
    "holdfast_recorder_in_journal": "1 while records go to the local journal",
    "holdfast_recorder_closed": "1 while neither PostgreSQL nor the local journal takes records",
    "holdfast_journal_bytes": "bytes in the local journal that PostgreSQL does not have yet",
    "holdfast_records_total": "records made durable, by sink",
    "holdfast_consumptions_total": "consumption requests by result",
    "holdfast_waiters": "long polls that wait for a change of an intent",
    "holdfast_streams": "event streams that are read",
    "holdfast_webhooks_waiting": "deliveries that are owed to webhooks",
    "holdfast_webhooks_oldest_seconds": "for how long the oldest of them is owed",
    "holdfast_oldest_snapshot_seconds": "for how long the oldest snapshot of the database has been held",
    "holdfast_policy_stale": "1 while the active bundle is older than its lease",
    "holdfast_notice_deliveries_total": "messages to a notification channel, by result: delivered, failed, dead",
    "holdfast_notices_due": "stored notices on their way to a channel",
    "holdfast_notices_oldest_seconds": "how long the oldest of them has been on its way",
    "holdfast_notices_dead": "notices that a channel never took, given up within a day",
}


class Metrics:
    """One process's registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.decisions = Counter(
            "holdfast_decisions_total",
            METRICS["holdfast_decisions_total"],
            ["decision", "reason_code", "mode"],
            registry=self.registry,
        )
        self.decision_seconds = Histogram(
            "holdfast_decision_seconds",
            METRICS["holdfast_decision_seconds"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.timed = self.slow = 0  # decisions on live submissions, and those that took longer than `SLOW_S`
        self.boundary_state = self._gauge("holdfast_boundary_state", "boundary")
        self.boundary_transitions = Counter(
            "holdfast_boundary_transitions_total",
            METRICS["holdfast_boundary_transitions_total"],
            ["boundary", "state"],
            registry=self.registry,
        )
        self.queue_waiting = self._gauge("holdfast_queue_waiting", "lane")
        self.queue_oldest_seconds = self._gauge("holdfast_queue_oldest_seconds")
        self.fail_open = Counter(
            "holdfast_fail_open_total", METRICS["holdfast_fail_open_total"], registry=self.registry
        )
        self.break_glass_uses = Counter(
            "holdfast_break_glass_uses_total", METRICS["holdfast_break_glass_uses_total"], registry=self.registry
        )
        self.reviews_open = self._gauge("holdfast_reviews_open", "mode")
        self.reviews_overdue = self._gauge("holdfast_reviews_overdue", "mode")
        self.recorder_in_journal = self._gauge("holdfast_recorder_in_journal")
        self.recorder_closed = self._gauge("holdfast_recorder_closed")
        self.journal_bytes = self._gauge("holdfast_journal_bytes")
        self.records = Counter(
            "holdfast_records_total", METRICS["holdfast_records_total"], ["sink"], registry=self.registry
        )
        self._records_seen: dict[str, int] = {}
        self.consumptions = Counter(
            "holdfast_consumptions_total",
            METRICS["holdfast_consumptions_total"],
            ["result"],
            registry=self.registry,
        )
        self.waiters = self._gauge("holdfast_waiters")
        self.streams = self._gauge("holdfast_streams")
        self.webhooks_waiting = self._gauge("holdfast_webhooks_waiting")
        self.webhooks_oldest_seconds = self._gauge("holdfast_webhooks_oldest_seconds")
        self.oldest_snapshot_seconds = self._gauge("holdfast_oldest_snapshot_seconds")
        self.policy_stale = self._gauge("holdfast_policy_stale")
        self.notice_deliveries = Counter(
            "holdfast_notice_deliveries_total",
            METRICS["holdfast_notice_deliveries_total"],
            ["channel", "result"],
            registry=self.registry,
        )
        self.notices_due = self._gauge("holdfast_notices_due", "channel")
        self.notices_oldest_seconds = self._gauge("holdfast_notices_oldest_seconds", "channel")
        self.notices_dead = self._gauge("holdfast_notices_dead", "channel")
        # A series that begins with its first event has not increased: what alerts on an increase starts at nought.
        self.decisions.labels(Decision.DENY, ReasonCode.QUEUE_FULL, Mode.NORMAL)
        for refused in (ReasonCode.TOKEN_CONSUMED, ReasonCode.TOKEN_MISMATCH):
            self.consumptions.labels(refused)

    def decided_in(self, seconds: float) -> None:
        """Take in how long the decision on a live submission took."""
        self.decision_seconds.observe(seconds)
        self.timed += 1
        self.slow += seconds > SLOW_S

    def records_so_far(self, sink: str, total: int) -> None:
        """Take over a count that the recorder keeps itself."""
        self.records.labels(sink).inc(total - self._records_seen.get(sink, 0))
        self._records_seen[sink] = total

    def _gauge(self, name: str, *labels: str) -> Gauge:
        return Gauge(name, METRICS[name], labels, registry=self.registry)
