"""The bytes of a journal file.

    file    magic (8) · acknowledged up to this offset (8) · frame … · zeros
    frame   length (4) · CRC-32 of length and payload (4) · payload
    payload three lines per record: {"released", "seal", "op", "notices"} · members of the effect or nothing · body

Numbers are little-endian. A frame is what was fsynced at once, so it counts whole or not at all. JSON holds neither
NUL nor a raw line feed: a payload with a zero byte is one that the disk did not finish.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from services.recording.effects import EncodedEffect

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAGIC: Final = b"HFJRNL1\n"
FILE_HEADER: Final = struct.Struct("<8sQ")
FRAME_HEADER: Final = struct.Struct("<II")
MARK_OFFSET: Final = len(MAGIC)
_LENGTH: Final = struct.Struct("<I")
_LINES: Final = 3
_SEAL_BYTES: Final = 64


class JournalCorrupt(Exception):
    """An acknowledged part of the journal is damaged. A human has to look; nothing may be dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRow:
    """One record as journalled. `released` says whether its answer may rest on this journal, and its effect stands."""

    body: bytes
    seal: bytes | None = None
    released: bool = True
    effect: EncodedEffect | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a frame lies in its file, header included."""

    offset: int
    size: int


def encode(rows: Sequence[JournalRow]) -> bytes:
    """Return one frame that holds the rows."""
    payload = b"\n".join(_lines(rows))
    length = _LENGTH.pack(len(payload))
    return length + _LENGTH.pack(zlib.crc32(payload, zlib.crc32(length))) + payload


def decode(frame: bytes) -> tuple[JournalRow, ...]:
    """Read one frame back. Raises: JournalCorrupt."""
    if not _is_whole(frame, Extent(0, len(frame))):
        raise JournalCorrupt("a frame of the journal does not have the bytes that were written")
    lines = frame[FRAME_HEADER.size :].split(b"\n")
    if len(lines) % _LINES:
        raise JournalCorrupt("a frame of the journal is not made of records")
    return tuple(_row(*lines[n : n + _LINES]) for n in range(0, len(lines), _LINES))


def scan(data: bytes) -> list[Extent]:
    """Return the frames of a file, without a last one that the disk did not finish.

    Raises: JournalCorrupt if anything that was acknowledged is not there.
    """
    if not data:
        return []  # its making was cut short
    if len(data) < FILE_HEADER.size:
        raise JournalCorrupt("a journal file is cut short")
    magic, acknowledged = FILE_HEADER.unpack_from(data)
    if magic != MAGIC:
        if acknowledged <= FILE_HEADER.size and not any(data[FILE_HEADER.size :]):
            return []  # its making was cut short, and nothing was written to it
        raise JournalCorrupt("a journal file does not start like one")
    found: list[Extent] = []
    offset = FILE_HEADER.size
    while offset + FRAME_HEADER.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, offset)
        extent = Extent(offset, FRAME_HEADER.size + length)
        if length == 0:
            break
        if not _is_whole(data, extent):
            if not _is_torn(data, extent):
                raise JournalCorrupt("a frame of the journal was changed after it was written")
            break
        found.append(extent)
        offset += extent.size
    if offset < acknowledged:
        raise JournalCorrupt(f"the journal is damaged at {offset}, and was acknowledged up to {acknowledged}")
    return found


def _is_whole(data: bytes, extent: Extent) -> bool:
    start, end = extent.offset + FRAME_HEADER.size, extent.offset + extent.size
    if end > len(data) or extent.size <= FRAME_HEADER.size:
        return False
    length: int
    crc: int
    length, crc = FRAME_HEADER.unpack_from(data, extent.offset)
    if length != end - start:
        return False
    return zlib.crc32(memoryview(data)[start:end], zlib.crc32(_LENGTH.pack(length))) == crc


def _is_torn(data: bytes, extent: Extent) -> bool:
    """Tell a frame that was never finished from one that was damaged later: it has holes, and nothing follows it."""
    end = extent.offset + extent.size
    if end > len(data):
        return True
    if 0 not in memoryview(data)[extent.offset + FRAME_HEADER.size : end]:
        return False
    if end + FRAME_HEADER.size > len(data):
        return True
    (following,) = _LENGTH.unpack_from(data, end)
    return not _is_whole(data, Extent(end, FRAME_HEADER.size + following))


def _lines(rows: Sequence[JournalRow]) -> Iterable[bytes]:
    for row in rows:
        head: dict[str, object] = {"released": row.released}
        if row.seal is not None:
            head["seal"] = base64.b64encode(row.seal).decode("ascii")
        if row.effect is not None:
            head["op"] = row.effect.op
            if row.effect.notices:
                head["notices"] = [orjson.Fragment(notice) for notice in row.effect.notices]
        yield orjson.dumps(head)
        yield b"" if row.effect is None else row.effect.members
        yield row.body


def _row(head: bytes, members: bytes, body: bytes) -> JournalRow:
    try:
        parsed = orjson.loads(head)
        released, op, seal = parsed["released"], parsed.get("op"), parsed.get("seal")
        sealed = None if seal is None else base64.b64decode(seal, validate=True)
        notices = tuple(orjson.dumps(notice) for notice in parsed.get("notices", ()))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise JournalCorrupt("a record of the journal cannot be read") from error
    if (
        not isinstance(released, bool)
        or (op is None) != (not members)
        or not isinstance(op, str | None)
        or (op is None and notices)
        or (sealed is not None and len(sealed) != _SEAL_BYTES)
    ):
        raise JournalCorrupt("a record of the journal is malformed")
    effect = None if op is None else EncodedEffect(op, members, notices)
    return JournalRow(body=body, seal=sealed, released=released, effect=effect)
