"""Who is next, how fast, and whether one more may wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from holdfast.intent import Priority

from intent_queue.bounds import Bounds, Depth, LaneDepth
from intent_queue.order import (
    MAX_BOOST_S,
    MAX_RETRY_AFTER_S,
    Candidate,
    Lane,
    Slot,
    Turns,
    boost_s,
    pick,
    rank_at,
    retry_after_s,
    slot,
)
from intent_queue.pace import CAP, GOOD_PER_STEP, START, Pace
from intent_queue.states import State

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_hint_earns_at_most_what_policy_gives():
    assert [boost_s(hint, 1000) for hint in Priority] == [0, 0, 30, 60]
    assert [boost_s(hint, 45) for hint in Priority] == [0, 0, 30, 45]
    assert [boost_s(hint, 0) for hint in Priority] == [0, 0, 0, 0]


@pytest.mark.parametrize("cap", [-1, float("nan")])
def test_a_cap_that_is_no_cap_is_refused(cap):
    with pytest.raises(ValueError, match="cap"):
        boost_s(Priority.CRITICAL, cap)


def test_a_rank_is_the_time_of_queueing_less_the_boost():
    assert rank_at(NOON, 60) == NOON - timedelta(minutes=1)
    assert rank_at(NOON, 0) == NOON


@pytest.mark.parametrize("boost", [-1, MAX_BOOST_S + 1, float("nan")])
def test_a_boost_out_of_range_is_refused(boost):
    with pytest.raises(ValueError, match="boost"):
        rank_at(NOON, boost)


def test_a_rank_of_a_naive_time_is_refused():
    with pytest.raises(ValueError, match="aware"):
        rank_at(NOON.replace(tzinfo=None), 0)


def test_every_tenth_slot_belongs_to_the_oldest():
    assert [number for number in range(35) if slot(number) is Slot.OLDEST] == [9, 19, 29]


def test_lanes_are_named_as_on_the_wire():
    assert [lane.label for lane in Lane] == ["safety", "critical", "normal", "bulk"]


def test_picking_alternates_at_the_tenth_slot_and_takes_none_twice():
    assert picked(0, 12, "abcdefghijklm", "amlkjihgfedcb") == "abcdefghimjk"
    assert picked(9, 3, "abcdefghijklm", "amlkjihgfedcb") == "abc"
    assert picked(0, 5, "", "") == ""


def test_agents_of_the_lane_take_turns_in_three_slots_of_ten():
    assert [number for number in range(10) if slot(number) is Slot.TURN] == [1, 4, 7]
    # Capitals are another agent's.
    assert picked(0, 10, "abcdefghijXYZ", "abcdefghij") == "abcdXefghi"


def test_an_agent_without_anything_left_lets_its_turn_pass():
    turns = Turns({Lane.NORMAL: "lower"})
    turns.add(candidates("aX"))

    assert turns.take(Lane.NORMAL, candidates("X")) == candidates("a")[0]
    assert turns.served == {Lane.NORMAL: "lower"}
    assert turns.take(Lane.NORMAL, candidates("aX")) is None
    assert turns.take(Lane.BULK, ()) is None


def candidates(names):
    return [Candidate(name, Lane.NORMAL, "upper" if name.isupper() else "lower") for name in names]


def picked(first, limit, in_line, by_age):
    turns = Turns()
    turns.add(candidates(in_line))
    found = pick(first, limit, candidates(in_line), candidates(by_age), turns)
    return "".join(one.intent_id for one in found)


def test_retries_are_spread_over_half_as_much_again_and_bounded():
    assert retry_after_s(10, 0.0) == 10
    assert retry_after_s(10, 0.99) == 15
    assert retry_after_s(0, 0.5) == 1
    assert retry_after_s(float("inf"), 0.99) == MAX_RETRY_AFTER_S
    for wait, fraction in ((-1, 0.5), (float("nan"), 0.5), (1, 1.0), (1, -0.1)):
        with pytest.raises(ValueError, match=r"wait|fraction"):
            retry_after_s(wait, fraction)


def test_the_pace_starts_small_grows_slowly_yields_fast_and_has_a_cap():
    pace = Pace()
    assert pace.window == START
    for _ in range(GOOD_PER_STEP):
        pace = pace.after_good()
    assert pace == Pace(window=START + 1)
    assert Pace(window=10, good=7).after_trouble() == Pace(window=6)
    assert Pace(window=1).after_trouble() == Pace(window=1)
    assert Pace(window=CAP, good=GOOD_PER_STEP - 1).after_good() == Pace(window=CAP)


def test_slow_live_traffic_cuts_the_pace_to_its_start_and_no_further():
    """Where the start is too much it is not the drain, which would stand still for ever."""
    windows, pace = [], Pace(window=CAP, good=3)
    for _ in range(8):
        pace = pace.beside_slow_live_traffic()
        windows.append(pace.window)
    assert windows == [38, 22, 13, 7, 4, 4, 4, 4]
    assert Pace(window=2).beside_slow_live_traffic() == Pace(window=2), "never quicker by it"


@pytest.mark.parametrize("kind", [{"window": 0}, {"window": CAP + 1}, {"good": -1}, {"good": GOOD_PER_STEP}])
def test_a_pace_that_stands_still_or_races_cannot_be_built(kind):
    with pytest.raises(ValueError, match=r"window|good"):
        Pace(**kind)


def depth(**by_agent):
    total = sum(by_agent.values())
    lanes = dict.fromkeys(Lane, LaneDepth(count=0, oldest_age_s=0.0)) | {
        Lane.NORMAL: LaneDepth(count=total, oldest_age_s=5.0)
    }
    return Depth(by_agent=by_agent, by_lane=lanes, by_state={State.WAITING: total})


def full(bounds, agent, *, mine=3, all_of_us=5):
    return bounds.full(agent, max_per_agent=mine, max_total=all_of_us)


def test_a_queue_that_was_never_counted_is_full():
    assert full(Bounds(), "a", mine=1000, all_of_us=1000)


def stored(bounds, agent, intent_id="int_1"):
    bounds.parked(agent, Lane.NORMAL)
    bounds.waits(agent, Lane.NORMAL, intent_id, in_journal="sha-256:a")


def test_who_is_on_the_way_to_the_table_is_not_lost_to_a_count_that_missed_it():
    bounds = Bounds()
    bounds.refreshed(depth())
    for _ in range(3):
        bounds.parked("a", Lane.NORMAL)
    bounds.refreshing()
    bounds.refreshed(depth())
    assert full(bounds, "a")

    for number in range(3):
        bounds.waits("a", Lane.NORMAL, f"int_{number}")
    assert full(bounds, "a")
    bounds.refreshing()
    bounds.refreshed(depth(a=2))
    assert not full(bounds, "a")


def test_who_waited_in_a_journal_answers_for_its_action_only_until_the_journal_is_empty():
    """It may have ended since: in a second outage its action is somebody else's."""
    bounds = Bounds()
    stored(bounds, "a")
    assert bounds.same("a", "sha-256:a", instead_of=None) == "int_1"

    bounds.journal_is_empty()

    assert bounds.same("a", "sha-256:a", instead_of=None) is None


