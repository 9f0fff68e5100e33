"""The verification of one stream, and of a log of streams. Pure: bytes in, findings out.

Order: bytes, chain, seals, how the streams follow each other, the receipts you kept, meaning. A stream is read to its
first bad record, which is named; what stands behind it is worth nothing. Source: design 8.

Memory: 32 bytes a record for the stream being read (a void may point far back), and for the whole log one small entry
per permission, consumption and void.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.exceptions import InvalidSignature

from holdfast.audit import record
from holdfast.audit.encoding import decode_b64url
from holdfast.audit.findings import Finding, Kind
from holdfast.audit.record import GENESIS, Receipt, Record
from holdfast.errors import AuditInvalid
from holdfast.token import VerifyKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.strict_json import JSON

#: A record's exact bytes, and the seal of its batch if it is the last one.
Sealed: TypeAlias = "tuple[bytes, bytes | None]"

BACKWARDS_S: Final = 5
SILENCE_S: Final = 60
SEAL_BYTES: Final = 64
MAX_WARNINGS: Final = 100

_OPEN: Final = "stream.open"
_ENDS: Final = frozenset({"stream.close", "stream.adopt"})
_VOID: Final = ".void"
_VOID_EARLIER: Final = ".void_earlier"  # of a stream that ended without it: a process died in between
_HASH_BYTES: Final = 32


class StreamCut(AuditInvalid):
    """The records of a stream end in the middle of one. Raised by whoever reads them from a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumed:
    """One `token.consumed` record, as far as its meaning goes."""

    at: Receipt
    intent: tuple[str, str]  # iss, txn
    act_hash: str
    decision: Receipt


@dataclass(slots=True, kw_only=True)
class Facts:
    """What a stream says that other streams are held to. `allows` maps seq to hash and fingerprint."""

    allows: dict[int, bytes] = field(default_factory=dict)
    voided: set[int] = field(default_factory=set)
    voided_earlier: list[tuple[Receipt, Receipt]] = field(default_factory=list)  # the void, and what it voids
    consumed: list[Consumed] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """What one stream proves. `head` is the last record that holds; `intact` means that every record does."""

    stream: str | None
    records: int
    head: Receipt | None
    predecessor: Receipt | None
    closed: bool
    findings: tuple[Finding, ...]
    facts: Facts = field(repr=False)
    anchored: tuple[Receipt, ...] = ()

    @property
    def intact(self) -> bool:
        """Whether nothing fatal was found."""
        return not any(finding.fatal for finding in self.findings)


def fingerprint(intent_id: str, act_hash: str) -> bytes:
    """Return what ties a permission to an intent and its action, in 32 bytes."""
    return hashlib.sha256(f"{intent_id}\n{act_hash}".encode()).digest()


def verify_stream(
    records: Iterable[Sealed], *, stream: str | None = None, anchors: Iterable[Receipt] = ()
) -> StreamReport:
    """Read one stream from its first record on. Never raises for what is in it: see the findings.

    `stream` is the name that its records must carry, if it is known. An anchor of another stream is ignored here.
    """
    reader = _Reader(stream, anchors)
    try:
        for body, seal in records:
            reader.take(body, seal)
    except _Bad as bad:
        reader.find(Kind.INVALID, bad.seq, str(bad))
    except StreamCut as error:
        reader.find(Kind.GAP, reader.next_seq, str(error))
    except AuditInvalid as error:
        reader.find(Kind.INVALID, reader.next_seq, str(error))
    else:
        reader.finish()
    return reader.report()


class _Bad(AuditInvalid):
    """A record does not hold. `seq` is where it stands, whatever it says of itself."""

    def __init__(self, seq: int, why: str) -> None:
        super().__init__(why)
        self.seq = seq


