"""How notices reach receivers: from memory in an outage, from the outbox otherwise, and never held up by the dead."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest
from fakes.notices import FakeClock, MemoryOutbox, MemoryReceiver, Pending, channel
from fakes.recording_entries import notice

from services.notices.board import Noticeboard
from services.notices.channel import Undelivered
from services.notices.notice import Kind, Severity
from services.notices.retry import Retry
from services.notices.sender import Sender
from services.ports import RecordingFailed
from services.system import SystemIds


class Room:
    """A sender at work on a fake outbox."""

    def __init__(self, *channels, outbox=None) -> None:
        self.clock = FakeClock()
        self.outbox = outbox or MemoryOutbox()
        self.channels = channels
        self.results: list[tuple[str, str]] = []
        self.dead: list[tuple[str, str]] = []
        self.sender = Sender(
            channels, self.outbox, origin="api", clock=self.clock, jitter=lambda: 0.0, deadline_s=0.05, look_s=0.005
        )
        self.sender.on_result = lambda name, result: self.results.append((name, result))
        self.sender.on_dead = lambda name, why: self.dead.append((name, why))

    async def told(self, *notices, in_journal=False, applied=True) -> None:
        """Record notices, as a lane would."""
        pending = Pending()
        self.sender.noticed(notices, pending)
        pending.settle(in_journal=in_journal, applied=applied)
        if applied and not in_journal:
            for one in notices:
                self.outbox.put(one)

    def got(self, name="ops") -> list[str]:
        return [one.notice_id for channel in self.channels if channel.name == name for one in channel.receiver.got]

    async def until(self, condition) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - a fake has no event for everything
                await asyncio.sleep(0.001)

    def passes(self, seconds: float) -> None:
        self.clock.time += seconds
        self.outbox.now += seconds


@contextlib.asynccontextmanager
async def room(*channels, outbox=None):
    made = Room(*(channels or (channel(),)), outbox=outbox)
    task = asyncio.create_task(made.sender.run())
    try:
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def other(n, **changes):
    return replace(notice(n), dedupe_key=f"key:{n}", **changes)


def script(made, *answers) -> MemoryReceiver:
    made.receiver.script.extend(answers)
    return made.receiver


WEATHER = Undelivered("HTTP 503", Retry.SOON)
GONE = Undelivered("HTTP 410", Retry.NEVER)


async def test_a_notice_in_the_store_goes_to_every_channel_that_wants_it():
    loud = channel("loud", min_severity=Severity.CRITICAL)
    picky = channel("picky", kinds=frozenset({Kind.HALT_SET}))
    async with room(channel(), loud, picky) as at:
        warning = other(2, severity=Severity.WARNING)
        halt = other(3, kind=Kind.HALT_SET)
        await at.told(warning, halt)
        await at.until(lambda: len(at.results) == 4)
        assert at.got("ops") == [warning.notice_id, halt.notice_id]
        assert at.got("loud") == [halt.notice_id]
        assert at.got("picky") == [halt.notice_id]


async def test_while_the_store_is_away_a_notice_leaves_from_memory_and_never_again():
    async with room() as at:
        at.outbox.up = False
        await at.told(notice(), in_journal=True)
        await at.until(lambda: at.got() == [notice().notice_id])

        at.outbox.up = True
        at.outbox.put(notice())  # the journal is imported
        await at.until(lambda: at.outbox.fanned)
        assert at.outbox.rows[notice().notice_id, "ops"].state == "delivered"
        await at.told(other(2))
        await at.until(lambda: len(at.got()) == 2)
        assert at.got() == [notice().notice_id, other(2).notice_id]


async def test_what_memory_could_not_deliver_is_handed_over_to_the_outbox():
    ops = channel()
    script(ops, WEATHER, WEATHER)
    async with room(ops) as at:
        at.outbox.up = False
        await at.told(notice(), in_journal=True)
        await at.until(lambda: at.results == [("ops", "failed")])
        at.passes(6)
        await at.until(lambda: at.results == [("ops", "failed")] * 2)

        at.outbox.up = True
        at.outbox.put(notice())
        await at.until(lambda: at.got() == [notice().notice_id])
        await at.until(lambda: at.outbox.rows[notice().notice_id, "ops"].state == "delivered")
        assert at.outbox.rows[notice().notice_id, "ops"].attempts == 3


async def test_what_is_under_way_from_memory_is_not_sent_by_the_outbox_meanwhile():
    ops, answer = channel(), asyncio.Event()
    receiver = script(ops, answer)
    made = Room(ops)
    made.sender._deadline_s = 10
    task = asyncio.create_task(made.sender.run())
    await made.told(notice(), in_journal=True)
    await made.until(lambda: receiver.under_way)
    made.outbox.put(notice())
    await asyncio.sleep(0.03)
    assert not made.outbox.fanned
    answer.set()
    await made.until(lambda: made.outbox.fanned)
    assert made.got() == [notice().notice_id]
    assert made.outbox.rows[notice().notice_id, "ops"].state == "delivered"
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_what_the_store_did_not_take_over_stays_in_memory():
    ops = channel()
    script(ops, WEATHER)
    async with room(ops) as at:
        at.outbox.up = False
        await at.told(notice(), in_journal=True)
        await at.until(lambda: at.results == [("ops", "failed")])
        at.outbox.put(notice())
        at.outbox.breaks = True
        at.outbox.up = True
        await at.until(lambda: not at.outbox.breaks)
        at.outbox.up = False
        at.passes(6)
        await at.until(lambda: at.got() == [notice().notice_id])


async def test_a_message_whose_delivery_could_not_be_noted_is_not_repeated_by_this_process():
    ops, answer = channel(), asyncio.Event()
    receiver = script(ops, answer)
    made = Room(ops)
    made.sender._deadline_s = 10
    task = asyncio.create_task(made.sender.run())
    await made.told(notice())
    await made.until(lambda: receiver.under_way)
    made.outbox.up = False
    answer.set()
    await made.until(lambda: made.results == [("ops", "delivered")])
    made.outbox.up = True
    made.passes(61)
    await made.until(lambda: made.outbox.rows[notice().notice_id, "ops"].state == "delivered")
    assert made.got() == [notice().notice_id]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_notice_of_what_did_not_happen_is_told_to_nobody():
    async with room() as at:
        await at.told(notice(1), applied=False, in_journal=True)
        failed = Pending()
        at.sender.noticed((notice(2),), failed)
        failed.fail()
        await at.told(other(3))
        await at.until(lambda: at.got() == [other(3).notice_id])


async def test_a_receiver_that_hangs_holds_up_nobody_else_and_no_more_than_its_share():
    slow, quick = channel("slow"), channel("quick")
    receiver = script(slow, *(asyncio.Event() for _ in range(100)))
    async with room(slow, quick) as at:
        await at.told(*(other(n) for n in range(30)))
        await at.until(lambda: len(at.got("quick")) == 30)
        await at.until(lambda: at.results.count(("slow", "failed")) >= 4)
        assert receiver.most_under_way <= 4


async def test_a_receiver_that_fails_is_tried_again_and_then_given_up():
    ops = channel()
    script(ops, *[WEATHER] * 100)
    async with room(ops, channel("pager")) as at:
        await at.told(notice())
        for n in range(1, 100):
            await at.until(lambda n=n: at.results.count(("ops", "failed")) >= n or at.dead)
            if at.dead:
                break
            at.passes(3601)
        assert at.dead == [("ops", "HTTP 503")]
        assert at.outbox.rows[notice().notice_id, "ops"].state == "dead"
        assert 20 < at.results.count(("ops", "failed")) < 64
        assert at.got("pager") == [notice().notice_id]


async def test_a_receiver_that_asked_for_patience_gets_it():
    ops = channel()
    script(ops, Undelivered("HTTP 429", Retry.SOON, retry_after_s=120.0))
    async with room(ops) as at:
        await at.told(notice())
        await at.until(lambda: at.results == [("ops", "failed")])
        await at.until(lambda: at.outbox.rows[notice().notice_id, "ops"].due == at.outbox.now + 120)
        at.passes(119)
        await asyncio.sleep(0.02)
        assert at.got() == []
        at.passes(2)
        await at.until(lambda: at.got() == [notice().notice_id])


async def test_a_receiver_that_is_gone_is_not_asked_again():
    ops = channel()
    receiver = script(ops, GONE)
    async with room(ops, channel("pager")) as at:
        await at.told(notice(1), other(2))
        await at.until(lambda: at.outbox.closed == {"ops": ops.address})
        await at.told(other(3))
        await at.until(lambda: len(at.got("pager")) == 3)
        assert len(receiver.got) <= 1, "what was under way beside it"
        assert at.dead == [("ops", "HTTP 410")]
        assert (other(3).notice_id, "ops") not in at.outbox.rows


async def test_a_channel_that_was_closed_before_is_open_under_another_address():
    outbox = MemoryOutbox()
    outbox.closed = {"ops": "ops" * 4, "pager": "another address"}
    async with room(channel(), channel("pager"), outbox=outbox) as at:
        await at.told(notice())
        await at.until(lambda: at.got("pager") == [notice().notice_id])
        assert at.got("ops") == []


async def test_an_ending_waits_for_its_beginning_in_memory_too():
    ops = channel()
    script(ops, WEATHER)
    ending = replace(notice(2), kind=Kind.INCIDENT_RESOLVED)
    async with room(ops) as at:
        at.outbox.up = False
        await at.told(notice(1), ending, other(3), in_journal=True)
        await at.until(lambda: at.got() == [other(3).notice_id])
        at.passes(6)
        await at.until(lambda: len(at.got()) == 3)
        assert at.got() == [other(3).notice_id, notice(1).notice_id, ending.notice_id]


async def test_whatever_a_receiver_raises_is_a_failure_to_be_tried_again():
    ops = channel()
    script(ops, RuntimeError("a bug"), OSError("the network"))
    async with room(ops) as at:
        await at.told(notice())
        await at.until(lambda: at.results == [("ops", "failed")])
        at.passes(6)
        await at.until(lambda: at.results == [("ops", "failed")] * 2)
        at.passes(20)
        await at.until(lambda: at.got() == [notice().notice_id])


async def test_without_channels_notices_are_settled_and_sent_nowhere():
    made = Room()
    made.channels = ()
    made.sender = Sender(
        (), made.outbox, origin="api", clock=made.clock, jitter=lambda: 0.0, deadline_s=0.05, look_s=0.005
    )
    task = asyncio.create_task(made.sender.run())
    await made.told(notice())
    await made.until(lambda: made.outbox.fanned)
    assert made.outbox.rows == {}
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


# --- the board --------------------------------------------------------------------------------------------------------


class FakeRecorder:
    """Records into nothing, or refuses."""

    def __init__(self, sender) -> None:
        self.sender = sender
        self.entries = []
        self.refuses = False
        self.pending: Pending | None = None

    def append(self, entry):
        if self.refuses:
            raise RecordingFailed("neither place takes it")
        self.entries.append(entry)
        self.pending = Pending()
        self.sender.noticed(entry.notices, self.pending)
        return self.pending


@pytest.fixture
def board():
    def make(at):
        recorder = FakeRecorder(at.sender)
        made = Noticeboard(recorder, at.sender, clock=at.clock, ids=SystemIds(), origin="api")
        return made, recorder

    return make


async def test_what_is_published_is_recorded_with_everything_it_says(board):
    async with room() as at:
        made, recorder = board(at)
        made.publish(notice())
        (entry,) = recorder.entries
        assert (entry.kind, entry.notices) == ("notice.published", (notice(),))
        assert entry.members == {"notice": notice().document()}
        assert entry.journal_may_release


@pytest.mark.parametrize("at_once", [True, False])
async def test_what_is_published_is_told_even_when_nothing_can_be_recorded(board, at_once):
    """That neither place takes records is the gravest thing to tell."""
    async with room() as at:
        made, recorder = board(at)
        recorder.refuses = at_once
        made.publish(notice())
        if recorder.pending is not None:
            recorder.pending.fail()
        await at.until(lambda: at.got() == [notice().notice_id])


async def test_a_dead_receiver_is_reported_to_the_others_once_an_hour(board):
    ops = channel()
    async with room(ops, channel("pager")) as at:
        made, recorder = board(at)
        recorder.refuses = True
        made.receiver_is_dead("ops", "HTTP 410")
        made.receiver_is_dead("ops", "HTTP 410")
        await at.until(lambda: at.got("pager"))
        (told,) = at.channels[1].receiver.got
        assert (told.kind, told.details["channel"]) == (Kind.RECEIVER_DEAD, "ops")
        assert at.got("ops") == []
        at.passes(3601)
        made.receiver_is_dead("ops", "HTTP 410")
        await at.until(lambda: len(at.got("pager")) == 2)
