"""Journalled records on their way back to the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from holdfast.audit.record import Receipt, leaf_hash

from services.recording.frames import JournalCorrupt
from services.recording.sink import Batch, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from services.recording.effects import EncodedEffect
    from services.recording.frames import JournalRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One journalled record, with what its body says of its place."""

    receipt: Receipt
    prev: str
    kind: str
    body: bytes
    seal: bytes | None
    released: bool
    effect: EncodedEffect | None


def read(rows: Iterable[JournalRow]) -> list[Replayed]:
    """Read where each record belongs from its own bytes. Raises: JournalCorrupt."""
    return [_read(row) for row in rows]


def _read(row: JournalRow) -> Replayed:
    try:
        body = orjson.loads(row.body)
        stream, seq, prev, kind = body["stream"], body["seq"], body["prev"], body["kind"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise JournalCorrupt("the journal holds what is no record") from error
    return Replayed(
        receipt=Receipt(stream=stream, seq=seq, hash=leaf_hash(row.body)),
        prev=prev,
        kind=kind,
        body=row.body,
        seal=row.seal,
        released=row.released,
        effect=row.effect,
    )


def chunks(records: Sequence[Replayed], max_rows: int) -> Iterator[Sequence[Replayed]]:
    """Cut into consecutive records of one stream, at most `max_rows`, each ending in a seal where there is one."""
    start = 0
    while start < len(records):
        end = start + 1
        while (
            end < len(records)
            and end - start < max_rows
            and records[end].receipt.stream == records[start].receipt.stream
            and records[end].prev == records[end - 1].receipt.hash
        ):
            end += 1
        sealed = next((n for n in range(end, start, -1) if records[n - 1].seal is not None), end)
        yield records[start:sealed]
        start = sealed


def batch(records: Sequence[Replayed], *, instead: EncodedEffect | None = None) -> Batch:
    """Return the recovering batch of one chunk. The effect of a record that was never released is not applied.

    `instead` takes the place of every effect.
    """
    return Batch(
        stream=records[0].receipt.stream,
        prev=bytes.fromhex(records[0].prev),
        rows=[
            Row(
                seq=record.receipt.seq,
                hash=bytes.fromhex(record.receipt.hash),
                body=record.body,
                effect=(instead or record.effect) if record.released and record.effect is not None else None,
            )
            for record in records
        ],
        seal=records[-1].seal,
        recovering=True,
    )
