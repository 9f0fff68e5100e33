"""What is told of a drain."""

from __future__ import annotations

from benchmarks.drain import Stretch, Turn, best_per_s, idle_before_s, medians
from benchmarks.openloop import Load, Measured
from benchmarks.percentiles import Distribution
from benchmarks.traffic import Kind


def test_the_best_five_seconds_are_the_best_and_whole():
    seen = [(float(second), drained) for second, drained in enumerate([0, 0, 10, 110, 210, 310, 410, 510, 520])]
    assert best_per_s(seen) == 100
    assert best_per_s(seen[:4]) is None


def test_time_runs_from_the_first_drained_intent():
    assert idle_before_s([(0.0, 7), (0.1, 7), (0.2, 7), (0.3, 9), (0.4, 12)]) == 0.2
    assert idle_before_s([(0.0, 0), (0.1, 5)]) == 0.0


def measured(milliseconds):
    return Measured(
        kind=Kind.HOLDFAST,
        load=Load(rate_per_s=100, seconds=5),
        latency=Distribution.of([1_000_000 * milliseconds] * 500),
        lag=Distribution.of([1000] * 500),
        achieved_per_s=100,
        errors={},
        verified=1,
        priority="ordinary",
        generator_cpu_s=0.1,
    )


def turn(at_rest_ms, in_the_drain_ms, intents):
    drain = Stretch(intents=intents, seconds=10, best_per_s=None, cpu_s={"worker": 1.0}, around={})
    return Turn(at_rest=measured(at_rest_ms), in_the_drain=measured(in_the_drain_ms), drain=drain)


def test_a_ratio_is_of_neighbours_and_the_median_is_of_the_turns():
    told = medians([turn(2, 3, 1000), turn(10, 40, 2000), turn(4, 5, 9000)])
    assert told["ratio"] == {"p50": 1.5, "p99": 1.5, "p999": None}
    assert told["at_rest_ms"] == {"p50": 4, "p99": 4, "p999": None}
    assert told["in_the_drain_ms"] == {"p50": 5, "p99": 5, "p999": None}
    assert told["drained_per_s"] == 200


def test_processor_time_is_told_for_each_intent():
    assert turn(1, 1, 4000).drain.to_json()["cpu_us_per_intent"] == {"worker": 250.0}
