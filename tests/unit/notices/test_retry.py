"""How long a receiver that fails is tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.notices.retry import GIVE_UP_AFTER_S, MAX_ATTEMPTS, Retry, pause_s


def pause(retry=Retry.SOON, **changes):
    given = {"attempts": 1, "age_s": 0.0, "jitter": 0.0, "retry_after_s": None}
    return pause_s(retry, **(given | changes))


def test_pauses_double_up_to_an_hour():
    assert [pause(attempts=n) for n in (1, 2, 3, 11, 12)] == [5, 10, 20, 3600, 3600]
    assert [pause(Retry.SLOWLY, attempts=n) for n in (1, 2, 6)] == [600, 1200, 14_400]


def test_a_receiver_that_asks_for_patience_gets_it_up_to_an_hour():
    assert pause(retry_after_s=120.0) == 120
    assert pause(retry_after_s=10**9) == 3600
    assert pause(retry_after_s=-1.0) == 5


def test_whoever_is_gone_is_not_tried_again():
    assert pause(Retry.NEVER) is None


@pytest.mark.parametrize("retry", [Retry.SOON, Retry.SLOWLY])
@given(jitter=st.floats(min_value=0, max_value=0.999), asked=st.sampled_from([None, 0.0, 7200.0]))
def test_what_never_arrives_is_given_up_after_about_a_day(retry, jitter, asked):
    age_s, attempts = 0.0, 1
    while (wait_s := pause(retry, attempts=attempts, age_s=age_s, jitter=jitter, retry_after_s=asked)) is not None:
        assert wait_s >= 2.5
        age_s += wait_s
        attempts += 1
    assert attempts <= MAX_ATTEMPTS
    assert GIVE_UP_AFTER_S <= age_s <= GIVE_UP_AFTER_S + 4 * 3600
