"""The fast writer and the slow reader of records agree on every byte."""

from __future__ import annotations

import pytest
from fakes.recording_entries import AT
from holdfast.audit import record
from holdfast.audit.record import Receipt
from holdfast.errors import AuditInvalid
from hypothesis import given
from hypothesis import strategies as st

from services.audit import chain
from services.recording import frames
from services.recording.effects import EncodedEffect
from services.recording.frames import JournalCorrupt, JournalRow

STREAM = "str_" + "0" * 26
KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True)
SCALARS = st.one_of(
    st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.text(st.characters(exclude_categories=["Cs"]))
)
PROFILE = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4))
)
MEMBERS = st.dictionaries(KEYS.filter(lambda key: key not in chain.RESERVED), PROFILE, max_size=5)
ANYTHING = st.recursive(
    st.one_of(
        SCALARS, st.none(), st.floats(), st.integers(), st.text(), st.binary(), st.just(AT), st.tuples(st.just(1.5))
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3) | KEYS, inner, max_size=3)
    ),
)


@given(MEMBERS, st.integers(0, 2**40))
def test_every_link_is_read_back_by_the_contract(members, seq):
    after = Receipt(stream=STREAM, seq=seq, hash="ab" * 32)
    linked = chain.link(STREAM, after, kind="decision", at=AT, members=members)
    found = record.read(linked.body)
    assert found.receipt == linked.receipt
    assert (found.seq, found.prev, linked.prev) == (seq + 1, after.hash, after.hash)
    assert {name: value for name, value in found.members.items() if name not in chain.RESERVED} == members
    assert record.canonical(found.members) == linked.body


@given(st.dictionaries(KEYS, ANYTHING, max_size=3))
def test_what_the_writer_takes_the_reader_takes(members):
    try:
        body = chain.canonical(members)
    except AuditInvalid:
        return
    record.check_profile(members)
    assert body == record.canonical(members)


@pytest.mark.parametrize("depth", [15, 16, 17])
def test_both_stop_at_the_same_depth(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    members = {"deep": value}

    def refused(check) -> bool:
        try:
            check(members)
        except AuditInvalid:
            return True
        return False

    assert refused(chain.canonical) is refused(record.check_profile)


EFFECTS = st.none() | st.builds(EncodedEffect, st.sampled_from(["a", "b"]), st.just(b'{"x":1}'))
ROWS = st.builds(
    JournalRow,
    body=MEMBERS.map(chain.canonical),
    seal=st.none() | st.binary(min_size=64, max_size=64),
    released=st.booleans(),
    effect=EFFECTS,
)


@given(st.lists(ROWS, min_size=1, max_size=5))
def test_a_frame_reads_back_as_it_was_written_and_holds_no_zero_byte(rows):
    frame = frames.encode(rows)
    assert frames.decode(frame) == tuple(rows)
    assert 0 not in frame[frames.FRAME_HEADER.size :], "zeros tell a torn frame from a changed one"


@given(st.lists(ROWS, min_size=1, max_size=3), st.data())
def test_a_frame_with_any_changed_byte_is_not_read(rows, data):
    frame = bytearray(frames.encode(rows))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(JournalCorrupt):
        frames.decode(bytes(frame))
