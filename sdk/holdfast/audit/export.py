"""An export of the log: a directory that anybody can verify on a machine of their own.

    manifest.json  {"format": "holdfast-export/1", "streams": [{"stream", "records", "head": {"seq", "hash"}}]}
    streams/<stream>.records  repeated: 4-byte big-endian length, and that many bytes of body
    streams/<stream>.seals    JSON lines {"seq": n, "seal": base64url}, ascending

The manifest is not signed. It finds accidents; against an enemy keep receipts outside of the log.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from holdfast import strict_json
from holdfast.audit import record
from holdfast.audit.chain import SEAL_BYTES, StreamCut, StreamReport, verify_stream
from holdfast.audit.encoding import decode_b64url
from holdfast.audit.findings import Finding, Kind
from holdfast.audit.log import LogReport, judge_log
from holdfast.audit.record import MAX_BODY_BYTES, Receipt
from holdfast.errors import AuditInvalid, MalformedJSON
from holdfast.token import b64url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from holdfast.audit.chain import Sealed
    from holdfast.strict_json import JSON

FORMAT: Final = "holdfast-export/1"
MANIFEST: Final = "manifest.json"
STREAMS: Final = "streams"
MAX_MANIFEST_BYTES: Final = 64 << 20
MAX_SEAL_LINE_BYTES: Final = 256

_LENGTH: Final = struct.Struct(">I")
_STREAM: Final = re.compile(r"str_[0-9a-z]{26}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What the manifest says of one stream."""

    stream: str
    records: int
    head: Receipt


