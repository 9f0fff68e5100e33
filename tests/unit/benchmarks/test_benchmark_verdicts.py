"""What counts as a right answer, and which rounds may be quoted."""

import json

import pytest

from benchmarks.generator import Tally, merged
from benchmarks.openloop import Load, Measured
from benchmarks.percentiles import Distribution
from benchmarks.report import highest, ratios
from benchmarks.traffic import Kind, Target, WrongAnswer, intent, judge, request

MS = 1_000_000


def measured(kind=Kind.HOLDFAST, *, rate=200.0, latency=2 * MS, lag=MS // 10, errors=None, count=1000):
    return Measured(
        kind=kind,
        load=Load(rate_per_s=rate, seconds=5),
        latency=Distribution.of([latency] * count),
        lag=Distribution.of([lag] * 1000),
        achieved_per_s=rate,
        errors=errors or {},
        verified=50,
        priority="ordinary",
        generator_cpu_s=0.1,
    )


def answer(**changes):
    return json.dumps(
        {"intent_id": "int_1", "status": "granted", "decision": "allow", "token": "a.b.c"} | changes
    ).encode()


def test_an_answer_with_a_token_is_right_and_named_by_its_intent():
    assert judge(Kind.HOLDFAST, 200, answer()) == "int_1"


@pytest.mark.parametrize(
    ("status", "body", "label"),
    [
        (200, answer(token=None), "200 without `token`"),
        (200, answer(token="abc"), "200 without a token"),
        (200, answer(status="denied"), "200 without a grant"),
        (200, answer(decision="deny"), "200 without a grant"),
        (200, answer(intent_id=""), "200 without `intent_id`"),
        (200, b"", "200 without JSON"),
        (200, b"[]", "200 without an object"),
        (503, b'{"reason_code": "EVALUATION_UNAVAILABLE"}', "503 EVALUATION_UNAVAILABLE"),
        (502, b"<html>", "502"),
        (500, b"[]", "500"),
    ],
)
def test_anything_else_is_an_error_with_a_label(status, body, label):
    with pytest.raises(WrongAnswer) as refused:
        judge(Kind.HOLDFAST, status, body)

    assert str(refused.value) == label


def test_the_floor_answers_with_the_row_it_stored():
    assert judge(Kind.FLOOR, 200, b'{"row": "row_1"}') == "row_1"
    with pytest.raises(WrongAnswer):
        judge(Kind.FLOOR, 200, answer())


def test_the_same_answer_twice_is_an_error_across_workers():
    """A server that answers every request with one old token is not fast."""
    tally = Tally(
        latencies_ns=[1], lags_ns=[1], errors={}, ids=["int_1"], in_window=1, verified=0, priority="ordinary", cpu_s=0.1
    )

    assert merged([tally, tally]).errors == {"the same answer twice": 1}


def test_a_round_whose_generator_was_late_is_not_valid():
    assert measured(lag=MS).saturated is False
    assert measured(lag=MS + 1).saturated is True
    assert measured(lag=MS + 1).within(5 * MS) is False


def test_a_round_in_which_requests_were_not_sent_is_not_valid():
    assert measured(errors={"not sent": 1}).saturated is True


def test_a_round_with_one_error_does_not_hold_its_rate():
    assert measured().within(5 * MS) is True
    assert measured(errors={"503": 1}).within(5 * MS) is False
    assert measured(latency=5 * MS).within(5 * MS) is False


def test_a_round_without_enough_values_for_a_p99_holds_nothing():
    assert measured(count=99).within(5 * MS) is False
    assert measured(count=0).within(5 * MS) is False


def test_the_highest_rate_is_one_that_held_and_of_that_target():
    rounds = [measured(rate=200), measured(rate=500), measured(rate=1000, latency=9 * MS)]

    assert highest(rounds, Kind.HOLDFAST, 5 * MS) == 500
    assert highest(rounds, Kind.FLOOR, 5 * MS) is None


def test_a_ratio_is_between_rounds_of_one_rate():
    rounds = [
        measured(Kind.FLOOR, rate=200, latency=MS),
        measured(Kind.FLOOR, rate=500, latency=4 * MS),
        measured(Kind.HOLDFAST, rate=200, latency=3 * MS),
    ]

    assert ratios(rounds) == [{"target": "holdfast", "rate_per_s": 200.0, "p50": 3.0, "p99": 3.0}]


@pytest.mark.parametrize("broken", [{"lag": 2 * MS}, {"errors": {"503": 3}}])
@pytest.mark.parametrize("side", [Kind.FLOOR, Kind.HOLDFAST])
def test_a_ratio_with_an_invalid_side_is_not_given(side, broken):
    rounds = [measured(kind, **(broken if kind is side else {})) for kind in (Kind.FLOOR, Kind.HOLDFAST)]

    assert [(line["p50"], line["p99"]) for line in ratios(rounds)] == [(None, None)]


def test_requests_differ_and_only_the_keyed_target_sends_a_key():
    plain = Target(kind=Kind.HOLDFAST, base_url="http://127.0.0.1:8420", agents=("hfa_a", "hfa_b"), jwks=())
    keyed = Target(kind=Kind.HOLDFAST_KEYED, base_url="http://127.0.0.1:8420", agents=("hfa_a",), jwks=())

    assert intent(1) != intent(2)
    assert b"Idempotency-Key" not in request(plain, 1, run="r")
    assert b"Bearer hfa_b\r\n" in request(plain, 1, run="r")
    assert b"Idempotency-Key: r-1\r\n" in request(keyed, 1, run="r")
    head, _, body = request(keyed, 1, run="r").partition(b"\r\n\r\n")
    assert json.loads(body) == intent(1)
    assert f"Content-Length: {len(body)}\r\n".encode() in head + b"\r\n"


def test_a_target_without_a_port_is_refused():
    with pytest.raises(ValueError, match="host and a port"):
        _ = Target(kind=Kind.FLOOR, base_url="http://localhost", agents=("hfa_a",), jwks=()).address
