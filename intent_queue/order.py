"""Who is next: lane, then rank, then id; and every tenth slot to the oldest of all lanes.

Ageing costs nothing: `rank_at` is the time of queueing less a boost, so a hint is worth a fixed head start and an
older intent overtakes it in the end. The lane comes from policy, never from the agent. Source: design 7.
"""

from __future__ import annotations

import math
from datetime import timedelta
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

from holdfast.intent import Priority

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from datetime import datetime

MAX_BOOST_S: Final = 300.0
FAIR_SHARE: Final = 10  # one slot in so many goes to the oldest
MAX_RETRY_AFTER_S: Final = 300

_BOOST_S: Final[Mapping[Priority, float]] = MappingProxyType(
    {Priority.LOW: 0.0, Priority.NORMAL: 0.0, Priority.HIGH: 30.0, Priority.CRITICAL: 60.0}
)

T = TypeVar("T", bound="Hashable")


class Lane(IntEnum):
    """Which line an intent waits in. A lower one goes first."""

    SAFETY = 0  # break-glass and safety
    CRITICAL = 1
    NORMAL = 2
    BULK = 3

    @property
    def label(self) -> str:
        """The lane as the wire names it."""
        return self.name.lower()


class Slot(StrEnum):
    """Who a slot of the drain belongs to."""

    FIRST_IN_LINE = "first_in_line"
    OLDEST = "oldest"


def boost_s(hint: Priority, cap_s: float) -> float:
    """Return the head start an agent's hint earns, at most `cap_s` of policy and `MAX_BOOST_S`.

    Raises: ValueError for a cap that is negative or not a number.
    """
    if not cap_s >= 0:
        raise ValueError("a cap on the boost is at least 0 seconds")
    return min(_BOOST_S[hint], cap_s, MAX_BOOST_S)


def rank_at(enqueued_at: datetime, boost: float) -> datetime:
    """Return the time that orders an intent inside its lane. `boost` is in seconds, 0 to `MAX_BOOST_S`.

    Raises: ValueError for a boost out of range or a naive time.
    """
    if not 0 <= boost <= MAX_BOOST_S:
        raise ValueError(f"a boost is 0 to {MAX_BOOST_S:g} seconds")
    if enqueued_at.utcoffset() is None:
        raise ValueError("the time of queueing is aware")
    return enqueued_at - timedelta(seconds=boost)


def slot(number: int) -> Slot:
    """Return who slot `number` (from 0) belongs to: every tenth to the oldest of all lanes, so that none starves."""
    return Slot.OLDEST if number % FAIR_SHARE == FAIR_SHARE - 1 else Slot.FIRST_IN_LINE


def pick(first_slot: int, limit: int, in_line: Sequence[T], by_age: Sequence[T]) -> list[T]:
    """Return the next `limit` of two orders of the same intents, slot by slot, each at most once.

    Both orders may be cut off after `limit`: picking n at once equals picking one, n times.
    """
    taken: dict[T, None] = {}
    lines = {Slot.FIRST_IN_LINE: iter(in_line), Slot.OLDEST: iter(by_age)}
    for number in range(first_slot, first_slot + limit):
        candidate = next((one for one in lines[slot(number)] if one not in taken), None)
        if candidate is None:
            break
        taken[candidate] = None
    return list(taken)


def retry_after_s(wait_s: float, fraction: float) -> int:
    """Return the `Retry-After` for an expected wait, spread over half as much again.

    `fraction` is the caller's fresh random number from 0 up to 1: agents that were refused together must not come
    back together. The result is 1 to `MAX_RETRY_AFTER_S`.
    """
    if not 0 <= fraction < 1:
        raise ValueError("the fraction is from 0 up to 1")
    if not wait_s >= 0:
        raise ValueError("a wait is at least 0 seconds")
    return max(1, min(MAX_RETRY_AFTER_S, math.ceil(min(wait_s, MAX_RETRY_AFTER_S) * (1 + fraction / 2))))
