"""Where a waiting intent stands."""

from __future__ import annotations

import itertools

import pytest

from intent_queue.states import (
    FINAL,
    LEASABLE,
    MAX_ATTEMPTS,
    STORED,
    Event,
    IllegalTransition,
    Place,
    State,
    after,
    legal,
)


def leased(home, **kind):
    return Place(state=State.LEASED, leased_from=home, **kind)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(FINAL, Event)))
def test_nothing_happens_to_a_final_state(state, event):
    with pytest.raises(IllegalTransition):
        after(Place(state=state), event)


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (Event.ALLOW, State.CLAIMABLE),
        (Event.HOLD, State.HELD),
        (Event.DENY, State.DENIED),
        (Event.EXPIRE, State.EXPIRED),
        (Event.CANCEL, State.CANCELLED),
    ],
)
def test_a_lease_to_decide_ends_in_its_outcome(event, state):
    assert after(leased(State.WAITING, epoch=3), event) == Place(state=state, epoch=3)


@pytest.mark.parametrize("home", sorted(LEASABLE - {State.WAITING}))
@pytest.mark.parametrize("event", [Event.ALLOW, Event.HOLD])
def test_a_lease_to_expire_can_not_end_in_a_decision(home, event):
    with pytest.raises(IllegalTransition):
        after(leased(home), event)


def test_only_a_waiting_intent_is_claimed_to_be_decided():
    assert {state for state in State if Event.CLAIM in legal(state)} == {State.WAITING}


def test_only_a_claimable_intent_is_granted_and_only_a_lease_or_an_approval_makes_one_claimable():
    """A late allow is never executed by the queue: an agent has to pick it up."""
    assert {state for state in State if Event.GRANT in legal(state)} == {State.CLAIMABLE}
    ways = {
        (place.state, event)
        for place in [*(Place(state=state) for state in STORED - {State.LEASED}), leased(State.WAITING)]
        for event in legal(place.state)
        if after(place, event).state is State.CLAIMABLE
    }
    assert ways == {(State.LEASED, Event.ALLOW), (State.HELD, Event.APPROVE), (State.WAITING, Event.APPROVE)}


@pytest.mark.parametrize("home", sorted(LEASABLE))
def test_giving_back_restores_the_state_and_counts_nothing(home):
    place = after(after(Place(state=home, attempts=4), Event.COME_DUE), Event.GIVE_BACK)

    assert place == Place(state=home, attempts=4, epoch=1)


def test_the_fifth_failure_parks_what_would_wait_again():
    place = Place()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        place = after(after(place, Event.CLAIM), Event.FAIL)
        assert place.attempts == attempt
        assert place.state is (State.WAITING if attempt < MAX_ATTEMPTS else State.PARKED)
    assert place.epoch == MAX_ATTEMPTS


@pytest.mark.parametrize("home", sorted(LEASABLE - {State.WAITING}))
def test_a_failed_expiry_goes_back_where_it_was_however_often(home):
    assert after(leased(home, attempts=99), Event.FAIL) == Place(state=home, attempts=100)


def test_a_place_with_half_a_lease_cannot_be_built():
    for state, home in (
        (State.LEASED, None),
        (State.WAITING, State.WAITING),
        (State.LEASED, State.LEASED),
        (State.LEASED, State.DENIED),
    ):
        with pytest.raises(ValueError, match=r"lease"):
            Place(state=state, leased_from=home)
