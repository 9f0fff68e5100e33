"""What design 6 says of a breaker, told a second time, and a machine that holds the breaker to it.

The model keeps everything that happened since the last transition and computes each answer anew from that. It shares
nothing with `services/breaker.py` but the words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

if TYPE_CHECKING:
    from types import ModuleType

#: What may follow what; anything else is a transition that nobody designed.
LEGAL = {
    ("closed", "open"),
    ("closed", "forced_open"),
    ("open", "half_open"),
    ("open", "forced_open"),
    ("half_open", "closed"),
    ("half_open", "open"),
    ("half_open", "forced_open"),
    ("forced_open", "half_open"),
}

FLOOD = 500


@dataclass
class Canary:
    """One canary that was let go."""

    until: float
    correct: bool | None = None


@dataclass
class Model:
    """One dependency's breaker, by the book."""

    settings: object
    state: str = "closed"
    generation: int = 0
    now: float = float("-inf")
    since: float = float("-inf")
    reports: list[tuple[float, bool]] = field(default_factory=list)
    canaries: list[Canary] = field(default_factory=list)

    def enter(self, state: str) -> None:
        self.state, self.since = state, self.now
        self.generation += 1
        self.reports, self.canaries = [], []

    def look_at_the_clock(self, now: float) -> None:
        self.now = max(self.now, now)
        if any(canary.correct is None and self.now >= canary.until for canary in self.canaries):
            self.enter("open")

    def admits_a_caller(self, now: float) -> bool:
        self.look_at_the_clock(now)
        return self.state == "closed"

    def admits_a_canary(self, now: float) -> Canary | None:
        self.look_at_the_clock(now)
        if self.state == "open" and self.now >= self.since + self.settings.open_s:
            self.enter("half_open")
        out = [canary for canary in self.canaries if canary.correct is None]
        if self.state != "half_open" or out or len(self.canaries) == self.settings.probes:
            return None
        self.canaries.append(Canary(self.now + self.settings.probe_lease_s))
        return self.canaries[-1]

    def caller_reports(self, generation: int, now: float, *, ok: bool) -> None:
        self.look_at_the_clock(now)
        if generation == self.generation:
            self.reports.append((self.now, ok))
            if not ok and self.has_seen_enough():
                self.enter("open")

    def canary_reports(self, canary: Canary, now: float, *, ok: bool) -> None:
        self.look_at_the_clock(now)
        if not any(canary is one for one in self.canaries) or canary.correct is not None:
            return
        canary.correct = ok
        if not ok:
            self.enter("open")
        elif [one.correct for one in self.canaries] == [True] * self.settings.probes:
            self.enter("closed")

    def has_seen_enough(self) -> bool:
        row = self.settings.consecutive_failures
        if len(self.reports) >= row and not any(ok for _, ok in self.reports[-row:]):
            return True
        recent = [ok for at, ok in self.reports if self.now - at <= self.settings.window_s]
        failed = len(recent) - sum(recent)
        return len(recent) >= self.settings.window_calls and failed >= self.settings.window_failure_ratio * len(recent)

    def dependency_is_back(self, now: float) -> None:
        self.look_at_the_clock(now)
        if self.state == "open":
            self.enter("half_open")

    def dependency_is_gone(self, now: float) -> None:
        self.look_at_the_clock(now)
        if self.state in ("closed", "half_open"):
            self.enter("open")

    def force_open(self, now: float) -> None:
        self.look_at_the_clock(now)
        if self.state != "forced_open":
            self.enter("forced_open")

    def reset(self, now: float) -> None:
        self.look_at_the_clock(now)
        if self.state in ("open", "forced_open"):
            self.enter("half_open")


class BreakerMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order, breaker and model agree. Times are half seconds, so that sums are exact."""

    module: ModuleType
    callers = Bundle("callers")
    canaries = Bundle("canaries")

    @initialize(
        row=st.integers(2, 4),
        calls=st.integers(2, 5),
        ratio=st.sampled_from([0.5, 0.75, 1.0]),
        window=st.sampled_from([1.0, 2.0]),
        probes=st.sampled_from([1, 2, 3]),
    )
    def start(self, row, calls, ratio, window, probes) -> None:
        self.settings = self.module.BreakerSettings(
            consecutive_failures=row,
            window_calls=calls,
            window_failure_ratio=ratio,
            window_s=window,
            open_s=2.0,
            probes=probes,
            probe_lease_s=1.0,
        )
        self.breaker = self.module.Breaker(self.settings)
        self.model = Model(self.settings)
        self.now = 1000.0
        self.seen = ("closed", 0)

    @rule(halves=st.integers(1, 5))
    def time_passes(self, halves) -> None:
        self.now += halves / 2

    @rule(halves=st.integers(1, 5))
    def the_clock_jumps_back(self, halves) -> None:
        self.now -= halves / 2

    def admit(self):
        permit, admitted = self.breaker.admit(self.now), self.model.admits_a_caller(self.now)
        assert (permit is not None) == admitted
        if permit is None:
            return None
        assert self.breaker.state == "closed", "nobody passes unless it is closed"
        assert not permit.is_probe
        return permit, self.model.generation

    @rule(target=callers, count=st.integers(1, 4))
    def callers_come(self, count):
        return multiple(*filter(None, [self.admit() for _ in range(count)]))

    @rule(outcomes=st.lists(st.booleans(), min_size=1, max_size=5), halves=st.sampled_from([0, 0, 1]))
    def callers_report_at_once(self, outcomes, halves) -> None:
        self.callers_come_and_report_at_once(outcomes, halves)

    def callers_come_and_report_at_once(self, outcomes, halves) -> None:
        for ok in outcomes:
            if (admitted := self.admit()) is not None:
                self.tell(*admitted, ok=ok)
            self.now += halves / 2

    @rule(admitted=consumes(callers), ok=st.booleans())
    def a_caller_reports(self, admitted, ok) -> None:
        self.tell(*admitted, ok=ok)

    @rule(admitted=callers, times=st.integers(1, 4), ok=st.booleans())
    def a_caller_reports_again_and_again(self, admitted, times, ok) -> None:
        for _ in range(times):
            self.tell(*admitted, ok=ok)

    def tell(self, permit, generation, *, ok) -> None:
        (self.breaker.succeed if ok else self.breaker.fail)(permit, self.now)
        self.model.caller_reports(generation, self.now, ok=ok)
        self.agree()

    @rule(target=canaries)
    def a_canary_wants_to_go(self):
        permit, canary = self.breaker.admit_probe(self.now), self.model.admits_a_canary(self.now)
        assert (permit is None) == (canary is None)
        return multiple() if permit is None else (permit, canary)

    @rule()
    def a_flood_comes(self) -> None:
        self.a_flood_wants_to_go()

    def a_flood_wants_to_go(self) -> None:
        """Let 500 ask at once. The one that goes never reports."""
        passed = [self.breaker.admit_probe(self.now) for _ in range(FLOOD)]
        expected = [self.model.admits_a_canary(self.now) for _ in range(FLOOD)]
        assert [one is None for one in passed] == [one is None for one in expected]

    @rule(sent=canaries, ok=st.booleans())
    def a_canary_reports_once_or_again(self, sent, ok) -> None:
        self.report(*sent, ok=ok)

    @rule(target=canaries, ok=st.sampled_from([True, True, True, False]))
    def a_canary_goes_and_reports_at_once(self, ok):
        permit, canary = self.breaker.admit_probe(self.now), self.model.admits_a_canary(self.now)
        assert (permit is None) == (canary is None)
        if permit is None:
            return multiple()
        self.report(permit, canary, ok=ok)
        return permit, canary

    @rule(halves=st.integers(1, 5))
    def a_canary_goes_and_time_passes(self, halves) -> None:
        self.a_flood_wants_to_go()
        self.now += halves / 2
        assert (self.breaker.admit(self.now) is not None) == self.model.admits_a_caller(self.now)

    @rule(halves=st.integers(3, 5))
    def it_opens_and_time_passes(self, halves) -> None:
        self.a_sign_of_health_is_lost()
        self.now += halves / 2
        self.a_flood_wants_to_go()

    @rule(outcomes=st.lists(st.booleans(), max_size=3))
    def it_heals_and_callers_come(self, outcomes) -> None:
        self.the_dependency_says_it_is_back()
        for _ in range(self.settings.probes):
            permit, canary = self.breaker.admit_probe(self.now), self.model.admits_a_canary(self.now)
            assert (permit is None) == (canary is None)
            if permit is not None:
                self.report(permit, canary, ok=True)
        self.callers_come_and_report_at_once(outcomes, 0)

    def report(self, permit, canary, *, ok) -> None:
        (self.breaker.succeed if ok else self.breaker.fail)(permit, self.now)
        self.model.canary_reports(canary, self.now, ok=ok)

    @rule()
    def a_sign_of_health_returns(self) -> None:
        self.the_dependency_says_it_is_back()

    def the_dependency_says_it_is_back(self) -> None:
        self.breaker.dependency_is_back(self.now)
        self.model.dependency_is_back(self.now)

    @rule()
    def a_sign_of_health_is_lost(self) -> None:
        self.breaker.dependency_is_gone(self.now)
        self.model.dependency_is_gone(self.now)

    @rule()
    def an_operator_forces_it_open(self) -> None:
        self.breaker.force_open(self.now, "an exercise")
        self.model.force_open(self.now)
        assert self.breaker.state == "forced_open"

    @rule()
    def an_operator_resets_it(self) -> None:
        was_closed = self.breaker.state == "closed"
        self.breaker.reset(self.now, "the exercise is over")
        self.model.reset(self.now)
        assert was_closed or self.breaker.state != "closed", "a reset never closes"

    @invariant()
    def breaker_and_model_agree(self) -> None:
        if hasattr(self, "breaker"):
            self.agree()

    def agree(self) -> None:
        assert (self.breaker.state, self.breaker.generation) == (self.model.state, self.model.generation)
        closed_for_s = max(0.0, self.now - self.model.since) if self.model.state == "closed" else 0.0
        assert self.breaker.closed_for_s(self.now) == closed_for_s
        for one in self.breaker.take_transitions():
            state, generation = self.seen
            assert (one.before, one.generation) == (state, generation + 1)
            assert (one.before, one.after) in LEGAL
            assert one.why
            self.seen = (one.after, one.generation)
        assert self.seen == (self.breaker.state, self.breaker.generation), "every transition is told"


def machine(module: ModuleType) -> type[BreakerMachine]:
    """Return the machine that plays with `module.Breaker`."""
    return type("BreakerMachine", (BreakerMachine,), {"module": module})


# --- stories that chance finds too seldom: what happens exactly at an edge --------------------------------------------


def calls_at_the_edge_of_the_window_count_and_later_ones_do_not(game: BreakerMachine) -> None:
    for halves in (2, 3):
        game.start(row=4, calls=2, ratio=1.0, window=1.0, probes=1)
        game.callers_come_and_report_at_once([False], 0)
        game.time_passes(halves)
        game.callers_come_and_report_at_once([False], 0)


def what_a_window_forgets_it_forgets_whole(game: BreakerMachine) -> None:
    game.start(row=4, calls=3, ratio=0.75, window=1.0, probes=1)
    for outcomes in ([False, False], [True, False], [True, True, False, False]):
        game.callers_come_and_report_at_once(outcomes, 0)
        game.time_passes(3)
        game.agree()


def leases_and_the_open_time_end_to_the_half_second(game: BreakerMachine) -> None:
    for halves in (1, 2, 3, 4, 5):
        game.start(row=2, calls=5, ratio=1.0, window=1.0, probes=3)
        game.it_opens_and_time_passes(halves)
        game.agree()
        game.start(row=2, calls=5, ratio=1.0, window=1.0, probes=3)
        game.a_sign_of_health_is_lost()
        game.the_dependency_says_it_is_back()
        game.a_canary_goes_and_time_passes(halves)
        game.agree()


def one_canary_reports_many_times(game: BreakerMachine) -> None:
    for ok in (True, False):
        game.start(row=2, calls=5, ratio=1.0, window=1.0, probes=3)
        game.a_sign_of_health_is_lost()
        game.the_dependency_says_it_is_back()
        first = game.a_canary_wants_to_go()
        for again in (True, ok, True):
            game.report(*first, ok=again)
            game.agree()
        second = game.a_canary_wants_to_go()
        game.report(*first, ok=ok)
        game.agree()
        game.a_flood_wants_to_go()
        game.report(*second, ok=True)
        game.agree()


def a_row_and_a_window_begin_anew_after_healing(game: BreakerMachine) -> None:
    for row, calls in ((2, 5), (4, 3)):
        game.start(row=row, calls=calls, ratio=0.5, window=2.0, probes=2)
        game.callers_come_and_report_at_once([False, True, False, False], 0)
        for outcomes in ([False], [True, False], [False, False, False]):
            game.it_heals_and_callers_come(outcomes)
            game.agree()


def a_correct_answer_never_opens_it(game: BreakerMachine) -> None:
    game.start(row=4, calls=5, ratio=0.5, window=2.0, probes=1)
    game.callers_come_and_report_at_once([False, False, True, False, True], 0)
    game.agree()
    game.callers_come_and_report_at_once([False], 0)
    game.agree()


STORIES = [
    a_correct_answer_never_opens_it,
    calls_at_the_edge_of_the_window_count_and_later_ones_do_not,
    what_a_window_forgets_it_forgets_whole,
    leases_and_the_open_time_end_to_the_half_second,
    one_canary_reports_many_times,
    a_row_and_a_window_begin_anew_after_healing,
]


def play(module: ModuleType, *, examples: int) -> None:
    """Tell the stories, then play the same games every time. Raises what the machine raises, at the first step."""
    for story in STORIES:
        story(machine(module)())
    run_state_machine_as_test(
        machine(module),
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            print_blob=False,
        ),
    )
