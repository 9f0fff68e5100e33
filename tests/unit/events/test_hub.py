"""One look at the feed tells everybody who waits, and nobody misses a change."""

from __future__ import annotations

import asyncio

import pytest
from fakes.changes import MemoryChanges

from services import hub as hubs
from services.hub import Crowded, Ended, Hub


@pytest.fixture
def feed():
    return MemoryChanges()


@pytest.fixture
async def hub(feed):
    opened = Hub(feed, tick_s=0.001)
    await opened.look()
    return opened


async def test_a_change_ends_the_wait_and_comes_with_it(hub, feed):
    with hub.waiting("bot", "int_1") as waiter:
        feed.move("bot", "int_1", "claimable")
        await hub.look()
        change = await waiter.changed(5)

    assert (change.intent_id, change.status, change.envelope()["token"]) == ("int_1", "claimable", None)
    assert hub.waiters == 0


async def test_what_is_still_undecided_wakes_nobody(hub, feed):
    with hub.waiting("bot", "int_1") as waiter:
        feed.move("bot", "int_1", "held")
        await hub.look()

        assert await waiter.changed(0.01) is None


async def test_five_thousand_waiters_cost_one_query_a_look(hub, feed):
    waiters = []
    registrations = [hub.waiting("bot", f"int_{n}") for n in range(5_000)]
    waiters = [registration.__enter__() for registration in registrations]
    feed.move("bot", "int_17", "denied")
    asked = feed.asked

    await hub.look()

    assert feed.asked == asked + 1
    assert (await waiters[17].changed(5)).status == "denied"
    for registration in registrations:
        registration.__exit__(None, None, None)
    assert hub.waiters == 0


async def test_who_waits_is_told_before_what_may_still_come_first_has_committed(hub, feed):
    """A stream needs order; a wait only needs the truth, and must not hang on somebody else's long transaction."""
    feed.begin()
    with hub.waiting("bot", "int_1") as waiter, hub.streaming("bot") as stream:
        feed.move("bot", "int_1", "claimable")
        await hub.look()

        assert (await waiter.changed(5)).status == "claimable"
        assert await stream.next(0.01) == ()


async def test_a_change_that_commits_late_is_published_in_its_place(hub, feed):
    """`id > last` over a shared sequence would skip it."""
    slow = feed.begin()
    with hub.streaming("bot") as stream:
        feed.move("bot", "int_2", "denied")
        await hub.look()
        assert await stream.next(0.01) == ()
        feed.commit(slow, ("bot", "int_1", "claimable"))
        await hub.look()

        assert [change.intent_id for change in await stream.next(5)] == ["int_1", "int_2"]


async def test_what_happened_while_the_store_was_away_wakes_whoever_waits(hub, feed):
    with hub.waiting("bot", "int_1") as waiter:
        feed.away = True
        running = asyncio.create_task(hub.run())
        feed.move("bot", "int_1", "claimable")
        assert await waiter.changed(0.05) is None
        feed.away = False

        with hub.waiting("bot", "int_1") as again:
            assert (await again.changed(5)).status == "claimable"
        running.cancel()


async def test_a_hub_that_starts_while_the_store_is_away_misses_nothing_afterwards(feed):
    feed.away = True
    hub = Hub(feed, tick_s=0.001)
    running = asyncio.create_task(hub.run())
    with hub.waiting("bot", "int_1") as waiter:
        await asyncio.sleep(0.01)
        feed.move("bot", "int_1", "denied")
        feed.away = False

        assert (await waiter.changed(5)).status == "denied"
    running.cancel()


async def test_a_stream_gets_its_own_agents_changes_and_an_operators_stream_gets_all(hub, feed):
    with hub.streaming("bot") as own, hub.streaming("bot", "int_2") as one, hub.streaming(None) as everything:
        feed.move("bot", "int_1", "claimable")
        feed.move("cat", "int_9", "denied")
        feed.move("bot", "int_2", "held")
        await hub.look()

        assert [change.intent_id for change in await own.next(5)] == ["int_1", "int_2"]
        assert [change.intent_id for change in await one.next(5)] == ["int_2"]
        assert [change.intent_id for change in await everything.next(5)] == ["int_1", "int_9", "int_2"]


async def test_a_reader_that_lags_is_dropped_and_one_that_keeps_up_is_not(hub, feed):
    with hub.streaming("bot") as slow, hub.streaming("bot") as quick:
        taken = 0
        for _ in range(hubs.MAX_LAG // 1_000 + 1):
            feed.commit(feed.begin(), *(("bot", f"int_{n}", "denied") for n in range(1_000)))
            while await hub.look():
                pass
            taken += len(await quick.next(5))

        assert taken == (hubs.MAX_LAG // 1_000 + 1) * 1_000
        with pytest.raises(Ended):
            await slow.next(5)


async def test_waits_and_streams_are_bounded_in_all_and_for_each_agent(hub, monkeypatch):
    monkeypatch.setattr(hubs, "MAX_WAITERS", 3)
    monkeypatch.setattr(hubs, "MAX_WAITERS_PER_AGENT", 2)
    monkeypatch.setattr(hubs, "MAX_STREAMS_PER_AGENT", 1)
    with hub.waiting("bot", "int_1"), hub.waiting("bot", "int_1"):
        with pytest.raises(Crowded), hub.waiting("bot", "int_2"):
            pass
        with hub.waiting("cat", "int_3"), pytest.raises(Crowded), hub.waiting("dog", "int_4"):
            pass
    with hub.streaming("bot"), pytest.raises(Crowded), hub.streaming("bot"):
        pass
    with hub.streaming("bot"):
        assert hub.streams == 1
    assert (hub.waiters, hub.streams) == (0, 0)


async def test_a_cancelled_wait_leaves_nothing_behind(hub):
    async def wait() -> None:
        with hub.waiting("bot", "int_1") as waiter:
            await waiter.changed(60)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0.01)
    assert hub.waiters == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert (hub.waiters, hub._waiters) == (0, {})


async def test_closing_ends_every_wait_and_stream_and_whatever_comes_later(hub):
    with hub.waiting("bot", "int_1") as waiter, hub.streaming("bot") as stream:
        hub.close()
        assert await waiter.changed(60) is None
        with pytest.raises(Ended):
            await stream.next(60)
    with hub.waiting("bot", "int_1") as waiter, hub.streaming("bot") as stream:
        assert await waiter.changed(60) is None
        with pytest.raises(Ended):
            await stream.next(60)
