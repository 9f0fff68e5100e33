"""When an outage is told, and when it is over."""

from __future__ import annotations

import pytest

from services.breaker import State
from services.notices.incident import IncidentSettings, IncidentTracker, Phase, Sighting

CLOSED, OPEN, HALF_OPEN, FORCED = State.CLOSED, State.OPEN, State.HALF_OPEN, State.FORCED_OPEN


def told(*looks) -> list:
    """Show a tracker the looks `(now, state, refused)`; return what it told as `(now, phase, affected)`."""
    tracker, found, generation, before = IncidentTracker(IncidentSettings()), [], 0, CLOSED
    for now, state, refused in looks:
        generation += state is not before
        before = state
        seen = tracker.see(Sighting(state=state, generation=generation, refused=refused, now=now))
        if seen is not None:
            found.append((now, seen.phase, seen.affected))
    return found


def test_an_outage_is_told_after_three_seconds_and_resolved_after_sixty_of_calm():
    looks = [(0, CLOSED, 0), (10, OPEN, 0), (12.9, OPEN, 0), (13, OPEN, 0), (20, OPEN, 0), (30, CLOSED, 0)]
    assert told(*looks, (89, CLOSED, 0), (90, CLOSED, 0), (500, CLOSED, 0)) == [
        (13, Phase.OPENED, 0),
        (90, Phase.RESOLVED, 0),
    ]


def test_a_blip_is_no_incident():
    assert told((0, CLOSED, 0), (10, OPEN, 0), (12, CLOSED, 0), (72, CLOSED, 0), (80, OPEN, 0), (82, CLOSED, 0)) == []


def test_flapping_is_one_incident():
    looks = [(10 * n, state, 0) for n, state in enumerate([CLOSED, OPEN, HALF_OPEN, CLOSED] * 20)]
    assert told(*looks) == [(20, Phase.OPENED, 0)]
    assert told(*looks, (850, CLOSED, 0))[1:] == [(850, Phase.RESOLVED, 0)]


def test_blips_that_follow_each_other_add_up():
    looks = [(2 * n, OPEN if n % 2 else CLOSED, 0) for n in range(10)]
    assert told(*looks)[0][1] is Phase.OPENED


def test_a_boundary_that_was_forced_open_is_an_incident():
    assert told((0, CLOSED, 0), (1, FORCED, 0), (4, FORCED, 0)) == [(4, Phase.OPENED, 0)]


def test_an_outage_that_ended_between_two_looks_is_told_all_the_same():
    assert told((0, CLOSED, 0), (1, OPEN, 0), (9, CLOSED, 0)) == [(9, Phase.OPENED, 0)]


def test_an_update_follows_each_tenfold_growth_of_what_was_refused():
    looks = [(1, OPEN, 3), (4, OPEN, 3), (5, OPEN, 9), (6, OPEN, 10), (7, OPEN, 99), (8, OPEN, 2000), (9, OPEN, 9999)]
    assert told((0, CLOSED, 0), *looks, (10, OPEN, 10_000)) == [
        (4, Phase.OPENED, 3),
        (6, Phase.UPDATED, 10),
        (8, Phase.UPDATED, 2000),
        (10, Phase.UPDATED, 10_000),
    ]


def test_the_first_refused_intent_is_an_update():
    assert told((0, CLOSED, 7), (1, OPEN, 7), (4, OPEN, 7), (5, OPEN, 8))[1:] == [(5, Phase.UPDATED, 1)]


def test_what_an_earlier_process_left_open_is_resolved():
    tracker = IncidentTracker(IncidentSettings())
    tracker.take_over(Sighting(state=CLOSED, generation=0, refused=0, now=100))
    assert tracker.is_open
    assert tracker.see(Sighting(state=CLOSED, generation=0, refused=0, now=159)) is None
    resolved = tracker.see(Sighting(state=CLOSED, generation=0, refused=0, now=160))
    assert resolved is not None
    assert resolved.phase is Phase.RESOLVED
    assert not tracker.is_open


@pytest.mark.parametrize("changes", [{"open_after_s": 0}, {"stable_s": 0}])
def test_settings_that_tell_everything_or_nothing_are_refused(changes):
    with pytest.raises(ValueError, match="positive"):
        IncidentSettings(**changes)
