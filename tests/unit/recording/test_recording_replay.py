"""Journalled records go back in chunks that the database can check."""

from __future__ import annotations

import pytest
from fakes.recording_entries import AT

from services.audit.chain import link
from services.recording import replay
from services.recording.effects import REFUSE, EncodedEffect
from services.recording.frames import JournalCorrupt, JournalRow

EFFECT = EncodedEffect("open_intent", b"{}")


def records(stream, seals, *, head=None) -> list[replay.Replayed]:
    rows = []
    for seal in seals:
        linked = link("str_" + stream * 26, head, kind="decision", at=AT)
        head = linked.receipt
        rows.append(JournalRow(body=linked.body, seal=bytes(64) if seal else None, effect=EFFECT))
    return replay.read(rows)


def sizes(found, max_rows) -> list[int]:
    return [len(chunk) for chunk in replay.chunks(found, max_rows)]


def test_a_chunk_ends_in_a_seal_where_there_is_one():
    assert sizes(records("0", [0, 1, 0, 0, 1, 0]), 4) == [2, 3, 1]
    assert sizes(records("0", [0, 0, 0, 0, 0, 1]), 4) == [4, 2]


def test_a_chunk_holds_one_stream_and_no_gap():
    first, second = records("0", [0, 1]), records("1", [0, 1])
    assert sizes([*first, *second], 10) == [2, 2]
    assert sizes([*first, *first], 10) == [2, 2], "a frame that was written twice is compared twice"
    assert sizes([], 10) == []


def test_the_effect_of_what_was_never_released_is_left_out():
    released, kept = records("0", [0, 1])
    kept = replay.Replayed(**{name: getattr(kept, name) for name in kept.__slots__} | {"released": False})
    batch = replay.batch([released, kept])
    assert [row.effect for row in batch.rows] == [EFFECT, None]
    assert (batch.recovering, batch.seal) == (True, bytes(64))
    assert [row.effect for row in replay.batch([released, kept], instead=REFUSE).rows] == [REFUSE, None]


@pytest.mark.parametrize("body", [b"no json", b"[]", b"{}", b'{"stream":"a","seq":1}'])
def test_what_is_no_record_is_an_alarm(body):
    with pytest.raises(JournalCorrupt):
        replay.read([JournalRow(body=body)])
