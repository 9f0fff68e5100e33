"""What a lane promises, with one thing broken at a time."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from fakes.recording import Fault, MemorySink
from fakes.recording_entries import AT, consumption, open_intent
from fakes.recording_world import FAST, ROOT, allow, denial, voids

from services.ports import RecordingFailed
from services.recording.journal import Journal
from services.recording.lane import Lane, LaneSettings, Mode, Unrecordable
from services.recording.sink import Fork
from services.system import SystemClock, SystemIds

# --- the way it should be ------------------------------------------------------------------------------------------


async def test_a_record_is_chained_at_once_and_durable_when_settled(world):
    lane = await world.start()
    pending = lane.append(allow())
    assert orjson.loads(pending.body)["n"] == 1

    settled = await pending.settled()

    assert (settled.receipt, settled.applied, settled.in_journal) == (pending.receipt, True, False)
    (found,) = [found for found in world.log() if found.kind == "decision"]
    assert (found.receipt, found.body) == (pending.receipt, pending.body)
    assert world.database.tables.intents["int_1"]["status"] == "granted"


async def test_a_stream_opens_with_its_seal_key_and_closes(world):
    lane = await world.start()
    await lane.append(denial()).settled()
    await lane.stop()
    opened, _, closed = world.log()
    assert opened.members.keys() >= {"lane", "instance", "reason", "seal_key"}
    assert "predecessor" not in opened.members
    assert (opened.members["lane"], closed.kind) == ("a/main", "stream.close")


async def test_the_next_stream_names_the_last_record_of_the_one_before(world):
    lane = await world.start()
    await lane.stop()
    last = world.log()[-1]
    again = await world.start()
    await again.append(denial()).settled()
    opened = [found for found in world.log() if found.kind == "stream.open"][-1]
    assert opened.members["predecessor"] == {"stream": last.stream, "seq": last.seq, "hash": last.hash}


async def test_what_waits_together_is_committed_together(world):
    lane = await world.start()
    await lane.append(denial(0)).settled()
    before = lane.counters.batches
    await asyncio.gather(*(lane.append(denial(n)).settled() for n in range(1, 200)))
    assert lane.counters.batches <= before + 2
    assert len(world.log()) == 201


async def test_a_group_is_bounded(world):
    world.settings = LaneSettings(group_rows=10, drain_rows=10)
    lane = await world.start()
    await asyncio.gather(*(lane.append(denial(n)).settled() for n in range(95)))
    assert lane.counters.batches >= 10


async def test_an_effect_may_name_the_receipt_of_its_record(world):
    lane = await world.start()
    pending = lane.append(allow(effect=lambda receipt: open_intent(envelope={"rcp": str(receipt)})))
    await pending.settled()
    assert world.database.tables.intents["int_1"]["envelope"] == {"rcp": str(pending.receipt)}


async def test_a_heartbeat_makes_silence_a_finding(world):
    world.settings = LaneSettings(heartbeat_s=0.001)
    await world.start()
    await world.until(lambda: "stream.heartbeat" in world.kinds())


async def test_a_caller_that_gives_up_takes_the_answer_from_nobody(world):
    lane = await world.start()
    pending = lane.append(allow())
    waiting = asyncio.create_task(pending.settled())
    await asyncio.sleep(0)
    waiting.cancel()
    assert (await pending.settled()).applied


# --- refused effects -----------------------------------------------------------------------------------------------


async def test_a_refused_effect_is_answered_after_its_void_is_durable(world):
    lane = await world.start()
    await lane.append(allow()).settled()
    second = lane.append(allow())
    settled = await second.settled()
    assert (settled.applied, settled.in_journal) == (False, False)
    log = world.log()
    assert voids(log) == {second.receipt.seq: "effect_refused"}
    assert log[-1].members["void"] == {"seq": second.receipt.seq, "hash": second.receipt.hash}
    assert not world.database.tables.refused


async def test_the_void_of_another_kind_keeps_its_first_part(world):
    lane = await world.start()
    assert not (await lane.append(consumption()).settled()).applied
    assert "token.void" in world.kinds()


async def test_a_refused_effect_whose_void_is_in_doubt_is_answered_from_the_journal(world):
    lane = await world.start()
    await lane.append(allow()).settled()
    world.database.faults.extend([None, Fault.REFUSE])
    second = lane.append(allow())
    settled = await second.settled()
    assert (settled.applied, settled.in_journal) == (False, True)
    await world.restored(lane)
    assert voids(world.log()) == {second.receipt.seq: "effect_refused"}
    assert not world.database.tables.refused


async def test_a_permission_in_doubt_whose_effect_was_refused_gets_one_void(world):
    lane = await world.start()
    await lane.append(allow()).settled()
    world.database.faults.append(Fault.RAISE_AFTER_COMMIT)
    second = lane.append(allow())
    with pytest.raises(RecordingFailed):
        await second.settled()
    await world.restored(lane)
    assert [found.kind for found in world.log()].count("decision.void") == 1
    assert not world.database.tables.refused


async def test_a_void_that_a_crash_prevented_is_written_by_the_next_stream(world):
    lane = await world.start()
    await lane.append(allow()).settled()
    world.database.faults.extend([None, Fault.HANG])
    second = lane.append(allow())
    await world.until(lambda: world.database.in_flight)
    await world.crash(lane)
    again = await world.start()
    await again.append(denial(9)).settled()
    (void,) = [found for found in world.log() if found.kind == "decision.void_earlier"]
    assert void.members["void"] == {
        "stream": second.receipt.stream,
        "seq": second.receipt.seq,
        "hash": second.receipt.hash,
    }


# --- what can never be recorded --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        allow(members={"price": 1.5}),
        allow(members={"nothing": None}),
        allow(members={"seq": 1}),
        allow(members={"Upper": 1}),
        allow(members={"lone": "\ud800"}),
        allow(kind="Decision"),
        allow(at=AT.replace(tzinfo=None)),
        allow(members={"huge": "x" * (1 << 20)}),
        allow(effect=open_intent(reason_code="NUL \x00")),
        allow(effect=open_intent(status="sideways")),
        allow(effect=open_intent(idempotency_key="k" * 1025)),
        allow(effect=open_intent(request_digest="short")),
        allow(effect=open_intent(envelope={"x": {"y": "\x00"}})),
    ],
)
async def test_what_can_never_be_recorded_is_refused_and_leaves_no_trace(world, entry):
    lane = await world.start()
    with pytest.raises(Unrecordable):
        lane.append(entry)
    await lane.append(denial()).settled()
    assert world.kinds() == ["stream.open", "decision"]


async def test_an_escaped_backslash_before_a_digit_is_no_nul(world):
    lane = await world.start()
    await lane.append(allow(effect=open_intent(envelope={"x": "\\u0000"}))).settled()
    assert world.database.tables.intents["int_1"]["envelope"] == {"x": "\\u0000"}


async def test_before_start_and_after_stop_nothing_is_taken(world):
    journal = Journal(ROOT / "a", disk=world.disk)
    lane = Lane(MemorySink(world.database), journal, SystemClock(), SystemIds(), instance="a", settings=FAST)
    with pytest.raises(RecordingFailed):
        lane.append(denial())
    await lane.start()
    await lane.stop()
    with pytest.raises(RecordingFailed):
        lane.append(denial())


async def test_a_lane_that_is_flooded_refuses_rather_than_grows(world):
    world.settings = LaneSettings(group_rows=4, waiting_rows=4, drain_rows=4)
    lane = await world.start()
    await lane.append(denial(0)).settled()
    taken = [lane.append(denial(n)) for n in range(1, 5)]
    with pytest.raises(RecordingFailed):
        lane.append(denial(5))
    await asyncio.gather(*(pending.settled() for pending in taken))
    await lane.append(denial(6)).settled()


# --- a commit in doubt -----------------------------------------------------------------------------------------------

IN_DOUBT = [Fault.REFUSE, Fault.RAISE_AFTER_COMMIT, Fault.HANG, Fault.HANG_THEN_COMMIT, Fault.REJECT]


@pytest.mark.parametrize("fault", IN_DOUBT)
async def test_a_permission_in_doubt_is_refused_and_voided(world, fault):
    lane = await world.start()
    await lane.append(denial(0)).settled()
    world.database.faults.append(fault)
    pending = lane.append(allow())

    with pytest.raises(RecordingFailed):
        await pending.settled()

    await world.restored(lane)
    log = world.log()
    assert voids(log) == {pending.receipt.seq: "not_released"}
    assert [found.receipt for found in log].count(pending.receipt) == 1
    stored = world.database.tables.intents.get("int_1")
    assert (stored is not None) is (fault in (Fault.RAISE_AFTER_COMMIT, Fault.HANG_THEN_COMMIT))


@pytest.mark.parametrize("fault", IN_DOUBT)
async def test_a_denial_in_doubt_is_released_by_the_journal_and_reaches_the_database_once(world, fault):
    lane = await world.start()
    await lane.append(denial(0)).settled()
    world.database.faults.append(fault)
    pending = lane.append(denial())

    settled = await pending.settled()

    assert settled.in_journal
    await world.restored(lane)
    log = world.log()
    assert [found.receipt for found in log].count(pending.receipt) == 1
    assert voids(log) == {}
    assert world.database.tables.queue["int_1"]["state"] == "waiting"


async def test_a_commit_in_doubt_is_abandoned_and_not_cancelled(world):
    """A driver answers a cancel with a request to the very server that does not answer."""
    lane = await world.start()
    world.database.faults.append(Fault.HANG)
    with pytest.raises(RecordingFailed):
        await lane.append(allow()).settled()
    assert lane._sink.cancelled == 0


async def test_a_denial_does_not_wait_as_long_as_a_permission(world):
    world.settings = LaneSettings(hedge_s=0.01, commit_deadline_s=3600)
    lane = await world.start()
    await lane.append(denial(0)).settled()
    world.database.faults.append(Fault.HANG)
    async with asyncio.timeout(10):
        assert (await lane.append(denial()).settled()).in_journal


async def test_everything_chained_behind_a_commit_in_doubt_keeps_its_place(world):
    lane = await world.start()
    await lane.append(denial(0)).settled()
    world.database.faults.append(Fault.HANG)
    first = lane.append(allow(1))
    await world.until(lambda: world.database.in_flight)
    behind = [lane.append(allow(n) if n % 2 else denial(n)) for n in range(2, 8)]

    answers = await asyncio.gather(*(pending.settled() for pending in [first, *behind]), return_exceptions=True)

    assert [isinstance(answer, RecordingFailed) for answer in answers] == [True, False, True, False, True, False, True]
    await world.restored(lane)
    log = world.log()
    assert voids(log).keys() == {pending.receipt.seq for pending in [first, behind[1], behind[3], behind[5]]}


async def test_a_restart_of_the_database_costs_an_idle_lane_nothing(world):
    lane = await world.start()
    await lane.append(allow(1)).settled()
    heard = []
    lane.on_mode_change = heard.append

    world.database.restart()
    await world.until(lambda: heard == [True, False])

    assert (await lane.append(allow(2)).settled()).applied
    assert lane.counters.in_doubt == 0
    assert voids(world.log()) == {}


async def test_a_database_that_leaves_an_idle_lane_is_noticed_before_anybody_comes(world):
    lane = await world.start()
    await lane.append(allow(1)).settled()
    world.database.up = False
    world.database.restart()
    await world.until(lambda: lane.in_journal)
    assert lane.counters.in_doubt == 0


async def test_an_error_that_nobody_foresaw_ends_the_lane_loudly_and_refuses_everything(world, caplog):
    lane = await world.start()
    await lane.append(allow(1)).settled()
    world.database.up = False

    def unforeseen(*args):
        raise ZeroDivisionError

    world.disk.write = unforeseen
    pending = lane.append(denial(2))

    with pytest.raises(ZeroDivisionError):
        await lane.until_ended()
    with pytest.raises(RecordingFailed):
        await pending.settled()
    with pytest.raises(RecordingFailed):
        lane.append(denial(3))
    assert "ended by itself" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    del world.disk.write
    with pytest.raises(ZeroDivisionError):
        await lane.stop()


async def test_in_journal_mode_a_permission_is_refused_before_it_is_chained(world):
    lane = await world.start()
    world.database.up = False
    assert (await lane.append(denial(1)).settled()).in_journal
    assert (lane.in_journal, lane.accepting_commits) == (True, False)
    chained = lane.counters.chained
    with pytest.raises(RecordingFailed):
        lane.append(allow(2))
    assert lane.counters.chained == chained
    assert (await lane.append(denial(3)).settled()).in_journal


async def test_who_listens_hears_of_both_changes_and_may_append_at_once(world):
    lane = await world.start()
    heard = []

    def listen(in_journal):
        heard.append(in_journal)
        lane.append(denial(90 + len(heard)))

    lane.on_mode_change = listen
    world.database.up = False
    await lane.append(denial(1)).settled()
    world.database.up = True
    await world.restored(lane)
    await lane.append(denial(2)).settled()
    assert heard == [True, False]
    assert len(world.log()) == 5


async def test_a_denial_whose_effect_is_refused_later_is_voided_then(world):
    lane = await world.start()
    await lane.append(denial(1)).settled()
    world.database.up = False
    settled = await lane.append(denial(1)).settled()
    assert settled.applied, "nobody could know better"
    world.database.up = True
    await world.restored(lane)
    await lane.append(denial(2)).settled()
    assert voids(world.log()) == {settled.receipt.seq: "effect_refused"}
    assert not world.database.tables.refused


async def test_the_database_may_leave_again_in_the_middle_of_a_drain(world):
    world.settings = LaneSettings(
        group_rows=4, drain_rows=4, hedge_s=0.02, commit_deadline_s=0.04, reconnect_first_s=0.001
    )
    lane = await world.start()
    world.database.up = False
    pending = [lane.append(denial(n)) for n in range(30)]
    await asyncio.gather(*(one.settled() for one in pending))
    world.database.faults.extend([Fault.RAISE_AFTER_COMMIT, Fault.REFUSE, Fault.HANG, Fault.HANG_THEN_COMMIT] * 2)
    world.database.up = True
    await world.restored(lane)
    assert len(world.log()) == 31
    assert len(world.database.tables.queue) == 30


async def test_a_lane_that_is_never_idle_returns_to_the_database_all_the_same(world):
    lane = await world.start()
    world.database.up = False
    await lane.append(denial(0)).settled()

    async def ask(first):
        for n in range(first, first + 100_000):
            await lane.append(denial(n)).settled()

    busy = [asyncio.create_task(ask(n * 100_000 + 1)) for n in range(4)]
    await world.until(lambda: lane.counters.journalled > 40)
    world.database.up = True
    await world.restored(lane)
    for task in busy:
        task.cancel()
    await asyncio.wait(busy)


async def test_answers_do_not_wait_for_a_drain_that_hangs(world):
    world.settings = LaneSettings(hedge_s=0.01, commit_deadline_s=3600, reconnect_first_s=0.001)
    lane = await world.start()
    world.database.up = False
    await lane.append(denial(1)).settled()
    world.database.faults.append(Fault.HANG)
    world.database.up = True
    await world.until(lambda: world.database.in_flight)
    async with asyncio.timeout(10):
        assert (await lane.append(denial(2)).settled()).in_journal
    await world.crash(lane)


async def test_one_poisoned_effect_does_not_keep_the_journal_from_draining(world):
    lane = await world.start()
    world.database.up = False
    pending = [lane.append(denial(n)) for n in range(5)]
    await asyncio.gather(*(one.settled() for one in pending))
    world.database.rejects.add("int_2")
    world.database.up = True
    await world.restored(lane)
    await lane.append(denial(9)).settled()
    assert world.database.tables.queue.keys() == {"int_0", "int_1", "int_3", "int_4", "int_9"}
    assert voids(world.log()) == {pending[2].receipt.seq: "effect_refused"}


async def test_a_drain_that_only_claims_to_have_stored_is_found_out(world):
    lane = await world.start()
    world.database.up = False
    await lane.append(denial(1)).settled()
    world.database.faults.append(Fault.LIE)
    world.database.up = True
    await world.until(lambda: lane.diverged)
    assert lane.mode is Mode.CLOSED
    assert lane.journal_bytes > 0


async def test_two_histories_close_the_lane_for_good(world):
    lane = await world.start()
    await lane.append(denial(1)).settled()
    world.database.faults.append(Fault.WRONG_HASH)
    await lane.append(denial(2)).settled()
    await world.until(lambda: lane.diverged)
    for entry in (denial(3), allow(4)):
        with pytest.raises(RecordingFailed):
            lane.append(entry)
    assert lane.in_journal
    await world.crash(lane)
    with pytest.raises(Fork):
        await world.start()
    world.lanes.pop()
