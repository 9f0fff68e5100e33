"""How long a dying child is borne with."""

from console.runtime.children import FIRST_DELAY_S, LONGEST_DELAY_S, RESTARTS, STEADY_S, Patience, describe


def test_the_delay_doubles_up_to_its_bound():
    patience = Patience()

    delays = [patience.delay_s(lived_s=0) for _ in range(RESTARTS)]

    assert delays[:3] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert delays[-1] == LONGEST_DELAY_S
    assert delays == sorted(delays)


def test_a_child_that_keeps_dying_is_given_up():
    patience = Patience(limit=2)

    assert [patience.delay_s(lived_s=0) for _ in range(3)] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, None]


def test_without_a_limit_a_child_is_never_given_up():
    patience = Patience(limit=None, deaths=10_000)

    assert patience.delay_s(lived_s=0) == LONGEST_DELAY_S


def test_a_child_that_lived_long_starts_a_new_row():
    patience = Patience(limit=2)
    patience.delay_s(lived_s=0)
    patience.delay_s(lived_s=0)

    assert patience.delay_s(lived_s=STEADY_S) == FIRST_DELAY_S


def test_a_child_that_almost_lived_long_does_not():
    patience = Patience(limit=1)
    patience.delay_s(lived_s=0)

    assert patience.delay_s(lived_s=STEADY_S - 0.001) is None


def test_an_end_is_described_by_status_or_signal():
    assert describe(3) == "exited with status 3"
    assert describe(-9) == "was killed by SIGKILL"
    assert describe(-200) == "was killed by signal 200"
