"""One incident per outage of a boundary, however often its breaker changes its mind. Time is an argument, in seconds.

    quiet    the breaker is closed
    chain    begins with the first moment it is not; ends when it has been closed for `stable_s` without a break
             opened    once the chain has been not closed for `open_after_s` in all: a blip is no incident, flapping is
             updated   each time the intents refused in it reach the next power of ten
             resolved  at the chain's end, if it was opened

INVARIANT: of one chain there is one OPENED, then any number of UPDATED, then one RESOLVED; or nothing at all.
Source: design 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.breaker import State

_GROWTH: Final = 10


class Phase(StrEnum):
    """What is to be told of an incident."""

    OPENED = "opened"
    UPDATED = "updated"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentSettings:
    """How long an outage lasts before it is told, and how long it is over before that is told. In seconds."""

    open_after_s: float = 3.0
    stable_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what tells of every blip or of nothing."""
        if min(self.open_after_s, self.stable_s) <= 0:
            raise ValueError("an incident's durations are positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A boundary as seen at one moment. `refused` counts the intents it ever refused."""

    state: State
    generation: int
    refused: int
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One thing to tell. `generation` is the chain's first; `affected` counts intents, `not_closed_s` seconds."""

    phase: Phase
    generation: int
    state: State
    affected: int
    not_closed_s: float


@dataclass(slots=True)
class _Chain:
    generation: int
    refused_before: int
    not_closed_s: float = 0.0
    closed_since: float | None = None
    opened: bool = False
    next_count: int = 1


class IncidentTracker:
    """The incidents of one boundary. Shown it at every transition, and often enough in between."""

    def __init__(self, settings: IncidentSettings) -> None:
        self._settings = settings
        self._chain: _Chain | None = None
        self._now = float("-inf")
        self._refused = 0

    @property
    def is_open(self) -> bool:
        """Whether an incident was told and not resolved yet."""
        return self._chain is not None and self._chain.opened

    def take_over(self, seen: Sighting) -> None:
        """Go on with an incident that an earlier process opened and did not see the end of."""
        if self._chain is None:
            self._chain = _Chain(generation=seen.generation, refused_before=seen.refused, closed_since=seen.now)
            self._now = max(self._now, seen.now)
        self._chain.opened = True

    def see(self, seen: Sighting) -> Incident | None:
        """Take one look and return what is to be told now."""
        elapsed_s, self._now = max(0.0, seen.now - self._now), max(seen.now, self._now)
        refused_before, self._refused = self._refused, max(seen.refused, self._refused)
        chain, closed = self._chain, seen.state is State.CLOSED
        if chain is None:
            if closed:
                return None
            # What tripped the breaker was refused since the last look.
            chain = self._chain = _Chain(generation=seen.generation, refused_before=refused_before)
        elif chain.closed_since is None:
            chain.not_closed_s += elapsed_s
        if not closed:
            chain.closed_since = None
        elif chain.closed_since is None:
            chain.closed_since = self._now
        return self._told(chain, seen.state)

    def _told(self, chain: _Chain, state: State) -> Incident | None:
        affected = self._refused - chain.refused_before
        if chain.closed_since is not None and self._now - chain.closed_since >= self._settings.stable_s:
            self._chain = None
            return self._incident(Phase.RESOLVED, chain, state, affected) if chain.opened else None
        if not chain.opened:
            if chain.not_closed_s < self._settings.open_after_s:
                return None
            chain.opened, phase = True, Phase.OPENED
        elif affected >= chain.next_count:
            phase = Phase.UPDATED
        else:
            return None
        while chain.next_count <= affected:
            chain.next_count *= _GROWTH
        return self._incident(phase, chain, state, affected)

    def _incident(self, phase: Phase, chain: _Chain, state: State, affected: int) -> Incident:
        return Incident(
            phase=phase,
            generation=chain.generation,
            state=state,
            affected=affected,
            not_closed_s=chain.not_closed_s,
        )
