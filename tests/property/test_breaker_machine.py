"""The breaker's invariants under any sequence of calls, reports, signals and time."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from services.breaker import Breaker, BreakerSettings, State

SETTINGS = BreakerSettings()


class BreakerMachine(RuleBasedStateMachine):
    """Keeps its own count of what may happen, and compares."""

    live = Bundle("live")
    probes = Bundle("probes")

    @initialize()
    def start(self) -> None:
        self.breaker = Breaker(SETTINGS)
        self.now = 0.0
        self.generation = 0
        self.probes_out = 0
        self.probes_started = 0
        self.correct_in_a_row = 0
        self.last_state = State.CLOSED
        self.closed_by = 0

    def _sync(self) -> None:
        """Take note of transitions: a new generation forgets what was out."""
        for transition in self.breaker.take_transitions():
            assert transition.generation == self.generation + 1
            if transition.after is State.CLOSED:
                # INVARIANT: only three correct canaries close.
                assert transition.before is State.HALF_OPEN
                assert self.correct_in_a_row == SETTINGS.probes
            if transition.before is State.FORCED_OPEN:
                assert transition.after is State.HALF_OPEN
            self.generation = transition.generation
            self.probes_out = 0
            self.probes_started = 0
            self.correct_in_a_row = 0

    @rule(seconds=st.floats(min_value=0, max_value=40))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.floats(min_value=0.1, max_value=10))
    def the_clock_jumps_back_and_is_not_believed(self, seconds: float) -> None:
        self.breaker.admit(self.now)
        self._sync()
        before = self.breaker.state
        self.breaker.admit(self.now - seconds)
        self._sync()
        assert self.breaker.state is before

    @rule(target=live)
    def a_caller_comes(self):
        permit = self.breaker.admit(self.now)
        self._sync()
        assert (permit is not None) == (self.breaker.state is State.CLOSED)
        return multiple() if permit is None else permit

    @rule(target=probes)
    def a_canary_wants_to_go(self):
        permit = self.breaker.admit_probe(self.now)
        self._sync()
        if permit is None:
            return multiple()
        assert self.breaker.state is State.HALF_OPEN
        self.probes_out += 1
        self.probes_started += 1
        assert self.probes_out == 1, "one canary at a time"
        assert self.probes_started <= SETTINGS.probes, "three in all"
        return permit

    @rule(permit=consumes(live), ok=st.booleans())
    def a_call_reports(self, permit, *, ok: bool) -> None:
        (self.breaker.succeed if ok else self.breaker.fail)(permit, self.now)
        stale = permit.generation != self.generation
        state = self.breaker.state
        if stale:
            assert state is not State.CLOSED or self.last_state is State.CLOSED
        self._sync()

    @rule(permit=consumes(probes), ok=st.booleans())
    def a_canary_reports(self, permit, *, ok: bool) -> None:
        current = permit.generation == self.generation and self.breaker.state is State.HALF_OPEN
        report = self.breaker.succeed if ok else self.breaker.fail
        if current:
            # The lease may have run out by now: then the report comes too late, and counts for nothing.
            self.breaker.admit(self.now)
            self._sync()
            current = permit.generation == self.generation
        if current:
            self.probes_out -= 1
            self.correct_in_a_row = self.correct_in_a_row + 1 if ok else 0
        report(permit, self.now)
        self._sync()

    @rule()
    def the_dependency_says_it_is_back(self) -> None:
        self.breaker.dependency_is_back(self.now)
        self._sync()
        assert self.breaker.state is not State.OPEN

    @rule()
    def the_dependency_says_it_is_gone(self) -> None:
        self.breaker.dependency_is_gone(self.now)
        self._sync()
        assert self.breaker.state in {State.OPEN, State.FORCED_OPEN}

    @rule()
    def an_operator_forces_it_open(self) -> None:
        self.breaker.force_open(self.now, "an exercise")
        self._sync()
        assert self.breaker.state is State.FORCED_OPEN

    @rule()
    def an_operator_resets_it(self) -> None:
        before = self.breaker.state
        self.breaker.reset(self.now, "the exercise is over")
        self._sync()
        assert self.breaker.state is not State.CLOSED or before is State.CLOSED

    @invariant()
    def states_are_remembered(self) -> None:
        if hasattr(self, "breaker"):
            self.last_state = self.breaker.state


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
