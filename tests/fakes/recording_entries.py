"""Effects, rows and batches to record, and the smallest verifier of a stream."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from holdfast.audit import record
from holdfast.audit.chain import verify_stream
from holdfast.audit.log import verify_log
from holdfast.audit.record import GENESIS, Receipt, leaf_hash

from services.audit.chain import link
from services.notices.notice import Kind, Notice, Severity
from services.ports import ConsumeToken, Entry, MoveIntent, OpenIntent, QueueRow, ReportOutcome
from services.recording.effects import encode
from services.recording.sink import Batch, Row

AT = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC)
ISS = "https://holdfast.test"


def queue_row(state="waiting") -> QueueRow:
    return QueueRow(
        lane=2, rank_at=AT, enqueued_at=AT, expires_at=AT + timedelta(minutes=15), not_before=AT, state=state
    )


def open_intent(intent_id="int_1", *, jti=None, **changes) -> OpenIntent:
    granted = jti is not None
    values = {
        "intent_id": intent_id,
        "agent": "bot",
        "idempotency_key": None,
        "request_digest": "ab" * 32,
        "submission": b'{"action":"x"}',
        "act_hash": "sha-256:" + "A" * 43,
        "status": "granted" if granted else "denied",
        "reason_code": "ALLOWED" if granted else "POLICY_DENIED",
        "envelope": {"risk": 1.5},
        "claims": {"iss": ISS, "jti": jti} if granted else None,
        "jti": jti,
        "created_at": AT,
        "decided_at": AT,
    }
    return OpenIntent(**(values | changes))


def waiting_intent(intent_id="int_1", **changes) -> OpenIntent:
    act_hash = "sha-256:" + intent_id.replace("_", "").ljust(43, "A")  # the same action waits once
    values = {"status": "queued", "reason_code": "EVALUATION_UNAVAILABLE", "act_hash": act_hash, "queue": queue_row()}
    return open_intent(intent_id, **(values | changes))


def move_intent(intent_id="int_1", version=1, **changes) -> MoveIntent:
    values = {
        "intent_id": intent_id,
        "expect_version": version,
        "status": "denied",
        "reason_code": "POLICY_DENIED",
        "envelope": {},
        "decided_at": AT,
    }
    return MoveIntent(**(values | changes))


def consume(intent_id="int_1", jti="jti_1", executor="pay") -> ConsumeToken:
    return ConsumeToken(iss=ISS, txn=intent_id, jti=jti, executor=executor, consumed_at=AT)


def outcome(jti="jti_1", what="succeeded", executor="pay") -> ReportOutcome:
    return ReportOutcome(iss=ISS, jti=jti, executor=executor, outcome=what, outcome_at=AT)


def notice(n=1) -> Notice:
    return Notice(
        notice_id=f"ntc_{n:026d}",
        kind=Kind.INCIDENT_OPENED,
        severity=Severity.CRITICAL,
        dedupe_key="incident:api:evaluation",
        summary="the evaluation boundary is open; «nobody» is permitted anything",
        at=AT,
        details={"boundary": "evaluation"},
    )


class Stream:
    """Makes batches of one stream, with made-up seals."""

    def __init__(self, name="str_" + "0" * 26, lane="i/main") -> None:
        self.name = name
        self.head: Receipt | None = None
        self._lane = lane

    def batch(self, *effects, recovering=False) -> Batch:
        rows, prev = [], GENESIS if self.head is None else self.head.hash
        for effect in effects or (None,):
            kind = "stream.open" if self.head is None else "decision"
            members = {"lane": self._lane} if self.head is None else {"n": 1}
            linked = link(self.name, self.head, kind=kind, at=AT, members=members)
            self.head = linked.receipt
            rows.append(
                Row(
                    seq=linked.receipt.seq,
                    hash=bytes.fromhex(linked.receipt.hash),
                    body=linked.body,
                    effect=effect if effect is None or hasattr(effect, "op") else encode(effect),
                )
            )
        return Batch(
            stream=self.name, prev=bytes.fromhex(prev), rows=tuple(rows), seal=bytes(64), recovering=recovering
        )


def consumption(n=1) -> Entry:
    """Consume the token of the n-th intent, as the service records it."""
    members = {
        "iss": ISS,
        "txn": f"int_{n}",
        "jti": f"jti_{n}",
        "executor": "pay",
        "act_hash": "sha-256:" + "A" * 43,
        "decision": {"stream": "str_" + "0" * 26, "seq": 1, "hash": "0" * 64},
    }
    return Entry(kind="token.consumed", at=AT, members=members, effect=consume(f"int_{n}", f"jti_{n}"))


def verify(stored: list[tuple[bytes, bytes, bytes | None]]) -> list[record.Record]:
    """Check one stream as stored, twice: by what stands here, and by the auditors' verifier. Return its records."""
    records = [record.read(body) for _, body, _ in stored]
    prev = GENESIS
    for n, (found, (digest, body, _)) in enumerate(zip(records, stored, strict=True)):
        assert (found.seq, found.prev, found.stream) == (n, prev, records[0].stream)
        assert digest.hex() == leaf_hash(body) == found.hash
        prev = found.hash
    assert stored[-1][2] is not None, "the last record of a stream is sealed"
    report = verify_stream([(body, seal) for _, body, seal in stored])
    assert report.intact, report.findings
    return records


def verify_succession(streams: list[list[tuple[bytes, bytes, bytes | None]]]) -> None:
    """Check that every stream continues from the very last record of the one that it names."""
    report = verify_log([[(body, seal) for _, body, seal in stored] for stored in streams])
    told = [finding for finding in report.findings if finding.fatal and not finding.why.startswith("a consumption")]
    assert not told, told
