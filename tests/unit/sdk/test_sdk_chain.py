"""One stream, and a log of streams: what each kind of damage is called, and where it is found."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from holdfast.audit.chain import verify_stream
from holdfast.audit.findings import Finding, Kind, exit_code, parse_receipt
from holdfast.audit.log import verify_log
from holdfast.audit.record import Receipt, canonical, leaf_hash, seal_message
from holdfast.errors import AuditInvalid
from holdfast.token import b64url
from sdk_fake_service import FakeService
from sdk_log_builder import ACT, Stream, as_json


def fatal(report) -> list[tuple[str, str | None, int | None]]:
    return [(finding.kind.value, finding.stream, finding.seq) for finding in report.findings if finding.fatal]


def warnings(report) -> list[tuple[str, int | None, str]]:
    return [(finding.kind.value, finding.seq, finding.why) for finding in report.findings if not finding.fatal]


@pytest.fixture
def stream() -> Stream:
    built = Stream()
    built.add(n=1)
    built.allow()
    built.add(n=2, seal=False)
    built.add(n=3)
    return built


def test_an_honest_stream_is_intact(stream):
    report = verify_stream(stream.records)

    assert report.intact
    assert (report.records, report.head, report.stream, report.closed) == (5, stream.head, stream.name, False)
    assert verify_log([stream.records]).exit_code == 0


def test_a_log_without_streams_proves_nothing():
    assert fatal(verify_log([])) == [("MISSING", None, None)]
    assert verify_log([]).exit_code == 3


def test_an_emptied_stream_proves_nothing():
    assert fatal(verify_stream([], stream="str_x")) == [("MISSING", "str_x", None)]


# --- bytes and chain --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", range(5))
def test_a_changed_byte_is_found_where_it_is(stream, seq):
    body, seal = stream.records[seq]
    stream.records[seq] = (body.replace(b"2026", b"2025", 1), seal)

    ((kind, _, found),) = fatal(verify_stream(stream.records))
    # Without its seal the changed record holds by itself, and the one after it shows the break.
    assert (kind, found) == ("INVALID", seq if seal else seq + 1)


def test_a_flipped_decision_is_found(stream):
    body, _ = stream.records[2]
    stream.records[2] = (body.replace(b'"allow"', b'"deny"'), None)

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 3)]


def test_a_re_computed_suffix_is_found_by_the_seals(stream):
    """The forger chains everything again, and lacks the key that sealed it."""
    forged = Stream()
    forged.records, forged.head, forged.at = (
        stream.records[:2],
        _receipt(stream.records[1][0], stream.name, 1),
        stream.at,
    )
    forged.key = Ed25519PrivateKey.generate()
    forged.add("decision", intent_id="int_1", decision="deny", act_hash=ACT)

    assert fatal(verify_stream(forged.records)) == [("INVALID", stream.name, 2)]


def test_a_forged_tail_without_seals_is_found(stream):
    stream.add(n=4, seal=False)
    stream.add(n=5, seal=False)

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 5)]


def test_a_seal_that_does_not_verify_is_found_even_in_the_middle(stream):
    stream.records[3] = (stream.records[3][0], stream.key.sign(b"something else"))

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 3)]


def test_a_seal_of_another_record_does_not_count(stream):
    stream.records[4] = (stream.records[4][0], stream.records[2][1])

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 4)]


@pytest.mark.parametrize("seal", [b"", b"x" * 63, b"x" * 65])
def test_a_seal_of_another_length_is_invalid(stream, seal):
    stream.records[4] = (stream.records[4][0], seal)

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 4)]


def test_a_removed_record_is_found(stream):
    del stream.records[2]

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 2)]


def test_a_record_with_another_number_is_found(stream):
    """It links, and a seal stands behind it; only its number is not its place."""
    stream.add(seal=False, raw={"seq": 9})
    stream.add()

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 5)]


def test_swapped_records_are_found(stream):
    stream.records[1], stream.records[2] = stream.records[2], stream.records[1]

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 1)]


def test_a_stream_that_does_not_start_at_its_start_is_found(stream):
    assert fatal(verify_stream(stream.records[1:])) == [("INVALID", stream.name, 0)]


def test_a_record_of_another_stream_is_found(stream):
    other = Stream("b")
    stream.records.append(other.records[0])

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 5)]
    assert fatal(verify_stream(other.records, stream=stream.name)) == [("INVALID", stream.name, 0)]


def test_only_the_first_bad_record_is_named(stream):
    stream.records[1] = (b"{}", None)
    stream.records[3] = (b"[]", None)

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 1)]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"null", b"\xff", b'{"a": 1}', b'{"a":1,"a":1}', b"[" * 100, b'{"a":1.5}', b"x" * (1 << 21)],
    ids=lambda body: body[:12],
)
def test_what_is_not_a_record_is_invalid(stream, body):
    stream.records[2] = (body, None)

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 2)]


@pytest.mark.parametrize(
    "opening",
    [
        {"seal_key": ""},
        {"seal_key": "AAAA"},
        {"seal_key": b64url(bytes(32))},
        {"seal_key": "é" * 43},
        {"seal_key": 7},
        {"lane": 0},
        {"predecessor": {}},
        {"predecessor": {"stream": "x", "seq": -1, "hash": "y"}},
        {"predecessor": "x"},
    ],
    ids=str,
)
def test_a_malformed_opening_is_invalid(opening):
    assert fatal(verify_stream(Stream(**opening).records))[0][::2] == ("INVALID", 0)


def test_a_second_opening_is_invalid(stream):
    stream.add("stream.open", lane="0", seal_key="x")

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 5)]


def test_the_first_record_links_to_nothing():
    stream = Stream()
    body = canonical({**json.loads(stream.records[0][0]), "prev": "1" * 64})
    head = Receipt(stream=stream.name, seq=0, hash=leaf_hash(body))

    assert fatal(verify_stream([(body, stream.key.sign(seal_message(head)))])) == [("INVALID", stream.name, 0)]


@pytest.mark.parametrize("end", ["stream.close", "stream.adopt"])
def test_nothing_follows_the_end_of_a_stream(stream, end):
    stream.add(end)
    assert verify_stream(stream.records).closed

    stream.add()
    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 6)]


# --- time -------------------------------------------------------------------------------------------------------------


def test_time_that_moves_back_a_little_is_not_worth_a_word(stream):
    stream.add(after_s=-5)

    assert warnings(verify_stream(stream.records)) == []


def test_time_that_moves_back_far_is_a_warning(stream):
    stream.add(after_s=-6)
    report = verify_stream(stream.records)

    assert report.intact
    assert warnings(report) == [("INVALID", 5, "time moves backwards")]


def test_silence_is_a_warning(stream):
    stream.add("stream.heartbeat", after_s=60)
    stream.add(after_s=61)

    assert warnings(verify_stream(stream.records)) == [("GAP", 6, "61 seconds of silence before it")]


def test_a_time_that_does_not_exist_is_invalid(stream):
    stream.add(raw={"at": "2026-13-01T00:00:00.000000Z"})

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 5)]


# --- streams that follow each other -----------------------------------------------------------------------------------


def test_a_chain_of_streams_is_intact_in_any_order(stream):
    second = Stream("b", predecessor=stream.head)
    third = Stream("c", predecessor=second.close())

    for order in ([stream, second, third], [third, stream, second]):
        assert verify_log([each.records for each in order]).exit_code == 0


def test_a_removed_stream_is_missing(stream):
    second = Stream("b", predecessor=stream.head)
    report = verify_log([second.records])

    assert fatal(report) == [("MISSING", stream.name, None)]
    assert report.exit_code == 3


def test_a_removed_tail_is_a_gap(stream):
    second = Stream("b", predecessor=stream.head)
    report = verify_log([stream.records[:3], second.records])

    assert fatal(report) == [("GAP", stream.name, 3)]
    assert report.exit_code == 4


def test_a_tail_grown_behind_a_successor_is_invalid(stream):
    second = Stream("b", predecessor=stream.head)
    stream.add()

    assert fatal(verify_log([stream.records, second.records])) == [("INVALID", stream.name, 5)]


def test_a_successor_of_another_record_is_invalid(stream):
    other = Receipt(stream=stream.name, seq=stream.head.seq, hash="1" * 64)

    assert fatal(verify_log([stream.records, Stream("b", predecessor=other).records])) == [("INVALID", stream.name, 4)]


def test_a_stream_that_stands_twice_is_invalid(stream):
    assert fatal(verify_log([stream.records, stream.records])) == [("INVALID", stream.name, None)]


# --- receipts from outside --------------------------------------------------------------------------------------------


def test_a_receipt_that_was_kept_finds_a_log_made_anew(stream):
    anew = Stream()
    for _ in range(4):
        anew.add()
    assert verify_log([anew.records]).exit_code == 0

    assert fatal(verify_log([anew.records], anchors=[stream.head])) == [("INVALID", stream.name, 4)]


def test_a_receipt_finds_a_removed_tail_and_a_removed_stream(stream):
    assert fatal(verify_log([stream.records[:3]], anchors=[stream.head])) == [("GAP", stream.name, 4)]
    assert fatal(verify_log([Stream("b").records], anchors=[stream.head])) == [("MISSING", stream.name, None)]


def test_an_anchor_reaches_back_through_predecessors_and_no_further(stream):
    second = Stream("b", predecessor=stream.head)
    beside = Stream("c")
    streams = [stream.records, second.records, beside.records]

    assert verify_log(streams).exit_code == 0
    assert verify_log(streams[:2], anchors=[second.head], require_anchor=True).exit_code == 0
    report = verify_log(streams, anchors=[second.head], require_anchor=True)
    assert fatal(report) == [("UNANCHORED", beside.name, None)]
    assert report.exit_code == 5


def test_a_receipt_is_read_from_text_or_from_a_token(refund):
    receipt = Receipt(stream="str_" + "0" * 26, seq=7, hash="a" * 64)

    assert parse_receipt(str(receipt)) == receipt
    assert parse_receipt(FakeService().mint(refund)) == receipt


@pytest.mark.parametrize("text", ["", "a:b", "a:1:xyz", "a:01:" + "a" * 64, "a.b.c", "e30.e30.e30", "..", "x" * 9000])
def test_what_is_not_a_receipt_is_refused(text):
    with pytest.raises(AuditInvalid):
        parse_receipt(text)


# --- meaning ----------------------------------------------------------------------------------------------------------


def test_a_consumption_that_rests_on_an_allow_is_good(stream):
    allow = stream.allow()
    other = Stream("b")
    other.consume(allow)

    assert verify_log([other.records, stream.records]).exit_code == 0


@pytest.mark.parametrize(
    "spoil",
    [
        {"act_hash": "sha-256:" + "B" * 43},
        {"txn": "int_2"},
        {"decision": {"stream": "str_" + "a" * 26, "seq": 2, "hash": "1" * 64}},
        {"decision": {"stream": "str_" + "a" * 26, "seq": 2}},
        {"decision": "none"},
        {"iss": ""},
        {"jti": 7},
        {"executor": ["x"]},
    ],
    ids=str,
)
def test_a_consumption_of_something_else_is_invalid(stream, spoil):
    allow = _receipt(stream.records[2][0], stream.name, 2)
    stream.consume(allow, **spoil)

    assert fatal(verify_log([stream.records])) == [("INVALID", stream.name, 5)]


@pytest.mark.parametrize("decision", ["deny", "hold", "Allow", ""])
def test_a_consumption_without_an_allow_is_invalid(stream, decision):
    denied = stream.add("decision", intent_id="int_1", decision=decision, act_hash=ACT)
    stream.consume(denied)

    assert fatal(verify_log([stream.records])) == [("INVALID", stream.name, 6)]


def test_an_allow_in_a_record_of_another_kind_is_no_decision(stream):
    stream.consume(stream.add("note", intent_id="int_1", decision="allow", act_hash=ACT))

    assert fatal(verify_log([stream.records])) == [("INVALID", stream.name, 6)]


def test_a_consumption_of_a_voided_allow_is_invalid(stream):
    allow = stream.allow()
    stream.void(allow)
    stream.consume(allow)

    assert fatal(verify_log([stream.records])) == [("INVALID", stream.name, 7)]


def test_an_intent_is_consumed_once_in_the_whole_log(stream):
    allow = stream.allow()
    stream.consume(allow)
    other = Stream("b")
    other.consume(allow, jti="jti_" + "2" * 32)

    assert fatal(verify_log([stream.records, other.records])) == [("INVALID", other.name, 1)]


def test_a_voided_consumption_does_not_count(stream):
    allow = stream.allow()
    stream.void(stream.consume(allow), kind="token.void")
    stream.consume(allow)

    assert verify_log([stream.records]).exit_code == 0


def test_a_consumption_that_a_later_stream_voids_does_not_count(stream):
    """The process that wrote it died before it could say so itself."""
    allow = stream.allow()
    consumed = stream.consume(allow)
    successor = Stream("b", predecessor=stream.head, start=stream.at)
    successor.add("token.void_earlier", void=as_json(consumed), why="effect_refused")
    successor.consume(allow)

    assert verify_log([stream.records, successor.records]).exit_code == 0


def test_a_consumption_of_an_allow_that_a_later_stream_voids_is_invalid(stream):
    allow = stream.allow()
    stream.consume(allow)
    successor = Stream("b", predecessor=stream.head, start=stream.at)
    successor.add("decision.void_earlier", void=as_json(allow), why="not_released")

    assert fatal(verify_log([stream.records, successor.records])) == [("INVALID", stream.name, 6)]


def test_a_void_of_a_stream_that_is_not_there_is_found(stream):
    gone = Receipt(stream="str_" + "z" * 26, seq=0, hash="0" * 64)
    stream.add("decision.void_earlier", void=as_json(gone), why="not_released")

    assert fatal(verify_log([stream.records])) == [("MISSING", stream.name, 5)]


def test_a_void_of_a_record_that_is_cut_off_is_found(stream):
    other = Stream("b")
    cut = Receipt(stream=other.name, seq=9, hash="0" * 64)
    stream.add("decision.void_earlier", void=as_json(cut), why="not_released")

    assert fatal(verify_log([stream.records, other.records])) == [("GAP", stream.name, 5)]


def test_a_consumption_whose_decision_is_not_there_is_found(stream):
    allow = stream.allow()
    other = Stream("b")
    other.consume(allow)

    assert fatal(verify_log([other.records])) == [("MISSING", other.name, 1)]
    assert fatal(verify_log([stream.records[:5], other.records])) == [("GAP", other.name, 1)]


@pytest.mark.parametrize(
    "target",
    [
        {"seq": 2, "hash": "1" * 64},
        {"seq": 5, "hash": "1" * 64},
        {"seq": -1, "hash": ""},
        {"seq": True, "hash": ""},
        {},
    ],
    ids=str,
)
def test_a_void_of_nothing_is_invalid(stream, target):
    stream.add("decision.void", void=target, why="x")

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 5)]


def test_an_allow_about_nothing_is_invalid(stream):
    stream.add("decision", decision="allow")

    assert fatal(verify_stream(stream.records)) == [("INVALID", stream.name, 5)]


def test_the_worst_kind_gives_the_exit_code():
    def finding(kind, *, fatal=True):
        return Finding(kind=kind, stream=None, seq=None, why="", fatal=fatal)

    assert exit_code([]) == 0
    assert exit_code([finding(Kind.INVALID, fatal=False)]) == 0
    assert [exit_code([finding(kind)]) for kind in Kind] == [1, 3, 4, 5]
    assert exit_code([finding(kind) for kind in reversed(Kind)]) == 1


def _receipt(body: bytes, stream: str, seq: int) -> Receipt:
    return Receipt(stream=stream, seq=seq, hash=leaf_hash(body))


def test_the_builder_makes_what_the_contract_says(stream):
    assert as_json(stream.head) == {"stream": stream.name, "seq": 4, "hash": stream.head.hash}
