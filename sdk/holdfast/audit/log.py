"""The verification of a whole log: how its streams follow each other, the receipts you kept, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.audit.chain import Consumed, Facts, StreamReport, fingerprint, verify_stream
from holdfast.audit.findings import Finding, Kind, exit_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from holdfast.audit.chain import Sealed
    from holdfast.audit.record import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class LogReport:
    """What a log proves. `findings` holds those of the streams too, the streams' first."""

    streams: tuple[StreamReport, ...]
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0 if nothing fatal was found; else the code of the worst kind."""
        return exit_code(self.findings)

    @property
    def intact(self) -> bool:
        """Whether nothing fatal was found."""
        return self.exit_code == 0


def verify_log(
    streams: Iterable[Iterable[Sealed]], *, anchors: Sequence[Receipt] = (), require_anchor: bool = False
) -> LogReport:
    """Verify every stream and how they hang together. A log without streams proves nothing and is MISSING.

    `anchors` are receipts kept outside of the log; each must be found in it. `require_anchor` makes a stream that no
    anchor reaches (itself, or through its successors) fatal: nothing but itself says that it was not cut or made anew.
    """
    return judge_log(
        [verify_stream(records, anchors=anchors) for records in streams], anchors=anchors, require_anchor=require_anchor
    )


def judge_log(
    reports: Sequence[StreamReport],
    *,
    anchors: Sequence[Receipt] = (),
    require_anchor: bool = False,
    found: Iterable[Finding] = (),
) -> LogReport:
    """Judge streams that were read already; `found` is what was wrong with where they came from."""
    findings = [finding for report in reports for finding in report.findings]
    findings += found
    if not reports:
        findings.append(_finding(Kind.MISSING, "there are no streams"))
    named: dict[str, StreamReport] = {}
    for report in reports:
        if report.stream is None:
            continue
        if report.stream in named:
            findings.append(_finding(Kind.INVALID, "the stream stands twice", report.stream))
        named[report.stream] = report
    findings += _successions(named)
    findings += _anchors(named, anchors, require_anchor=require_anchor)
    findings += _meaning(named)
    return LogReport(streams=tuple(reports), findings=tuple(findings))


def _successions(named: Mapping[str, StreamReport]) -> list[Finding]:
    findings: list[Finding] = []
    for report in named.values():
        before = report.predecessor
        if before is None:
            continue
        predecessor = named.get(before.stream)
        if predecessor is None:
            why = f"the stream that `{report.stream}` continues is not there"
            findings.append(_finding(Kind.MISSING, why, before.stream))
        elif not predecessor.intact or predecessor.head is None:
            continue  # its own finding stands
        elif predecessor.head.seq < before.seq:
            why = f"the tail is cut: `{report.stream}` continues from {before.seq}"
            findings.append(_finding(Kind.GAP, why, before.stream, predecessor.head.seq + 1))
        elif predecessor.head.seq > before.seq:
            why = f"records stand behind the one that `{report.stream}` continues from"
            findings.append(_finding(Kind.INVALID, why, before.stream, before.seq + 1))
        elif predecessor.head.hash != before.hash:
            why = f"`{report.stream}` continues from another record"
            findings.append(_finding(Kind.INVALID, why, before.stream, before.seq))
    return findings


def _anchors(named: Mapping[str, StreamReport], anchors: Sequence[Receipt], *, require_anchor: bool) -> list[Finding]:
    findings: list[Finding] = []
    reached: set[str] = set()
    for anchor in anchors:
        report = named.get(anchor.stream)
        if report is None:
            findings.append(_finding(Kind.MISSING, "the stream that a receipt names is not there", anchor.stream))
        elif anchor in report.anchored:
            _reach(named, anchor.stream, reached)
        elif report.intact:
            findings.append(_finding(Kind.GAP, "the record that a receipt names is cut off", anchor.stream, anchor.seq))
    for stream in named.keys() - reached:
        why = "no receipt from outside reaches the stream"
        findings.append(_finding(Kind.UNANCHORED, why, stream, fatal=require_anchor))
    return findings


def _reach(named: Mapping[str, StreamReport], stream: str, reached: set[str]) -> None:
    """Mark a stream and all before it: each names the last record of the one that it continues."""
    while stream in named and stream not in reached:
        reached.add(stream)
        before = named[stream].predecessor
        if before is None:
            return
        stream = before.stream


def _meaning(named: Mapping[str, StreamReport]) -> list[Finding]:
    """Check that every consumption rests on a permission that stands, and that none happened twice."""
    findings: list[Finding] = []
    voided, found = _voided(named)
    findings += found
    seen: set[tuple[str, str]] = set()
    for report in named.values():
        for consumed in report.facts.consumed:
            if consumed.at in voided or consumed.at.seq in report.facts.voided:
                continue
            if consumed.intent in seen:
                findings.append(_at(consumed, Kind.INVALID, "the intent was consumed before"))
            seen.add(consumed.intent)
            finding = _permission(named, consumed, voided)
            if finding is not None:
                findings.append(finding)
    return findings


def _voided(named: Mapping[str, StreamReport]) -> tuple[set[Receipt], list[Finding]]:
    """Return what later streams void of earlier ones, and the voids that point to nothing."""
    voided: set[Receipt] = set()
    findings: list[Finding] = []
    for report in named.values():
        for at, target in report.facts.voided_earlier:
            voided.add(target)
            earlier = named.get(target.stream)
            if earlier is None:
                why = f"a void points to the stream `{target.stream}`, which is not there"
                findings.append(_finding(Kind.MISSING, why, at.stream, at.seq))
            elif target.seq >= earlier.records and earlier.intact:
                findings.append(_finding(Kind.GAP, "a void points to a record that is cut off", at.stream, at.seq))
    return voided, findings


def _permission(named: Mapping[str, StreamReport], consumed: Consumed, voided: AbstractSet[Receipt]) -> Finding | None:
    wanted = consumed.decision
    report = named.get(wanted.stream)
    if report is None:
        return _at(consumed, Kind.MISSING, f"the stream `{wanted.stream}` of its decision is not there")
    if wanted.seq >= report.records:
        if not report.intact:
            return None  # the stream's own finding stands
        return _at(consumed, Kind.GAP, f"its decision {wanted.stream}:{wanted.seq} is cut off")
    if wanted in voided:
        return _at(consumed, Kind.INVALID, "its decision was voided")
    return _stands(report.facts, consumed)


def _stands(facts: Facts, consumed: Consumed) -> Finding | None:
    allow = facts.allows.get(consumed.decision.seq)
    if allow is None:
        return _at(consumed, Kind.INVALID, "its decision is not an allow")
    if allow[:32].hex() != consumed.decision.hash:
        return _at(consumed, Kind.INVALID, "its decision is another record than the one that stands there")
    if allow[32:] != fingerprint(consumed.intent[1], consumed.act_hash):
        return _at(consumed, Kind.INVALID, "its decision is about another intent or action")
    if consumed.decision.seq in facts.voided:
        return _at(consumed, Kind.INVALID, "its decision was voided")
    return None


def _at(consumed: Consumed, kind: Kind, why: str) -> Finding:
    return Finding(kind=kind, stream=consumed.at.stream, seq=consumed.at.seq, why=f"a consumption: {why}")


def _finding(kind: Kind, why: str, stream: str | None = None, seq: int | None = None, *, fatal: bool = True) -> Finding:
    return Finding(kind=kind, stream=stream, seq=seq, why=why, fatal=fatal)
