"""The circuit breaker, as a state machine without a clock. Time is an argument, in seconds that never move backwards.

    state        admits        leaves it
    CLOSED       every call    3 failures in a row, or 5 calls in 30 s with half of them failed -> OPEN
    OPEN         nothing       after 30 s, or at the dependency's own sign of health -> HALF_OPEN
    HALF_OPEN    one canary at a time, three in all; no live call
                               3 correct answers -> CLOSED; one failure, or an expired lease -> OPEN
    FORCED_OPEN  nothing       an operator's reset -> HALF_OPEN, never straight to CLOSED

INVARIANT: a report counts only in the generation of its permit; every transition begins a new generation.
INVARIANT: a canary's report counts once, and only while that very canary is out.
INVARIANT: CLOSED is entered only by three correct canaries in a row. Source: design 6.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"
    FORCED_OPEN = "forced_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """When a breaker trips and how it heals. Durations in seconds."""

    consecutive_failures: int = 3
    window_s: float = 30.0
    window_calls: int = 5
    window_failure_ratio: float = 0.5
    open_s: float = 30.0
    probes: int = 3
    probe_lease_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse settings under which a breaker never trips or heals unproven."""
        if min(self.consecutive_failures, self.window_calls, self.probes) < 1:
            raise ValueError("a breaker counts at least one")
        if not 0 < self.window_failure_ratio <= 1 or min(self.window_s, self.open_s, self.probe_lease_s) <= 0:
            raise ValueError("a breaker's durations and ratio are positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """Leave to make one call. Reports under an old generation are inert."""

    generation: int
    is_probe: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of state, for the log."""

    generation: int
    before: State
    after: State
    why: str


class Breaker:
    """One dependency's breaker."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._state = State.CLOSED
        self._generation = 0
        self._now = float("-inf")
        self._in_a_row = 0
        self._calls: deque[tuple[float, bool]] = deque()
        self._failed_calls = 0
        self._opened_at = 0.0
        self._changed_at = float("-inf")
        self._probes_correct = 0
        self._probe: Permit | None = None
        self._probe_lease_until = float("-inf")
        self._transitions: list[Transition] = []

    @property
    def state(self) -> State:
        """The state as of the last call."""
        return self._state

    @property
    def generation(self) -> int:
        """How many transitions there were."""
        return self._generation

    def closed_for_s(self, now: float) -> float:
        """Return for how long the breaker has been closed, 0 unless it is."""
        return max(0.0, now - self._changed_at) if self._state is State.CLOSED else 0.0

    def take_transitions(self) -> list[Transition]:
        """Return the transitions since the last take, oldest first."""
        taken, self._transitions = self._transitions, []
        return taken

    def admit(self, now: float) -> Permit | None:
        """Return leave for one live call, or None."""
        self._advance(now)
        if self._state is not State.CLOSED:
            return None
        return Permit(generation=self._generation, is_probe=False)

    def admit_probe(self, now: float) -> Permit | None:
        """Return leave for one canary, or None. The lease runs until the report or `probe_lease_s`."""
        self._advance(now)
        if self._state is State.OPEN and self._now - self._opened_at >= self._settings.open_s:
            self._enter(State.HALF_OPEN, "the open time is over")
        # Three in all, because one at a time and every one of them right: there is no fourth before the state changes.
        if self._state is not State.HALF_OPEN or self._probe is not None:
            return None
        self._probe = Permit(generation=self._generation, is_probe=True)
        self._probe_lease_until = self._now + self._settings.probe_lease_s
        return self._probe

    def succeed(self, permit: Permit, now: float) -> None:
        """Report a correct answer."""
        self._advance(now)
        if not self._counts(permit):
            return
        if permit.is_probe:
            self._probe = None
            self._probes_correct += 1
            if self._probes_correct >= self._settings.probes:
                self._enter(State.CLOSED, "the canaries answered correctly")
            return
        self._in_a_row = 0
        self._count(failed=False)

    def fail(self, permit: Permit, now: float) -> None:
        """Report a failure: an error, a late or a wrong answer."""
        self._advance(now)
        if not self._counts(permit):
            return
        if permit.is_probe:
            self._enter(State.OPEN, "a canary failed")
            return
        self._in_a_row += 1
        if self._in_a_row >= self._settings.consecutive_failures:
            self._enter(State.OPEN, f"{self._in_a_row} failures in a row")
        else:
            self._count(failed=True)

    def dependency_is_back(self, now: float) -> None:
        """Take the dependency's own sign of health: probing may begin before the open time is over."""
        self._advance(now)
        if self._state is State.OPEN:
            self._enter(State.HALF_OPEN, "the dependency's health signal returned")

    def dependency_is_gone(self, now: float) -> None:
        """Take the dependency's own sign that it is away: no call needs to fail first."""
        self._advance(now)
        if self._state in {State.CLOSED, State.HALF_OPEN}:
            self._enter(State.OPEN, "the dependency's health signal is lost")

    def force_open(self, now: float, why: str) -> None:
        """Refuse everything until `reset`."""
        self._advance(now)
        if self._state is not State.FORCED_OPEN:
            self._enter(State.FORCED_OPEN, why)

    def reset(self, now: float, why: str) -> None:
        """Begin probing. Never closes by itself."""
        self._advance(now)
        if self._state in {State.OPEN, State.FORCED_OPEN}:
            self._enter(State.HALF_OPEN, why)

    def _advance(self, now: float) -> None:
        now = max(now, self._now)
        self._now = now
        while self._calls and now - self._calls[0][0] > self._settings.window_s:
            self._failed_calls -= self._calls.popleft()[1]
        if self._probe is not None and now >= self._probe_lease_until:
            self._enter(State.OPEN, "a canary did not come back")

    def _counts(self, permit: Permit) -> bool:
        if permit.is_probe:
            return permit is self._probe
        return permit.generation == self._generation

    def _count(self, *, failed: bool) -> None:
        self._calls.append((self._now, failed))
        self._failed_calls += failed
        total = len(self._calls)
        # Only a failure opens it: after an outage the first correct answers would otherwise end in a refusal.
        if (
            failed
            and total >= self._settings.window_calls
            and self._failed_calls / total >= self._settings.window_failure_ratio
        ):
            self._enter(State.OPEN, f"{self._failed_calls} of {total} calls failed")

    def _enter(self, state: State, why: str) -> None:
        self._generation += 1
        self._transitions.append(Transition(generation=self._generation, before=self._state, after=state, why=why))
        self._state = state
        self._changed_at = self._now
        self._in_a_row = 0
        self._calls.clear()
        self._failed_calls = 0
        self._probes_correct = 0
        self._probe = None
        if state is State.OPEN:
            self._opened_at = self._now
