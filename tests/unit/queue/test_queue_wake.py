"""Wake-ups that nobody can hear, and the jobs' spelling."""

from __future__ import annotations

import pytest

from intent_queue.wake import Waker, dump_job, load_job


async def test_without_a_broker_nobody_is_told():
    waker = Waker(None)

    assert not await waker.wake()
    await waker.close()


async def test_an_unreachable_broker_is_asked_once_per_cool_down(tmp_path):
    """A broker that is away must not cost every caller its time-out."""
    now, asked = 0.0, []

    class Watched(Waker):
        async def _send(self, redis):
            asked.append(now)
            await super()._send(redis)

    waker = Watched(f"unix://{tmp_path}/nobody.sock", cooldown_s=1.0, monotonic=lambda: now)
    for now in (0.0, 0.1, 0.9, 1.1, 1.2):  # noqa: B007 - the clock reads it
        assert not await waker.wake()
    await waker.close()

    assert asked == [0.0, 1.1]


def test_a_broker_url_that_is_none_is_refused_at_once():
    with pytest.raises(ValueError, match="scheme"):
        Waker("http://broker")


def test_a_job_survives_json_and_an_exception_becomes_text():
    assert load_job(dump_job({"f": "look_now", "a": [], "k": {}})) == {"f": "look_now", "a": [], "k": {}}
    assert load_job(dump_job({"r": ValueError("no")})) == {"r": "ValueError('no')"}


@pytest.mark.parametrize("data", [b"\x80\x04pickle", b"[1]", b"", b"1"])
def test_what_is_no_job_is_refused(data):
    with pytest.raises(ValueError, match="a job is not"):
        load_job(data)
