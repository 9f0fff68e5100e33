"""How many wait, answered from memory: whether one more may, and about where it would stand.

Counts are a snapshot of the table plus what this process let in since: exact enough for a bound, and no query in the
path of a decision. Until the table was counted once, the queue counts as full.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from intent_queue.order import Lane

if TYPE_CHECKING:
    from collections.abc import Mapping

    from intent_queue.states import State

_REMEMBERED: Final = 20_000
_COUNTS_TO_COME: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneDepth:
    """One lane's line, leased intents included. `oldest_age_s` is 0 when it is empty."""

    count: int
    oldest_age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """What the queue held when it was counted."""

    by_agent: Mapping[str, int]
    by_lane: Mapping[Lane, LaneDepth]
    by_state: Mapping[State, int]

    @property
    def total(self) -> int:
        """All rows, whatever their state."""
        return sum(self.by_state.values())


class Bounds:
    """The last snapshot and who was let in since. `refreshing` before a count, `refreshed` with its result."""

    def __init__(self) -> None:
        self._depth: Depth | None = None
        self._before: Counter[tuple[str, Lane]] = Counter()  # let in before the count that is under way
        self._since: Counter[tuple[str, Lane]] = Counter()
        # Let in, not yet known to be stored: a count may miss them. Who is not stored after so many counts never is.
        self._coming: deque[Counter[tuple[str, Lane]]] = deque([Counter()], maxlen=_COUNTS_TO_COME)
        self._actions: OrderedDict[tuple[str, str], str] = OrderedDict()

    @property
    def depth(self) -> Depth | None:
        """The last snapshot, for metrics and operators."""
        return self._depth

    def full(self, agent: str, *, max_per_agent: int, max_total: int) -> bool:
        """Return whether one more of `agent` may not wait; every row counts, whatever its state."""
        if self._depth is None:
            return True
        mine = self._depth.by_agent.get(agent, 0)
        everyone = self._depth.total
        for counted in (self._before, self._since, *self._coming):
            mine += sum(number for (who, _), number in counted.items() if who == agent)
            everyone += counted.total()
        return mine >= max_per_agent or everyone >= max_total

    def parked(self, agent: str, lane: int) -> int:
        """Count one that was let in, and return its approximate place in line, from 1."""
        own = Lane(lane)
        self._coming[-1][agent, own] += 1
        counters = (self._before, self._since, *self._coming)
        place = sum(number for counted in counters for (_, at), number in counted.items() if at <= own)
        if self._depth is not None:
            place += sum(depth.count for at, depth in self._depth.by_lane.items() if at <= own)
        return place

    def waits(self, agent: str, lane: int, intent_id: str, *, in_journal: str | None = None) -> None:
        """Take note that one who was let in is stored.

        Where it is in a journal only, no query finds it: then `in_journal` is its action, for which it is remembered
        until the journal is empty or the table can be counted again. It cannot end before.
        """
        who = agent, Lane(lane)
        coming = next((counted for counted in self._coming if counted[who] > 0), None)
        if coming is not None:
            coming[who] -= 1
            self._since[who] += 1
        if in_journal is not None:
            self._actions[agent, in_journal] = intent_id
            if len(self._actions) > _REMEMBERED:
                self._actions.popitem(last=False)

    def same(self, agent: str, act_hash: str, *, instead_of: str | None = None) -> str | None:
        """Return who was remembered for an action, unless it is the one named. It may have ended since."""
        found = self._actions.get((agent, act_hash))
        return None if found == instead_of else found

    def forget(self, agent: str, act_hash: str) -> None:
        """Forget who waits for an action: it has ended."""
        self._actions.pop((agent, act_hash), None)

    def journal_is_empty(self) -> None:
        """Forget who waited in a journal: queries find them now, and tell whether they still wait."""
        self._actions.clear()

    def refreshing(self) -> None:
        """Announce a count of the table, which will find whoever was let in until now."""
        self._before += self._since
        self._since = Counter()
        self._coming.append(Counter())

    def refreshed(self, depth: Depth) -> None:
        """Take over the result of the count that was announced last."""
        self._depth = depth
        self._before = Counter()
        self._actions.clear()
