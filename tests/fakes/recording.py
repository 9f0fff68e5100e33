"""A database for the log in memory, and every way in which one fails."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

import orjson
from fakes import queued
from holdfast.audit.record import GENESIS, Receipt, leaf_hash

from services.recording.sink import Fork, Refusal, Rejected, SinkFailed


class Fault(Enum):
    """What the next commit does instead of answering."""

    REFUSE = auto()  # raises, nothing stored
    RAISE_AFTER_COMMIT = auto()  # raises, everything stored
    HANG = auto()  # never answers; what it sent is rolled back by the fence
    HANG_THEN_COMMIT = auto()  # never answers; what it sent is stored just before the fence
    REJECT = auto()  # a value that no column takes
    LIE = auto()  # answers, and stored nothing
    WRONG_HASH = auto()  # raises, and another record stands in this place now


@dataclass
class Tables:
    """What a transaction changes."""

    records: dict[str, list[tuple[bytes, bytes, bytes | None]]] = field(default_factory=dict)  # hash, body, seal
    refused: set[tuple[str, int]] = field(default_factory=set)
    intents: dict[str, dict] = field(default_factory=dict)
    queue: dict[str, dict] = field(default_factory=dict)
    consumptions: dict[tuple[str, str], dict] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    credentials: dict[str, dict] = field(default_factory=dict)
    operators: dict[str, dict] = field(default_factory=dict)
    notices: dict[str, dict] = field(default_factory=dict)
    approvals: dict[str, dict] = field(default_factory=dict)


class MemoryDatabase:
    """Survives the sinks that connect to it."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.up = True
        self.faults: deque[Fault] = deque()
        self.rejects: set[str] = set()  # intents whose values no column takes
        self.in_flight: dict[MemorySink, tuple[Tables, Fault]] = {}
        self.connected: dict[MemorySink, str] = {}

    def bodies(self, stream: str) -> list[bytes]:
        """Return the stored bodies of one stream."""
        return [body for _, body, _ in self.tables.records.get(stream, [])]

    def fence(self, identity: str, *, keep: MemorySink) -> None:
        """Settle what other connections of this identity left in flight: stored before the fence, or never."""
        for sink, owner in list(self.connected.items()):
            if owner == identity and sink is not keep:
                del self.connected[sink]
                self.land(sink)
        if keep in self.in_flight:
            self.land(keep)

    def restart(self) -> None:
        """End every connection; what is under way is rolled back. It answers again at once."""
        for sink in list(self.connected):
            self.in_flight.pop(sink, None)
            sink.lose()

    def land(self, sink: MemorySink) -> None:
        """End the transaction that hung."""
        if (flight := self.in_flight.pop(sink, None)) is not None and flight[1] is Fault.HANG_THEN_COMMIT:
            self.tables = flight[0]


