"""Exact percentiles over every single value. Nothing is bucketed, sampled or interpolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WHOLE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Nanoseconds. None where there are too few values for the percentile to say anything."""

    count: int
    p50: int | None
    p90: int | None
    p99: int | None
    p999: int | None
    max: int | None

    @classmethod
    def of(cls, values: Iterable[int]) -> Distribution:
        """Return the distribution of the values, in any order."""
        ordered = sorted(values)
        return cls(
            count=len(ordered),
            p50=percentile(ordered, per_mille=500),
            p90=percentile(ordered, per_mille=900),
            p99=percentile(ordered, per_mille=990),
            p999=percentile(ordered, per_mille=999),
            max=ordered[-1] if ordered else None,
        )

    def to_json(self) -> dict[str, float | int | None]:
        """Return it in milliseconds, to the microsecond."""
        return {
            "count": self.count,
            "p50_ms": in_ms(self.p50),
            "p90_ms": in_ms(self.p90),
            "p99_ms": in_ms(self.p99),
            "p999_ms": in_ms(self.p999),
            "max_ms": in_ms(self.max),
        }


def percentile(ordered: Sequence[int], *, per_mille: int) -> int | None:
    """Return the smallest value that at least `per_mille` of a thousand values do not exceed (nearest rank).

    None if not a single value would be expected above it: a p99 of 20 values is their maximum by another name.
    """
    if not 0 < per_mille < _WHOLE:
        raise ValueError("a percentile lies between 0 and 1000 per mille")
    if len(ordered) * (_WHOLE - per_mille) < _WHOLE:
        return None
    rank = -(-len(ordered) * per_mille // _WHOLE)
    return ordered[rank - 1]


def in_ms(value_ns: float | None) -> float | None:
    """Return nanoseconds as milliseconds, to the microsecond."""
    return None if value_ns is None else round(value_ns / 1e6, 3)


def ratio(value: float | None, floor: float | None) -> float | None:
    """Return how many times the floor a value is, to two places; None where one is missing."""
    return None if value is None or not floor else round(value / floor, 2)