def write_export(directory: Path, streams: Iterable[tuple[str, Iterable[Sealed]]]) -> tuple[Listed, ...]:
    """Write an export into a new or empty directory and return what it lists. Durable when this returns.

    `streams` are names, and records in order of `seq` with their seals. The manifest is written last: without one there
    is no export. Nothing is verified here. Raises: FileExistsError if something is there, AuditInvalid for a malformed
    or repeated name, a stream without records, or a record that is too large.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise FileExistsError(f"`{directory.name}` is not empty")
    (directory / STREAMS).mkdir()
    listed = tuple(_write_stream(directory / STREAMS, stream, records) for stream, records in streams)
    if len({entry.stream for entry in listed}) != len(listed):
        raise AuditInvalid("a stream stands twice")
    entries: list[JSON] = [_entry(entry) for entry in listed]
    manifest = record.canonical({"format": FORMAT, "streams": entries})
    with (directory / MANIFEST).open("xb") as file:
        file.write(manifest + b"\n")
        _sync(file)
    for made in (directory / STREAMS, directory):
        _sync_directory(made)
    return listed


def verify_export(directory: Path, *, anchors: Sequence[Receipt] = (), require_anchor: bool = False) -> LogReport:
    """Verify an export against itself, and against the receipts that you kept. Reads every stream once.

    Never raises for what is in the directory. Raises: OSError if a file that is there cannot be read.
    """
    found: list[Finding] = []
    try:
        listed = read_manifest(directory)
    except FileNotFoundError:
        return judge_log((), found=[_finding(Kind.MISSING, None, "there is no manifest")])
    except AuditInvalid as error:
        return judge_log((), found=[_finding(Kind.INVALID, None, f"the manifest: {error}")])
    reports: list[StreamReport] = []
    for entry in listed:
        path = directory / STREAMS / f"{entry.stream}.records"
        if not path.is_file():
            found.append(_finding(Kind.MISSING, entry.stream, "the stream's file is not there"))
            continue
        report = verify_stream(read_stream(directory, entry.stream), stream=entry.stream, anchors=anchors)
        reports.append(report)
        found += _against_manifest(entry, report)
    found += _unlisted(directory, listed)
    return judge_log(reports, anchors=anchors, require_anchor=require_anchor, found=found)


def read_manifest(directory: Path) -> tuple[Listed, ...]:
    """Return what the manifest lists. Raises: FileNotFoundError, AuditInvalid."""
    path = directory / MANIFEST
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise AuditInvalid("it is too large")
    try:
        document = strict_json.loads(path.read_bytes())
    except MalformedJSON as error:
        raise AuditInvalid(str(error)) from error
    if not isinstance(document, dict) or set(document) != {"format", "streams"} or document["format"] != FORMAT:
        raise AuditInvalid(f"it is not of the format {FORMAT}")
    entries = document["streams"]
    if not isinstance(entries, list):
        raise AuditInvalid("`streams` is not a list")
    listed = tuple(_listed(entry) for entry in entries)
    if len({entry.stream for entry in listed}) != len(listed):
        raise AuditInvalid("a stream stands twice")
    return listed


def read_stream(directory: Path, stream: str) -> Iterator[Sealed]:
    """Yield the records of one stream with their seals. Raises: StreamCut for a file that ends inside a record."""
    folder = directory / STREAMS
    seals = _read_seals(folder / f"{stream}.seals")
    next_seal = next(seals, None)
    seq = 0
    with (folder / f"{stream}.records").open("rb") as file:
        while (body := _read_body(file)) is not None:
            seal: bytes | None = None
            if next_seal is not None and next_seal[0] == seq:
                seal = next_seal[1]
                next_seal = next(seals, None)
            yield body, seal
            seq += 1
    if next_seal is not None:
        raise StreamCut(f"a seal stands for record {next_seal[0]}, which is not there")


def _read_body(file: BinaryIO) -> bytes | None:
    prefix = file.read(_LENGTH.size)
    if not prefix:
        return None
    if len(prefix) < _LENGTH.size:
        raise StreamCut("the file ends inside a record's length")
    (length,) = _LENGTH.unpack(prefix)
    if length > MAX_BODY_BYTES:
        raise AuditInvalid("a record is too large")
    body = file.read(length)
    if len(body) < length:
        raise StreamCut("the file ends inside a record")
    return body


def _read_seals(path: Path) -> Iterator[tuple[int, bytes]]:
    if not path.is_file():
        return
    last = -1
    with path.open("rb") as file:
        while line := file.readline(MAX_SEAL_LINE_BYTES):
            if not line.endswith(b"\n"):
                raise StreamCut("the file of seals ends inside a line")
            try:
                document = strict_json.loads(line)
            except MalformedJSON as error:
                raise AuditInvalid(f"a seal: {error}") from error
            if not isinstance(document, dict) or set(document) != {"seq", "seal"}:
                raise AuditInvalid("a seal has `seq` and `seal`")
            seq, text = document["seq"], document["seal"]
            if not isinstance(seq, int) or isinstance(seq, bool) or seq <= last or not isinstance(text, str):
                raise AuditInvalid("a seal is malformed or out of order")
            seal = decode_b64url(text)
            if len(seal) != SEAL_BYTES:
                raise AuditInvalid("a seal has another length")
            last = seq
            yield seq, seal


def _against_manifest(entry: Listed, report: StreamReport) -> list[Finding]:
    counts = f"the manifest lists {entry.records} records, and there are {report.records}"
    if report.records > entry.records:
        return [_finding(Kind.INVALID, entry.stream, counts, entry.records)]
    if not report.intact:
        return []  # its own finding stands
    if report.records < entry.records:
        return [_finding(Kind.GAP, entry.stream, counts, report.records)]
    if report.head != entry.head:
        return [_finding(Kind.INVALID, entry.stream, "its head is not the manifest's", entry.head.seq)]
    return []


def _unlisted(directory: Path, listed: Sequence[Listed]) -> list[Finding]:
    folder = directory / STREAMS
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    known = {f"{entry.stream}.{kind}" for entry in listed for kind in ("records", "seals")}
    return [_finding(Kind.INVALID, None, f"the manifest does not list {name!a}") for name in sorted(names - known)]


def _write_stream(folder: Path, stream: str, records: Iterable[Sealed]) -> Listed:
    if _STREAM.fullmatch(stream) is None:
        raise AuditInvalid("the stream's name is malformed")
    head: Receipt | None = None
    count = 0
    with (folder / f"{stream}.records").open("xb") as bodies, (folder / f"{stream}.seals").open("xb") as seals:
        for body, seal in records:
            if len(body) > MAX_BODY_BYTES:
                raise AuditInvalid("a record is too large")
            head = Receipt(stream=stream, seq=count, hash=record.leaf_hash(body))
            bodies.write(_LENGTH.pack(len(body)) + body)
            if seal is not None:
                seals.write(record.canonical({"seq": count, "seal": b64url(seal)}) + b"\n")
            count += 1
        _sync(bodies)
        _sync(seals)
    if head is None:
        raise AuditInvalid("a stream without records proves nothing")
    return Listed(stream=stream, records=count, head=head)


def _entry(listed: Listed) -> dict[str, JSON]:
    return {
        "stream": listed.stream,
        "records": listed.records,
        "head": {"seq": listed.head.seq, "hash": listed.head.hash},
    }


def _listed(entry: JSON) -> Listed:
    if not isinstance(entry, dict) or set(entry) != {"stream", "records", "head"}:
        raise AuditInvalid("a stream has `stream`, `records` and `head`")
    stream, records, head = entry["stream"], entry["records"], entry["head"]
    if not isinstance(stream, str) or _STREAM.fullmatch(stream) is None:
        raise AuditInvalid("a stream's name is malformed")
    if not isinstance(records, int) or isinstance(records, bool) or records < 1:
        raise AuditInvalid("`records` is not the number of records")
    if not isinstance(head, dict) or set(head) != {"seq", "hash"}:
        raise AuditInvalid("`head` has `seq` and `hash`")
    digest = head["hash"]
    if head["seq"] != records - 1 or not isinstance(digest, str) or _HASH.fullmatch(digest) is None:
        raise AuditInvalid("`head` is not the last record's")
    return Listed(stream=stream, records=records, head=Receipt(stream=stream, seq=records - 1, hash=digest))


def _finding(kind: Kind, stream: str | None, why: str, seq: int | None = None) -> Finding:
    return Finding(kind=kind, stream=stream, seq=seq, why=why)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