class _Reader:
    """Takes the records of one stream in order."""

    def __init__(self, stream: str | None, anchors: Iterable[Receipt]) -> None:
        self._anchors: dict[str, list[Receipt]] = {}
        for anchor in anchors:
            self._anchors.setdefault(anchor.stream, []).append(anchor)
        self._anchored: list[Receipt] = []
        self._findings: list[Finding] = []
        self._hashes = bytearray()
        self._head: Record | None = None
        self._head_at: datetime | None = None
        self._stream = stream
        self._key: VerifyKey | None = None
        self._predecessor: Receipt | None = None
        self._sealed_to = -1
        self._closed = False
        self._facts = Facts()

    @property
    def next_seq(self) -> int:
        return len(self._hashes) // _HASH_BYTES

    def find(self, kind: Kind, seq: int | None, why: str, *, fatal: bool = True) -> None:
        if fatal or len(self._findings) < MAX_WARNINGS:
            self._findings.append(Finding(kind=kind, stream=self._stream, seq=seq, why=why, fatal=fatal))

    def take(self, body: bytes, seal: bytes | None) -> None:
        """Check one record in its place. Raises: _Bad, after which nothing more may be taken."""
        seq = self.next_seq
        # 1. The bytes: canonical, in the profile, and their hash.
        try:
            current = record.read(body)
        except AuditInvalid as error:
            raise _Bad(seq, str(error)) from error
        # 2. The chain: the next number of the same stream, linked to the record before.
        if seq == 0:
            self._open(current)
        self._check_link(current, seq)
        # 3. Time.
        at = self._check_time(current, seq)
        # 4. The seal, where one stands.
        if seal is not None:
            self._check_seal(current, seal)
            self._sealed_to = seq
        # 5. What it says that others are held to.
        self._note(current)
        # 6. The anchors that fall on it.
        for anchor in self._anchors.get(current.stream, ()):
            if anchor.seq == seq:
                if anchor.hash != current.hash:
                    raise _Bad(seq, "the record is not the one that the receipt names")
                self._anchored.append(anchor)
        self._hashes += bytes.fromhex(current.hash)
        self._head, self._head_at = current, at
        self._closed = current.kind in _ENDS

    def finish(self) -> None:
        """Check the end. A stream without records, or whose tail no seal covers, proves nothing."""
        if self._head is None:
            self.find(Kind.MISSING, None, "the stream has no records")
            return
        if self._sealed_to != self._head.seq:
            self.find(Kind.INVALID, self._sealed_to + 1, "no seal covers the tail from here")

    def report(self) -> StreamReport:
        head = self._head.receipt if self._head is not None else None
        return StreamReport(
            stream=self._stream,
            records=self.next_seq,
            head=head,
            predecessor=self._predecessor,
            closed=self._closed,
            findings=tuple(self._findings),
            facts=self._facts,
            anchored=tuple(self._anchored),
        )

    def _open(self, current: Record) -> None:
        self._stream = self._stream or current.stream
        if current.seq != 0 or current.kind != _OPEN:
            raise _Bad(0, f"a stream starts with `{_OPEN}` at 0")
        if current.prev != GENESIS:
            raise _Bad(0, "the first record links to something before it")
        seal_key, lane = current.members.get("seal_key"), current.members.get("lane")
        if not isinstance(seal_key, str) or not isinstance(lane, str):
            raise _Bad(0, f"`{_OPEN}` needs `lane` and `seal_key`")
        try:
            self._key = VerifyKey.from_public_bytes(decode_b64url(seal_key))
            if "predecessor" in current.members:
                self._predecessor = _receipt(current.members["predecessor"])
        except (AuditInvalid, ValueError) as error:
            raise _Bad(0, f"`{_OPEN}` is malformed: {error}") from error

    def _check_link(self, current: Record, seq: int) -> None:
        if current.stream != self._stream:
            raise _Bad(seq, "the record is of another stream")
        if current.seq != seq:
            raise _Bad(seq, f"the record says that it is number {current.seq}")
        if self._head is None:
            return
        if current.prev != self._head.hash:
            raise _Bad(seq, "the record does not link to the one before it")
        if self._closed:
            raise _Bad(seq, "a record follows the end of the stream")
        if current.kind == _OPEN:
            raise _Bad(seq, f"a second `{_OPEN}`")

    def _check_time(self, current: Record, seq: int) -> datetime:
        try:
            at = datetime.strptime(current.at, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        except ValueError as error:
            raise _Bad(seq, "the record's time is not a time") from error
        if self._head_at is not None:
            if at < self._head_at - timedelta(seconds=BACKWARDS_S):
                self.find(Kind.INVALID, seq, "time moves backwards", fatal=False)
            if at > self._head_at + timedelta(seconds=SILENCE_S):
                silence_s = int((at - self._head_at).total_seconds())
                self.find(Kind.GAP, seq, f"{silence_s} seconds of silence before it", fatal=False)
        return at

    def _check_seal(self, current: Record, seal: bytes) -> None:
        if self._key is None or len(seal) != SEAL_BYTES:
            raise _Bad(current.seq, "the seal is malformed")
        try:
            self._key.key.verify(seal, record.seal_message(current.receipt))
        except InvalidSignature as error:
            raise _Bad(current.seq, "the seal does not verify") from error

    def _note(self, current: Record) -> None:
        members = current.members
        if current.kind == "decision" and members.get("decision") == "allow":
            intent_id, act_hash = members.get("intent_id"), members.get("act_hash")
            if not isinstance(intent_id, str) or not isinstance(act_hash, str):
                raise _Bad(current.seq, "an allow names no intent or no action")
            self._facts.allows[current.seq] = bytes.fromhex(current.hash) + fingerprint(intent_id, act_hash)
        elif current.kind == "token.consumed":
            self._facts.consumed.append(_consumed(current))
        elif current.kind.endswith(_VOID):
            self._facts.voided.add(self._voided(current))
        elif current.kind.endswith(_VOID_EARLIER):
            self._facts.voided_earlier.append((current.receipt, self._voided_earlier(current)))

    def _voided(self, current: Record) -> int:
        target = current.members.get("void")
        if not isinstance(target, dict) or set(target) != {"seq", "hash"}:
            raise _Bad(current.seq, "a void names no record")
        seq, digest = target["seq"], target["hash"]
        if not isinstance(seq, int) or isinstance(seq, bool) or not 0 <= seq < current.seq:
            raise _Bad(current.seq, "a void points to no earlier record of its stream")
        if self._hashes[seq * _HASH_BYTES : (seq + 1) * _HASH_BYTES].hex() != digest:
            raise _Bad(current.seq, "a void points to another record than the one that stands there")
        return seq

    def _voided_earlier(self, current: Record) -> Receipt:
        try:
            target = _receipt(current.members.get("void"))
        except AuditInvalid as error:
            raise _Bad(current.seq, f"a void names no record: {error}") from error
        if target.stream == current.stream:
            raise _Bad(current.seq, "a void of an earlier stream points into its own")
        return target


def _consumed(current: Record) -> Consumed:
    values = [current.members.get(name) for name in ("iss", "txn", "act_hash", "jti", "executor")]
    texts = [value for value in values if isinstance(value, str) and value]
    if len(texts) != len(values):
        raise _Bad(current.seq, "a consumption names no intent, token, action or executor")
    try:
        decision = _receipt(current.members.get("decision"))
    except AuditInvalid as error:
        raise _Bad(current.seq, f"a consumption names no decision: {error}") from error
    return Consumed(at=current.receipt, intent=(texts[0], texts[1]), act_hash=texts[2], decision=decision)


def _receipt(value: JSON) -> Receipt:
    if not isinstance(value, dict) or set(value) != {"stream", "seq", "hash"}:
        raise AuditInvalid("a receipt has `stream`, `seq` and `hash`")
    stream, seq, digest = value["stream"], value["seq"], value["hash"]
    if not isinstance(stream, str) or not isinstance(digest, str):
        raise AuditInvalid("a receipt's `stream` and `hash` are strings")
    if not isinstance(seq, int) or isinstance(seq, bool) or seq < 0:
        raise AuditInvalid("a receipt's `seq` is a number")
    return Receipt(stream=stream, seq=seq, hash=digest)
