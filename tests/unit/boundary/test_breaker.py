"""When a breaker trips and how it heals."""

from __future__ import annotations

import pytest

from services.breaker import Breaker, BreakerSettings, State


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(BreakerSettings())


def trip(breaker: Breaker, now: float = 0.0) -> None:
    for _ in range(3):
        breaker.fail(breaker.admit(now), now)
    assert breaker.state is State.OPEN


def test_three_failures_in_a_row_open_it(breaker):
    for _ in range(2):
        breaker.fail(breaker.admit(0), 0)
    assert breaker.state is State.CLOSED

    breaker.fail(breaker.admit(0), 0)

    assert breaker.state is State.OPEN
    assert breaker.admit(29.9) is None


def test_a_success_starts_the_row_anew_and_never_opens_it(breaker):
    for report in (breaker.fail, breaker.fail, breaker.succeed, breaker.fail, breaker.succeed):
        report(breaker.admit(0), 0)
    assert breaker.state is State.CLOSED  # 3 of 5 calls failed, and the last did not

    breaker.fail(breaker.admit(0), 0)
    assert breaker.state is State.OPEN  # not by a row of three, but as 4 of 6 calls failed


def test_half_of_five_calls_failed_opens_it_and_old_calls_do_not_count(breaker):
    breaker.fail(breaker.admit(0), 0)
    breaker.fail(breaker.admit(0), 0)
    for moment in (31, 31, 31):
        breaker.succeed(breaker.admit(moment), moment)
    breaker.fail(breaker.admit(31), 31)

    assert breaker.state is State.CLOSED  # 1 of 4: what is older than 30 s is forgotten


def test_it_probes_after_thirty_seconds_one_at_a_time_three_in_all(breaker):
    trip(breaker)
    assert breaker.admit_probe(29.9) is None

    first = breaker.admit_probe(30)
    assert first is not None
    assert [breaker.admit_probe(30) for _ in range(500)] == [None] * 500

    breaker.succeed(first, 30)
    breaker.succeed(breaker.admit_probe(30), 30)
    assert breaker.state is State.HALF_OPEN
    breaker.succeed(breaker.admit_probe(30), 30)
    assert breaker.state is State.CLOSED


def test_no_live_call_passes_while_it_is_half_open(breaker):
    trip(breaker)
    breaker.dependency_is_back(1)

    assert breaker.state is State.HALF_OPEN
    assert [breaker.admit(1) for _ in range(500)] == [None] * 500


def test_one_failed_canary_opens_it_again(breaker):
    trip(breaker)
    breaker.dependency_is_back(1)
    breaker.succeed(breaker.admit_probe(1), 1)

    breaker.fail(breaker.admit_probe(1), 1)

    assert breaker.state is State.OPEN
    assert breaker.admit_probe(30.9) is None  # and for thirty seconds anew


def test_a_canary_that_does_not_come_back_opens_it_again(breaker):
    trip(breaker)
    breaker.dependency_is_back(1)
    lost = breaker.admit_probe(1)

    assert breaker.admit_probe(6) is None
    assert breaker.state is State.OPEN
    breaker.succeed(lost, 6)  # too late: inert
    assert breaker.state is State.OPEN


def test_a_permit_from_before_the_trip_says_nothing_after_it(breaker):
    old = breaker.admit(0)
    trip(breaker)
    breaker.dependency_is_back(1)

    breaker.succeed(old, 1)
    breaker.fail(old, 1)

    assert breaker.state is State.HALF_OPEN


def test_forced_open_stays_until_a_reset_and_then_must_prove_itself(breaker):
    breaker.force_open(0, "an exercise")
    breaker.dependency_is_back(100)
    assert breaker.admit(100) is None
    assert breaker.admit_probe(100) is None

    breaker.reset(100, "over")

    assert breaker.state is State.HALF_OPEN


def test_settings_that_never_trip_are_refused():
    with pytest.raises(ValueError, match="counts at least one"):
        BreakerSettings(consecutive_failures=0)
    with pytest.raises(ValueError, match="positive"):
        BreakerSettings(window_failure_ratio=0)
