"""When requests are sent: fixed before the first one leaves, so that a slow answer delays no later request.

Times are whole nanoseconds after the start.
"""

from __future__ import annotations

import random
from enum import StrEnum
from typing import TYPE_CHECKING, Final, assert_never

if TYPE_CHECKING:
    from collections.abc import Sequence

SECOND_NS: Final = 1_000_000_000


class Arrivals(StrEnum):
    """How requests arrive."""

    CONSTANT = "constant"
    POISSON = "poisson"


def schedule(arrivals: Arrivals, *, rate_per_s: float, seconds: float, seed: int) -> list[int]:
    """Return the intended send times, in order. `seed` matters to Poisson arrivals alone.

    Raises: ValueError for a rate or a duration that is not positive.
    """
    if not rate_per_s > 0 or not seconds > 0:
        raise ValueError("a schedule has a rate and a duration above zero")
    match arrivals:
        case Arrivals.CONSTANT:
            return [int(n * SECOND_NS / rate_per_s) for n in range(int(rate_per_s * seconds))]
        case Arrivals.POISSON:
            return _poisson(rate_per_s, int(seconds * SECOND_NS), random.Random(seed))  # noqa: S311 - no secret
        case _:
            assert_never(arrivals)


def _poisson(rate_per_s: float, end_ns: int, source: random.Random) -> list[int]:
    """Return arrivals with independent, exponentially distributed gaps."""
    times: list[int] = []
    at = source.expovariate(rate_per_s) * SECOND_NS
    while at < end_ns:
        times.append(int(at))
        at += source.expovariate(rate_per_s) * SECOND_NS
    return times


def share(times: Sequence[int], *, worker: int, workers: int) -> list[int]:
    """Return what one of several workers sends: every `workers`-th request, so that all are busy at any time."""
    if not 0 <= worker < workers:
        raise ValueError("workers are numbered from 0")
    return list(times[worker::workers])
