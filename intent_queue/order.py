"""Who is next: lane, rank, id; three slots of ten go to the agents of the lane in turn, and one to the oldest of all.

Ageing costs nothing: `rank_at` is the time of queueing less a boost, so a hint is worth a fixed head start and an
older intent overtakes it in the end. The lane comes from policy, never from the agent. Turns keep an agent that
queued thousands from holding up the others of its lane: each that waits is served at least every
`SLOTS / TURNS x agents` slots. Source: design 7.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from holdfast.intent import Priority

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

MAX_BOOST_S: Final = 300.0
SLOTS: Final = 10
OLDEST_SLOT: Final = 9
TURN_SLOTS: Final = frozenset({1, 4, 7})
MAX_RETRY_AFTER_S: Final = 300

_BOOST_S: Final[Mapping[Priority, float]] = MappingProxyType(
    {Priority.LOW: 0.0, Priority.NORMAL: 0.0, Priority.HIGH: 30.0, Priority.CRITICAL: 60.0}
)


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
    TURN = "turn"
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
    place = number % SLOTS
    if place == OLDEST_SLOT:
        return Slot.OLDEST
    return Slot.TURN if place in TURN_SLOTS else Slot.FIRST_IN_LINE


@dataclass(frozen=True, slots=True)
class Candidate:
    """A due intent, as far as its turn depends on it."""

    intent_id: str
    lane: Lane
    agent: str


class Turns:
    """The agents of each lane in the order of their turns, and what each has in line. `served` had the last turn."""

    def __init__(self, served: Mapping[Lane, str] | None = None) -> None:
        self.served: dict[Lane, str] = {} if served is None else dict(served)
        self._waiting: dict[Lane, dict[str, list[Candidate]]] = {}

    def add(self, candidates: Iterable[Candidate]) -> None:
        """Add intents, an agent's own in the order of its line. It may be cut off: the agent then lets turns pass."""
        for one in candidates:
            self._waiting.setdefault(one.lane, {}).setdefault(one.agent, []).append(one)

    def take(self, lane: Lane, taken: Collection[Candidate]) -> Candidate | None:
        """Return the first untaken intent of the agent whose turn it is in `lane`, and end its turn."""
        waiting = self._waiting.get(lane, {})
        agents, last = sorted(waiting), self.served.get(lane, "")
        start = bisect_right(agents, last)
        for agent in (*agents[start:], *agents[:start]):
            own = waiting[agent]
            while own and own[0] in taken:
                own.pop(0)
            if own:
                self.served[lane] = agent
                return own[0]
        return None


def pick(
    first_slot: int, limit: int, in_line: Sequence[Candidate], by_age: Sequence[Candidate], turns: Turns
) -> list[Candidate]:
    """Return the next `limit` of these orders of the same intents, slot by slot, each at most once.

    Line and age may be cut off after `limit`: picking n at once equals picking one, n times. A turn belongs to the lane
    of the first in line, so that it puts no lane before a better one. Whoever has no candidate leaves its slot to the
    line.
    """
    taken: dict[Candidate, None] = {}
    line, age = deque(in_line), deque(by_age)
    for number in range(first_slot, first_slot + limit):
        _drop(line, taken)
        _drop(age, taken)
        candidate = age[0] if age and slot(number) is Slot.OLDEST else None
        if line and slot(number) is Slot.TURN:
            candidate = turns.take(line[0].lane, taken)
        if candidate is None and line:
            candidate = line[0]
        if candidate is None:
            break
        taken[candidate] = None
    return list(taken)


def _drop(line: deque[Candidate], taken: Collection[Candidate]) -> None:
    while line and line[0] in taken:
        line.popleft()


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
