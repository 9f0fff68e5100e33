"""Requests are due at times that no answer changes."""

import itertools

import pytest

from benchmarks.schedule import SECOND_NS, Arrivals, schedule, share


def test_constant_arrivals_are_evenly_spaced_and_start_at_once():
    times = schedule(Arrivals.CONSTANT, rate_per_s=200, seconds=2, seed=1)

    assert len(times) == 400
    assert times[0] == 0
    assert {later - earlier for earlier, later in itertools.pairwise(times)} == {SECOND_NS // 200}


def test_constant_arrivals_do_not_drift_when_the_gap_is_no_whole_number():
    times = schedule(Arrivals.CONSTANT, rate_per_s=3, seconds=1000, seed=1)

    assert times[2999] == int(2999 * SECOND_NS / 3)


def test_poisson_arrivals_come_in_order_within_the_time_and_at_about_the_rate():
    times = schedule(Arrivals.POISSON, rate_per_s=1000, seconds=10, seed=3)

    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < 10 * SECOND_NS
    # Six standard deviations of a Poisson count of 10,000.
    assert abs(len(times) - 10_000) < 600


def test_poisson_gaps_vary_as_much_as_they_last():
    """An exponential distribution's mean and standard deviation are the same."""
    times = schedule(Arrivals.POISSON, rate_per_s=1000, seconds=10, seed=3)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5

    assert 0.9 < deviation / mean < 1.1


def test_the_same_seed_gives_the_same_schedule_and_another_one_another():
    first = schedule(Arrivals.POISSON, rate_per_s=100, seconds=5, seed=3)

    assert schedule(Arrivals.POISSON, rate_per_s=100, seconds=5, seed=3) == first
    assert schedule(Arrivals.POISSON, rate_per_s=100, seconds=5, seed=4) != first


def test_workers_together_send_everything_once():
    times = schedule(Arrivals.CONSTANT, rate_per_s=100, seconds=1, seed=1)

    shares = [share(times, worker=worker, workers=3) for worker in range(3)]

    assert sorted(time for one in shares for time in one) == times
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (-5, 1), (5, 0), (float("nan"), 1)])
def test_a_schedule_of_nothing_is_refused(rate, seconds):
    with pytest.raises(ValueError, match="above zero"):
        schedule(Arrivals.CONSTANT, rate_per_s=rate, seconds=seconds, seed=1)


@pytest.mark.parametrize(("worker", "workers"), [(2, 2), (-1, 2), (0, 0)])
def test_a_worker_that_is_not_there_has_no_share(worker, workers):
    with pytest.raises(ValueError, match="numbered"):
        share([1, 2, 3], worker=worker, workers=workers)
