"""The queue's pure rules under whatever happens."""

from __future__ import annotations

from datetime import UTC, datetime

from holdfast.intent import Priority
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from intent_queue import order
from intent_queue.bounds import Bounds, Depth
from intent_queue.order import Candidate, Lane, Slot, Turns, pick, slot
from intent_queue.pace import CAP, DECREASE, Pace
from intent_queue.states import FINAL, MAX_ATTEMPTS, Event, IllegalTransition, Place, State, after, legal


class OneIntent(RuleBasedStateMachine):
    """One intent, and any event at any time."""

    def __init__(self):
        super().__init__()
        self.place = Place()
        self.outcomes = []
        self.failures = 0
        self.epochs = [0]

    @rule(event=st.sampled_from(Event))
    def happens(self, event):
        before = self.place
        try:
            self.place = after(before, event)
        except IllegalTransition:
            to_expire = before.leased_from not in (None, State.WAITING)
            assert event not in legal(before.state) or (to_expire and event in (Event.ALLOW, Event.HOLD))
            return
        assert event in legal(before.state)
        if self.place.state in FINAL:
            self.outcomes.append(self.place.state)
        if event is Event.FAIL:
            self.failures += 1
        if self.place.state is State.LEASED:
            self.epochs.append(self.place.epoch)
        if event in (Event.GIVE_BACK, Event.FAIL) and self.place.state is not before.leased_from:
            assert (before.leased_from, self.place.state) == (State.WAITING, State.PARKED)

    @invariant()
    def there_is_at_most_one_outcome(self):
        assert len(self.outcomes) == (self.place.state in FINAL)

    @invariant()
    def attempts_are_failures_and_never_outages(self):
        assert self.place.attempts == self.failures

    @invariant()
    def too_many_attempts_never_come_from_waiting_on(self):
        # An operator may let a parked intent be decided again; the next failure parks it again.
        if self.failures >= MAX_ATTEMPTS and self.place.leased_from is State.WAITING:
            assert after(self.place, Event.FAIL).state is State.PARKED

    @invariant()
    def every_lease_has_an_epoch_of_its_own(self):
        assert self.epochs == list(range(len(self.epochs)))
        assert self.place.epoch == self.epochs[-1]


TestOneIntent = OneIntent.TestCase

intents = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from("abcd"), st.integers(0, 20), st.integers(0, 20)), max_size=60
)  # lane, agent, rank, time of queueing


def line(left):
    return sorted(left, key=lambda one: (one[0].lane, *one[1:]))


def turn_of(left, served):
    """Whose turn it is in the lane of the first in line, and which of its intents."""
    lane = line(left)[0][0].lane
    waiting = sorted({one[0].agent for one in left if one[0].lane is lane})
    agent = next((agent for agent in waiting if agent > served.get(lane, "")), waiting[0])
    return lane, agent, next(one for one in line(left) if (one[0].lane, one[0].agent) == (lane, agent))


@given(waiting=intents, limits=st.lists(st.integers(1, 25), min_size=1), first=st.integers(0, 9))
def test_picking_many_equals_picking_one_by_one(waiting, limits, first):
    """And so whoever claims in whatever portions serves the same order, and everybody in the end."""
    left = {
        (Candidate(f"{name:03}", Lane(lane), agent), rank, name, queued)
        for name, (lane, agent, rank, queued) in enumerate(waiting)
    }
    one_by_one = set(left)
    chosen, number, served = [], first, {}
    while left:
        limit = limits[len(chosen) % len(limits)]
        by_age = sorted(left, key=lambda one: (one[3], one[2]))[:limit]
        turns = Turns(served)
        turns.add(one[0] for one in line(left))
        batch = pick(number, limit, [one[0] for one in line(left)[:limit]], [one[0] for one in by_age], turns)
        assert len(batch) == min(limit, len(left))
        chosen += batch
        left = {one for one in left if one[0] not in batch}
        number += len(batch)
        served = turns.served

    turn_by_turn = {}
    for place, one in enumerate(chosen):
        kind = slot(first + place)
        if kind is Slot.OLDEST:
            expected = min(one_by_one, key=lambda one: (one[3], one[2]))
        elif kind is Slot.TURN:
            lane, agent, expected = turn_of(one_by_one, turn_by_turn)
            turn_by_turn[lane] = agent
        else:
            expected = line(one_by_one)[0]
        assert one == expected[0]
        one_by_one.remove(expected)