def test_who_never_came_is_forgotten_after_some_counts():
    bounds = Bounds()
    bounds.refreshed(depth())
    for _ in range(3):
        bounds.parked("a", Lane.NORMAL)
    for _ in range(5):
        assert full(bounds, "a")
        bounds.refreshing()
        bounds.refreshed(depth())
    assert not full(bounds, "a")


def test_what_waits_in_the_journal_is_remembered_for_its_action_until_the_table_can_be_counted():
    bounds = Bounds()
    stored(bounds, "a")
    bounds.waits("b", Lane.NORMAL, "int_2")
    assert bounds.same("a", "sha-256:a") == "int_1"
    assert bounds.same("b", "sha-256:a") is None
    bounds.refreshing()
    bounds.refreshed(depth(a=1))
    assert bounds.same("a", "sha-256:a") is None


def test_who_waits_for_an_action_is_remembered_until_it_is_forgotten():
    bounds = Bounds()
    stored(bounds, "a")

    assert bounds.same("a", "sha-256:a", instead_of=None) == "int_1"
    assert bounds.same("a", "sha-256:a", instead_of="int_1") is None
    assert bounds.same("b", "sha-256:a", instead_of=None) is None
    bounds.forget("a", "sha-256:a")
    assert bounds.same("a", "sha-256:a", instead_of=None) is None


def test_what_was_let_in_counts_before_the_table_is_counted_again():
    bounds = Bounds()
    bounds.refreshed(depth(a=1, b=1))
    for _ in range(2):
        assert not full(bounds, "a")
        bounds.parked("a", Lane.NORMAL)

    assert full(bounds, "a")
    assert not full(bounds, "b")
    bounds.parked("c", Lane.BULK)
    assert full(bounds, "b")


def test_a_count_replaces_what_it_saw_and_keeps_what_came_after_it_began():
    bounds = Bounds()
    bounds.refreshed(depth())
    stored(bounds, "a")
    bounds.refreshing()
    stored(bounds, "a")
    bounds.refreshed(depth(a=1))
    assert not full(bounds, "a")

    bounds.refreshing()
    bounds.refreshed(depth(a=2))
    assert not full(bounds, "a")
    assert full(bounds, "a", mine=2)


def test_a_failed_count_forgets_nobody():
    bounds = Bounds()
    bounds.refreshed(depth())
    for _ in range(3):
        bounds.parked("a", Lane.NORMAL)
        bounds.refreshing()

    assert full(bounds, "a")
    assert not full(bounds, "b")


def test_a_place_in_line_counts_own_and_better_lanes():
    bounds = Bounds()
    bounds.refreshed(depth(a=4))

    assert bounds.parked("a", Lane.NORMAL) == 5
    assert bounds.parked("a", Lane.SAFETY) == 1
    assert bounds.parked("b", Lane.BULK) == 7
    assert bounds.parked("b", Lane.NORMAL) == 7
