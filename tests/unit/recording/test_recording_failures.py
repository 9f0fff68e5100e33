"""What a lane promises when the journal fails as well, when its process dies, and when another takes over."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fakes.recording import Fault
from fakes.recording_world import FAST, ROOT, allow, denial, voids

from services.ports import RecordingFailed
from services.recording.disk import DirectoryLocked
from services.recording.frames import JournalCorrupt
from services.recording.lane import LaneSettings, Mode

# --- a journal that fails --------------------------------------------------------------------------------------------


async def test_with_neither_database_nor_journal_everything_is_refused(world):
    lane = await world.start()
    await lane.append(denial(0)).settled()
    world.database.up = False
    world.disk.fail_sync, world.disk.full = 1, True
    pending = lane.append(denial(1))
    with pytest.raises(RecordingFailed):
        await pending.settled()
    assert lane.mode is Mode.CLOSED
    with pytest.raises(RecordingFailed):
        lane.append(denial(2))

    world.disk.full = False
    await world.until(lambda: lane.mode is Mode.JOURNAL)
    assert (await lane.append(denial(3)).settled()).in_journal
    world.database.up = True
    await world.restored(lane)
    await lane.append(denial(4)).settled()
    assert voids(world.log()) == {pending.receipt.seq: "not_released"}
    assert "int_1" not in world.database.tables.queue, "its caller was refused"


async def test_a_refused_effect_whose_void_no_place_takes_is_an_answer_to_nobody(world):
    lane = await world.start()
    await lane.append(allow()).settled()
    world.database.faults.extend([None, Fault.REFUSE])
    world.disk.fail_sync, world.disk.full = 1, True
    second = lane.append(allow())
    with pytest.raises(RecordingFailed):
        await second.settled()
    world.disk.full = False
    await world.restored(lane)
    assert voids(world.log()) == {second.receipt.seq: "effect_refused"}


async def test_a_database_that_returns_first_takes_what_no_journal_took(world):
    lane = await world.start()
    await lane.append(denial(0)).settled()
    world.database.up = False
    world.disk.fail_sync, world.disk.full = 1, True
    pending = [lane.append(denial(1)), lane.append(allow(2))]
    for one in pending:
        with pytest.raises(RecordingFailed):
            await one.settled()
    world.database.up = True
    await world.restored(lane)
    await lane.append(denial(4)).settled()
    assert voids(world.log()).keys() == {one.receipt.seq for one in pending}


async def test_a_crash_between_two_records_that_are_stored_alone_leaves_a_sealed_tail(world):
    """No journal holds them, so nobody could seal them later; an auditor would take the tail for forged."""
    lane = await world.start()
    world.database.faults.extend([Fault.REJECT, Fault.REJECT, None, None, Fault.HANG])
    world.disk.fail_sync, world.disk.full = 1, True
    for pending in [lane.append(allow(n)) for n in (1, 2)]:
        with pytest.raises(RecordingFailed):
            await pending.settled()
    await world.until(lambda: world.database.in_flight)
    await world.crash(lane, power=True)
    world.disk.full = False

    again = await world.start()
    await again.append(allow(3)).settled()

    assert world.kinds()[:2] == ["stream.open", "decision"]


async def test_what_waited_while_the_lane_closed_hears_of_its_refused_effect(world):
    world.settings = replace(FAST, journal_retry_s=3600)
    lane = await world.start()
    await lane.append(denial(1)).settled()
    late, loop, sync = [], asyncio.get_running_loop(), world.disk.sync

    async def append():
        late.append(lane.append(denial(1)))

    def sync_while_another_is_chained(handle):
        asyncio.run_coroutine_threadsafe(append(), loop).result()
        sync(handle)

    world.disk.sync = sync_while_another_is_chained
    world.database.up = False
    world.disk.fail_sync, world.disk.full = 1, True
    with pytest.raises(RecordingFailed):
        await lane.append(denial(2)).settled()
    world.disk.sync = sync
    world.database.up = True

    settled = await late[0].settled()

    assert (settled.applied, settled.in_journal) == (False, False)
    await world.restored(lane)
    assert voids(world.log())[settled.receipt.seq] == "effect_refused"


async def test_a_drain_that_starts_over_voids_nothing_twice(world):
    world.settings = replace(FAST, group_rows=2, drain_rows=2)
    lane = await world.start()
    await lane.append(denial(1)).settled()
    world.database.up = False
    pending = [lane.append(denial(n)) for n in (1, 2, 3, 4, 5)]
    for one in pending:
        await one.settled()
    world.database.faults.extend([None, Fault.REFUSE])
    world.database.up = True
    await world.restored(lane)
    await lane.append(denial(6)).settled()
    assert voids(world.log()) == {pending[0].receipt.seq: "effect_refused"}
    assert world.kinds().count("decision.void") == 1


async def test_a_failed_fsync_moves_on_to_a_new_file_and_loses_nothing(world):
    lane = await world.start()
    world.database.up = False
    await lane.append(denial(1)).settled()
    world.disk.fail_sync = 1
    await lane.append(denial(2)).settled()
    await lane.append(denial(3)).settled()
    await world.crash(lane, power=True)
    world.database.up = True
    again = await world.start()
    await again.append(denial(4)).settled()
    assert world.database.tables.queue.keys() == {"int_1", "int_2", "int_3", "int_4"}


async def test_a_full_journal_refuses_and_is_usable_again_once_drained(world):
    lane = await world.start()
    world.database.up = False
    big = {"pad": "x" * 100_000}
    answers = [
        await asyncio.gather(lane.append(denial(n, members=big)).settled(), return_exceptions=True)
        for n in range(20)
        if lane.mode is not Mode.CLOSED
    ]
    assert [type(answer) for (answer,) in answers].count(RecordingFailed) == 1
    assert 5 < len(answers) < 12
    world.database.up = True
    await world.restored(lane)
    world.database.up = False
    assert (await lane.append(denial(200)).settled()).in_journal


# --- crashes and starts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [False, True])
async def test_what_a_crash_left_in_the_journal_is_drained_by_the_next_start(world, power):
    lane = await world.start()
    await lane.append(denial(0)).settled()
    world.database.up = False
    settled = await lane.append(denial(1)).settled()
    await world.crash(lane, power=power)
    world.database.up = True

    again = await world.start()
    await again.append(denial(2)).settled()

    log = world.log()
    opened = [found for found in log if found.kind == "stream.open"][1]
    assert opened.members["predecessor"]["seq"] == settled.receipt.seq
    assert opened.members["predecessor"]["hash"] == settled.receipt.hash
    assert settled.receipt in [found.receipt for found in log]
    assert again.journal_bytes == 0


async def test_a_start_without_a_database_records_to_the_journal_and_adopts_its_past_later(world):
    lane = await world.start()
    await lane.append(denial(0)).settled()
    await world.crash(lane)
    world.database.up = False

    again = await world.start()
    assert (await again.append(denial(1)).settled()).in_journal
    with pytest.raises(RecordingFailed):
        again.append(allow(2))
    world.database.up = True
    await world.restored(again)
    await again.append(allow(3)).settled()

    log = world.log()
    (adopted,) = [found for found in log if found.kind == "stream.takes_over"]
    last = [found for found in log if found.stream != adopted.stream][-1]
    assert adopted.members["predecessor"] == {"stream": last.stream, "seq": last.seq, "hash": last.hash}


async def test_a_start_without_a_database_on_a_journal_that_holds_records_names_its_tail(world):
    lane = await world.start()
    await lane.append(denial(0)).settled()
    world.database.up = False
    settled = await lane.append(denial(1)).settled()
    await world.crash(lane)
    again = await world.start()
    await again.append(denial(2)).settled()
    world.database.up = True
    await world.restored(again)
    await again.append(allow(3)).settled()
    log = world.log()
    opened = [found for found in log if found.kind == "stream.open"][1]
    assert opened.members["predecessor"]["hash"] == settled.receipt.hash
    assert "stream.takes_over" not in [found.kind for found in log]


async def test_the_journal_of_a_pod_that_is_gone_is_drained_and_adopted(world):
    gone = await world.start("gone")
    world.database.up = False
    settled = await gone.append(denial(1)).settled()
    await world.crash(gone)
    world.database.up = True

    lane = await world.start("here")
    await lane.append(denial(2)).settled()

    log = world.log()
    (adopted,) = [found for found in log if found.kind == "stream.takes_over"]
    assert adopted.members["predecessor"]["hash"] == settled.receipt.hash
    assert settled.receipt in [found.receipt for found in log]
    await world.until(lambda: not lane._past._orphans)
    assert not [name for name in world.disk.names(ROOT / "gone") if name.endswith(".journal")]


async def test_a_commit_that_a_gone_pod_left_hanging_is_fenced_before_its_journal_is_drained(world):
    gone = await world.start("gone")
    await gone.append(denial(0)).settled()
    world.database.up = False
    await gone.append(denial(1)).settled()
    world.database.faults.append(Fault.HANG)
    world.database.up = True
    await world.until(lambda: world.database.in_flight)
    await world.crash(gone)
    assert world.database.in_flight
    lane = await world.start("here")
    assert not world.database.in_flight
    await lane.append(denial(2)).settled()
    assert world.database.tables.queue.keys() == {"int_0", "int_1", "int_2"}


async def test_the_journal_of_a_pod_that_lives_is_left_alone(world):
    other = await world.start("other")
    world.database.up = False
    await other.append(denial(1)).settled()
    world.database.up = True
    lane = await world.start("here")
    await lane.append(denial(2)).settled()
    await world.restored(other)
    await other.append(denial(3)).settled()
    assert "stream.takes_over" not in world.kinds()


async def test_two_processes_never_share_a_journal(world):
    await world.start()
    with pytest.raises(DirectoryLocked):
        await world.start()
    world.lanes.pop()


async def test_a_damaged_journal_stops_the_start(world):
    lane = await world.start()
    world.database.up = False
    await lane.append(denial(1)).settled()
    await lane.append(denial(2)).settled()
    await world.crash(lane)
    (path,) = [path for path in world.disk.files if path.suffix == ".journal"]
    world.disk.files[path].cached[100] ^= 1
    world.database.up = True
    with pytest.raises(JournalCorrupt):
        await world.start()
    world.lanes.pop()


async def test_a_clean_stop_in_journal_mode_leaves_everything_for_the_next_start(world):
    lane = await world.start()
    world.database.up = False
    await lane.append(denial(1)).settled()
    await lane.stop()
    world.database.up = True
    again = await world.start()
    await again.append(denial(2)).settled()
    assert world.kinds() == ["stream.open", "decision", "stream.close", "stream.open", "decision"]


async def test_a_clean_stop_leaves_no_journal_file(world):
    lane = await world.start()
    await lane.append(denial(1)).settled()
    await lane.stop()
    assert not [path for path in world.disk.files if path.suffix == ".journal"]


async def test_a_stop_settles_everything_that_was_chained(world):
    lane = await world.start()
    pending = [lane.append(allow(n)) for n in range(20)]
    await lane.stop()
    for one in pending:
        assert (await one.settled()).applied


async def test_a_stop_while_a_commit_hangs_is_bounded(world):
    lane = await world.start()
    await lane.append(denial(0)).settled()
    world.database.faults.append(Fault.HANG)
    world.database.up = True
    pending = lane.append(allow(1))
    await world.until(lambda: world.database.in_flight)
    world.database.up = False
    async with asyncio.timeout(10):
        await lane.stop()
    with pytest.raises(RecordingFailed):
        await pending.settled()


@pytest.mark.parametrize(
    "changes", [{"hedge_s": 0}, {"hedge_s": 3.0}, {"group_rows": 0}, {"group_rows": 9000}, {"journal_retry_s": 0}]
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValueError, match=r"[a-z]"):
        LaneSettings(**changes)
