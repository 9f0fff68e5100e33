"""The queue's pure rules under whatever happens."""

from __future__ import annotations

from datetime import UTC, datetime

from holdfast.intent import Priority
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from intent_queue import order
from intent_queue.bounds import Bounds, Depth
from intent_queue.order import Slot, pick, slot
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
    st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, 20)), max_size=60
)  # lane, rank, time of queueing


@given(waiting=intents, limits=st.lists(st.integers(1, 25), min_size=1), first=st.integers(0, 9))
def test_picking_many_equals_picking_one_by_one(waiting, limits, first):
    """And so whoever claims in whatever portions serves the same order, and everybody in the end."""
    left = {(*keys, name) for name, keys in enumerate(waiting)}
    one_by_one = set(left)
    served, number = [], first
    while left:
        limit = limits[len(served) % len(limits)]
        in_line = sorted(left, key=lambda one: (one[0], one[1], one[3]))[:limit]
        by_age = sorted(left, key=lambda one: (one[2], one[3]))[:limit]
        batch = pick(number, limit, in_line, by_age)
        assert len(batch) == min(limit, len(left))
        served += batch
        left -= set(batch)
        number += len(batch)

    for place, one in enumerate(served):
        if slot(first + place) is Slot.OLDEST:
            assert one == min(one_by_one, key=lambda one: (one[2], one[3]))
        else:
            assert one == min(one_by_one, key=lambda one: (one[0], one[1], one[3]))
        one_by_one.remove(one)


@given(lanes=st.lists(st.integers(0, 2), min_size=40, max_size=40))
def test_no_lane_starves_while_better_ones_never_run_dry(lanes):
    """The oldest intent of the lowest lane is served within ten slots, whatever arrives before it in line."""
    starving = (3, 0, 0, "starving")
    crowd = [(lane, 1, 1, str(number)) for number, lane in enumerate(lanes)]
    in_line = sorted([starving, *crowd])
    by_age = [starving, *crowd]

    for first in range(10):
        assert starving in pick(first, 10, in_line, by_age)


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