class MemorySink:
    """The AuditSink port in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self.database = database
        self._connection: asyncio.Future[None] | None = None
        self.on_lost = None
        self.commits = 0
        self.under_way = 0
        self.cancelled = 0

    async def connect(self, identity: str) -> None:
        self.abandon()
        await asyncio.sleep(0)
        if not self.database.up:
            raise SinkFailed("the database is down")
        self.database.fence(identity, keep=self)
        self.database.connected[self] = identity
        self._connection = asyncio.get_running_loop().create_future()

    async def fence(self, identity: str) -> None:
        self._alive()
        self.database.fence(identity, keep=self)

    async def commit_batch(self, batch):
        connection = self._alive()
        self.under_way += 1
        assert self.under_way == 1, "one call at a time"
        try:
            await asyncio.sleep(0)
            if connection.done():
                raise ConnectionResetError
            self.commits += 1
            fault = self.database.faults.popleft() if self.database.faults else None
            if fault is Fault.REFUSE:
                raise ConnectionResetError("refused")
            if fault is Fault.REJECT:
                raise Rejected("a value")
            if fault is Fault.LIE:
                return frozenset()
            if fault is Fault.WRONG_HASH:
                other = orjson.dumps({"forged": True})
                stored = self.database.tables.records.setdefault(batch.stream, [])
                del stored[batch.rows[0].seq :]
                stored.append((bytes.fromhex(leaf_hash(other)), other, None))
                raise ConnectionResetError("forged")
            tables, refused = _applied(self.database, batch)
            if fault in (Fault.HANG, Fault.HANG_THEN_COMMIT):
                self.database.in_flight[self] = (tables, fault)
                await connection
            self.database.tables = tables
            if fault is Fault.RAISE_AFTER_COMMIT:
                raise TimeoutError("answered too late")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        else:
            return refused
        finally:
            self.under_way -= 1

    def abandon(self) -> None:
        if self._connection is not None and not self._connection.done():
            self._connection.set_exception(ConnectionResetError("abandoned"))
            self._connection.exception()
        self._connection = None

    def lose(self) -> None:
        """Let the database end the connection."""
        if self._connection is not None and not self._connection.done():
            self._connection.set_exception(ConnectionResetError("the database ended it"))
            self._connection.exception()
            asyncio.get_running_loop().call_soon(self._told, self._connection)

    def _told(self, lost) -> None:
        if lost is self._connection and self.on_lost is not None:
            self.on_lost()

    async def hash_at(self, stream, seq):
        self._alive()
        stored = self.database.tables.records.get(stream, [])
        return stored[seq][0].hex() if seq < len(stored) else None

    async def last_stream(self, lane, *, other_than):
        self._alive()
        mine = [
            stream for stream in self.database.tables.records if self._lane(stream) == lane and stream != other_than
        ]
        if not mine:
            return None
        stream = max(mine)
        stored = self.database.tables.records[stream]
        return Receipt(stream=stream, seq=len(stored) - 1, hash=stored[-1][0].hex())

    async def refusals(self, lane, *, other_than, streams=()):
        self._alive()
        wanted = set(streams)
        found = []
        for stream, seq in sorted(self.database.tables.refused):
            if stream in wanted or (stream != other_than and self._lane(stream) == lane):
                digest, body, _ = self.database.tables.records[stream][seq]
                receipt = Receipt(stream=stream, seq=seq, hash=digest.hex())
                found.append(Refusal(receipt=receipt, kind=orjson.loads(body)["kind"]))
        return tuple(found)

    async def close(self) -> None:
        self.abandon()
        self.database.connected.pop(self, None)

    def _lane(self, stream):
        return orjson.loads(self.database.tables.records[stream][0][1]).get("lane")

    def _alive(self) -> asyncio.Future[None]:
        if self._connection is None or self._connection.done() or not self.database.up:
            raise SinkFailed("there is no connection")
        return self._connection


def _applied(database: MemoryDatabase, batch) -> tuple[Tables, frozenset[int]]:
    """Return the tables after this batch, and which effects were refused. Raises what the database would raise."""
    tables = copy.deepcopy(database.tables)
    stored = tables.records.setdefault(batch.stream, [])
    first = batch.rows[0].seq
    existing = _check_place(stored, batch)
    for row in batch.rows[existing:]:
        stored.append((row.hash, row.body, batch.seal if row is batch.rows[-1] else None))
    refused = set()
    effects = [(n, row.effect) for n, row in enumerate(batch.rows) if n >= existing and row.effect is not None]
    for op, apply in _APPLY.items():
        for n, effect in effects:
            members = orjson.loads(effect.members) | ({"late": True} if batch.recovering else {})
            if members.get("intent_id") in database.rejects and effect.op != "refuse":
                raise Rejected("a value that no column takes")
            if _name(effect.op, members) == op and not apply(tables, members):
                refused.add(n)
    for n, effect in effects:
        attached = [effect.members] if effect.op == "attach_notice" else []
        if n not in refused:
            for notice in map(orjson.loads, (*attached, *effect.notices)):
                tables.notices.setdefault(notice["notice_id"], notice)
    tables.refused |= {(batch.stream, first + n) for n in refused}
    before = {seq - first for stream, seq in tables.refused if stream == batch.stream}
    return tables, frozenset(refused | {n for n in before if 0 <= n < existing})


def _check_place(stored, batch) -> int:
    """Return how many of the rows are stored already."""
    first = batch.rows[0].seq
    if first > len(stored) or (first < len(stored) and not batch.recovering):
        raise Fork("the batch does not follow")
    prev = bytes.fromhex(GENESIS) if first == 0 else stored[first - 1][0]
    if prev != batch.prev or any(bytes.fromhex(leaf_hash(row.body)) != row.hash for row in batch.rows):
        raise Fork("another record stands before it, or a hash is not of its body")
    existing = min(len(stored) - first, len(batch.rows))
    if any(stored[row.seq][:2] != (row.hash, row.body) for row in batch.rows[:existing]):
        raise Fork("another record stands there")
    return existing


def _name(op: str, members) -> str:
    if op != "open_intent":
        return op
    return _OPEN if members["over_jti"] is None else _OVER


_OPEN, _OVER = "open", "over"
UNDECIDED = {"waiting", "leased", "held", "parked"}
FINAL = {"denied", "expired", "cancelled", "superseded"}


def _open(tables: Tables, e) -> bool:
    if e["intent_id"] in tables.intents or _jti_taken(tables, e):
        return False
    key = e["idempotency_key"]
    if key is not None and any(
        i["agent"] == e["agent"] and i["idempotency_key"] == key for i in tables.intents.values()
    ):
        return False
    if e["queue"] is not None and not e.get("late") and e["over_jti"] is None and _second_place(tables, e):
        return False
    if e["supersedes"] is not None and not _move(tables, e["supersedes"]):
        return False
    tables.intents[e["intent_id"]] = {**e, "version": 1, "claim_by": None}
    if e["queue"] is not None:
        tables.queue[e["intent_id"]] = {**e["queue"], "epoch": 0}
    return True


def _second_place(tables: Tables, e) -> bool:
    old = None if e["supersedes"] is None else e["supersedes"]["intent_id"]
    return any(
        row["state"] in UNDECIDED
        and name != old
        and (tables.intents[name]["agent"], tables.intents[name]["act_hash"]) == (e["agent"], e["act_hash"])
        for name, row in tables.queue.items()
    )


def _over(tables: Tables, e) -> bool:
    row = tables.intents.get(e["intent_id"])
    if row is None:
        if not _open(tables, e):
            return False
    else:
        iss = (row["claims"] or {}).get("iss")
        consumed = (iss, e["intent_id"]) in tables.consumptions
        right = row["jti"] == e["over_jti"] and row["status"] == "granted" and row["agent"] == e["agent"]
        if iss is None or not right or consumed or _jti_taken(tables, e):
            return False
        kept = {name: row[name] for name in ("idempotency_key", "request_digest", "submission", "created_at")}
        tables.intents[e["intent_id"]] = {**e, **kept, "version": row["version"] + 1, "claim_by": None}
        if e["queue"] is not None:
            tables.queue.setdefault(e["intent_id"], {**e["queue"], "epoch": 0})
    tables.revoked.add(e["over_jti"])
    return True


def _move(tables: Tables, e) -> bool:
    row, queued = tables.intents.get(e["intent_id"]), tables.queue.get(e["intent_id"])
    if row is None or row["version"] != e["expect_version"] or _jti_taken(tables, e):
        return False
    if row["status"] in FINAL and e["status"] != row["status"]:
        return False
    if e["epoch"] is not None and (queued is None or queued["state"] != "leased" or queued["epoch"] != e["epoch"]):
        return False
    names = ("status", "reason_code", "envelope", "claims", "jti", "decided_at", "claim_by")
    row |= {name: e[name] for name in names} | {"version": row["version"] + 1}
    if e["queue_state"] is None:
        tables.queue.pop(e["intent_id"], None)
    elif queued is not None:
        queued["state"] = e["queue_state"]
        queued["not_before"] = e["not_before"] or queued["not_before"]
    return True


def _jti_taken(tables: Tables, e) -> bool:
    return e["jti"] is not None and any(
        row["jti"] == e["jti"] and row["intent_id"] != e["intent_id"] for row in tables.intents.values()
    )


def _consume(tables: Tables, e) -> bool:
    row = tables.intents.get(e["txn"])
    if row is None or row["jti"] != e["jti"] or row["status"] != "granted" or e["jti"] in tables.revoked:
        return False
    if any(
        iss == e["iss"] and (txn == e["txn"] or c["jti"] == e["jti"]) for (iss, txn), c in tables.consumptions.items()
    ):
        return False
    tables.consumptions[e["iss"], e["txn"]] = {**e, "outcome": None}
    return True


def _report(tables: Tables, e) -> bool:
    for (iss, _), row in tables.consumptions.items():
        if iss == e["iss"] and row["jti"] == e["jti"] and row["executor"] == e["executor"]:
            row["outcome"] = row["outcome"] or e["outcome"]
            return row["outcome"] == e["outcome"]
    return False


def _put(table: str, key: str):
    def apply(tables: Tables, e) -> bool:
        rows = getattr(tables, table)
        if e[key] in rows:
            return False
        rows[e[key]] = e
        return True

    return apply


def _close_refusal(tables: Tables, e) -> bool:
    tables.refused.discard((e["stream"], e["seq"]))
    return True


_APPLY = {
    _OPEN: _open,
    _OVER: _over,
    "move_intent": _move,
    "consume_token": _consume,
    "report_outcome": _report,
    "put_credential": _put("credentials", "key_hash"),
    "put_operator": _put("operators", "username"),
    "put_notice": _put("notices", "notice_id"),
    "approve_intent": queued.approve,
    "reorder_intent": queued.reorder,
    "requeue_intent": queued.requeue,
    "close_refusal": _close_refusal,
    "refuse": lambda tables, e: False,
}
