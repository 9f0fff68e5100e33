"""A record has one form and one place, or it has none."""

from __future__ import annotations

from datetime import timedelta, timezone
from types import MappingProxyType

import pytest
from fakes.recording_entries import AT
from holdfast.audit.record import GENESIS, leaf_hash, read
from holdfast.errors import AuditInvalid
from holdfast.reasons import ReasonCode

from services.audit.chain import RESERVED, link, void_kind

STREAM = "str_" + "0" * 26


def test_the_first_record_follows_nothing_and_the_next_follows_it():
    first = link(STREAM, None, kind="stream.open", at=AT)
    second = link(STREAM, first.receipt, kind="decision", at=AT, members={"n": 1})
    assert (first.receipt.seq, first.prev) == (0, GENESIS)
    assert (second.receipt.seq, second.prev) == (1, first.receipt.hash)
    assert first.receipt.hash == leaf_hash(first.body)
    assert read(second.body).members["n"] == 1


def test_a_record_has_exactly_these_bytes():
    linked = link(STREAM, None, kind="decision", at=AT, members={"b": [True, -1, 'é\n"\\\u2028'], "a": {}})
    assert (
        linked.body
        == (
            '{"a":{},"at":"2026-11-20T12:00:00.123456Z","b":[true,-1,"é\\n\\"\\\\\u2028"],"kind":"decision","prev":"'
            + "0" * 64
            + '","seq":0,"stream":"str_00000000000000000000000000"}'
        ).encode()
    )


def test_time_is_told_in_utc():
    east = AT.astimezone(timezone(timedelta(hours=5)))
    assert link(STREAM, None, kind="a", at=east).body == link(STREAM, None, kind="a", at=AT).body


def test_members_may_be_any_mapping_and_names_of_closed_sets():
    linked = link(STREAM, None, kind="a", at=AT, members=MappingProxyType({"code": ReasonCode.ALLOWED}))
    assert read(linked.body).members["code"] == "ALLOWED"


def test_a_record_of_another_stream_is_not_followed():
    other = link("str_" + "1" * 26, None, kind="a", at=AT).receipt
    with pytest.raises(AuditInvalid):
        link(STREAM, other, kind="a", at=AT)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_no_member_takes_the_name_of_one_that_the_chain_writes(name):
    with pytest.raises(AuditInvalid):
        link(STREAM, None, kind="a", at=AT, members={name: "x"})


@pytest.mark.parametrize("kind", ["", "A", "a.", ".a", "a.b.c", "a1", "a b", "decision\n"])
def test_a_kind_is_one_or_two_words(kind):
    with pytest.raises(AuditInvalid):
        link(STREAM, None, kind=kind, at=AT)


@pytest.mark.parametrize(
    "value", [1.0, None, 2**53, -(2**53), (1,), b"x", AT, {1: 2}, {"A": 1}, {"": 1}, "\udfff", {"x": [None]}]
)
def test_what_two_readers_could_read_differently_is_not_written(value):
    with pytest.raises(AuditInvalid):
        link(STREAM, None, kind="a", at=AT, members={"value": value})


def test_a_naive_time_is_no_time():
    with pytest.raises(AuditInvalid):
        link(STREAM, None, kind="a", at=AT.replace(tzinfo=None))


@pytest.mark.parametrize(("kind", "void"), [("decision", "decision.void"), ("token.consumed", "token.void")])
def test_a_void_is_named_after_what_it_voids(kind, void):
    assert void_kind(kind) == void
    assert void_kind(kind, earlier=True) == void + "_earlier"
