"""The figures are exact, or absent."""

import random

import pytest

from benchmarks.percentiles import Distribution, percentile, ratio


def test_the_median_of_an_even_number_of_values_is_the_lower_of_the_middle_two():
    assert percentile([1, 2, 3, 4], per_mille=500) == 2


def test_a_percentile_is_a_value_that_was_measured_and_never_between_two():
    assert percentile([10] * 50 + [1000] * 50, per_mille=500) == 10
    assert percentile([10] * 49 + [1000] * 51, per_mille=500) == 1000


def test_p99_of_a_hundred_values_leaves_exactly_one_above():
    assert percentile(list(range(1, 101)), per_mille=990) == 99


def test_a_percentile_is_absent_when_not_one_value_is_expected_above_it():
    assert percentile(list(range(99)), per_mille=990) is None
    assert percentile(list(range(999)), per_mille=999) is None
    assert percentile(list(range(1000)), per_mille=999) == 998


def test_nothing_measured_gives_no_figures():
    nothing = Distribution.of([])

    assert nothing.count == 0
    assert nothing.to_json() == {
        "count": 0,
        "p50_ms": None,
        "p90_ms": None,
        "p99_ms": None,
        "p999_ms": None,
        "max_ms": None,
    }


@pytest.mark.parametrize("per_mille", [0, 1000, -1, 1500])
def test_what_is_no_percentile_is_refused(per_mille):
    with pytest.raises(ValueError, match="between 0 and 1000"):
        percentile([1, 2, 3], per_mille=per_mille)


def test_a_percentile_is_the_smallest_value_that_enough_values_do_not_exceed():
    """The definition itself, on values with many ties."""
    source = random.Random(7)
    values = sorted(source.randrange(50) for _ in range(2000))

    for per_mille in (1, 250, 500, 900, 990, 999):
        found = percentile(values, per_mille=per_mille)
        assert found is not None
        assert sum(value <= found for value in values) * 1000 >= per_mille * len(values)
        assert sum(value < found for value in values) * 1000 < per_mille * len(values)


def test_the_order_of_the_values_does_not_matter_and_one_slow_answer_is_the_maximum():
    values = [2_000_000] * 999 + [118_000_000]
    random.Random(7).shuffle(values)

    figures = Distribution.of(values).to_json()

    assert figures["p50_ms"] == figures["p999_ms"] == 2.0
    assert figures["max_ms"] == 118.0


def test_a_ratio_needs_both_sides():
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(None, 2.0) is None
    assert ratio(3.0, None) is None
    assert ratio(3.0, 0.0) is None