@given(lanes=st.lists(st.integers(0, 2), min_size=40, max_size=40))
def test_no_lane_starves_while_better_ones_never_run_dry(lanes):
    """The oldest intent of the lowest lane is served within ten slots, whatever arrives before it in line."""
    starving = Candidate("starving", Lane.BULK, "a")
    crowd = sorted((Candidate(str(number), Lane(lane), "a") for number, lane in enumerate(lanes)), key=lambda c: c.lane)

    for first in range(10):
        turns = Turns()
        turns.add(crowd)
        assert starving in pick(first, 10, [*crowd, starving], [starving, *crowd], turns)


@given(noise=st.integers(1, 400), agents=st.integers(1, 8), first=st.integers(0, 9))
def test_an_agent_that_queued_before_all_others_does_not_hold_them_up(noise, agents, first):
    """Each quiet agent is served once the turns went round: within as many slots as that takes, and one round more."""
    crowd = [Candidate(f"n{number}", Lane.NORMAL, "noisy") for number in range(noise)]
    quiet = [Candidate(f"q{number}", Lane.NORMAL, f"quiet-{number}") for number in range(agents)]
    turns = Turns()
    turns.add([*crowd, *quiet])

    within = pick(first, 10 * (1 + (agents + 1) // 3 + 1), [*crowd, *quiet], [*crowd, *quiet], turns)

    assert set(quiet) <= set(within)


@given(hint=st.sampled_from(Priority), cap=st.floats(0, 10_000), other=st.sampled_from(Priority))
def test_no_hint_beats_the_cap_or_an_older_intent(hint, cap, other):
    boost = order.boost_s(hint, cap)
    assert 0 <= boost <= min(cap, order.MAX_BOOST_S)

    older = datetime(2026, 1, 1, tzinfo=UTC)
    younger = datetime(2026, 1, 1, 0, 5, 1, tzinfo=UTC)  # by more than any boost
    assert order.rank_at(older, order.boost_s(other, cap)) < order.rank_at(younger, boost)


@given(wait=st.floats(0, 1e9), fraction=st.floats(0, 1, exclude_max=True))
def test_a_retry_is_never_before_the_wait_unless_bounded(wait, fraction):
    seconds = order.retry_after_s(wait, fraction)

    assert 1 <= seconds <= order.MAX_RETRY_AFTER_S
    assert seconds >= min(wait, order.MAX_RETRY_AFTER_S)


@given(events=st.lists(st.booleans(), max_size=400))
def test_the_pace_stays_in_bounds_and_only_trouble_slows_it(events):
    pace = Pace()
    for good in events:
        faster = pace.after_good() if good else pace.after_trouble()
        assert 1 <= faster.window <= CAP
        if good:
            assert pace.window <= faster.window <= pace.window + 1
        else:
            assert faster.window <= max(1, pace.window * DECREASE)
            assert faster.good == 0
        pace = faster


@given(
    steps=st.lists(st.sampled_from(["park", "begin", "end", "fail"]), max_size=40),
    limit=st.integers(1, 10),
)
def test_the_counter_never_counts_fewer_than_are_stored(steps, limit):
    """Parking stores at once here, nothing leaves: a bound by the counter is then a bound on the table."""
    bounds, stored, seen = Bounds(), 0, None
    bounds.refreshed(Depth(by_agent={}, by_lane={}, by_state={}))
    for step in steps:
        if step == "park" and not bounds.full("a", max_per_agent=limit, max_total=limit):
            bounds.parked("a", 2)
            bounds.waits("a", 2, str(stored))
            stored += 1
        elif step == "begin":
            bounds.refreshing()
            seen = stored
        elif step == "end" and seen is not None:
            bounds.refreshed(Depth(by_agent={"a": seen}, by_lane={}, by_state={State.WAITING: seen}))
            seen = None
        elif step == "fail":
            seen = None
        assert stored <= limit
        assert bounds.full("a", max_per_agent=stored or 1, max_total=limit) or stored == 0
