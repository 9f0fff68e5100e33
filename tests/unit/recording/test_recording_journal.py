"""The journal keeps what it acknowledged, whatever the disk does, and says so when it cannot."""

from __future__ import annotations

import fcntl
import os
import stat
import zlib
from pathlib import Path

import pytest
from fakes.recording_disk import MemoryDisk, PowerLost

from services.recording import frames
from services.recording.disk import DirectoryLocked, LocalDisk
from services.recording.effects import EncodedEffect
from services.recording.frames import JournalCorrupt, JournalRow
from services.recording.journal import Journal, JournalFull, JournalUnavailable

HERE = Path("/data/journal/a")
SMALL = 1 << 16


def rows(n, *, count=2, pad=0) -> list[JournalRow]:
    return [
        JournalRow(
            body=b'{"n":%d,"pad":"%s"}' % (n * 10 + i, b"x" * pad),
            seal=bytes(range(64)) if i == count - 1 else None,
            released=i % 2 == 0,
            effect=EncodedEffect("open_intent", b'{"a":%d}' % i) if i % 2 == 0 else None,
        )
        for i in range(count)
    ]


def contents(journal) -> list[tuple[JournalRow, ...]]:
    return journal.peek(10_000)


def reopened(disk, max_bytes=SMALL) -> Journal:
    journal = Journal(HERE, max_bytes=max_bytes, disk=disk)
    journal.open()
    return journal


@pytest.fixture
def disk():
    return MemoryDisk()


@pytest.fixture
def journal(disk):
    return reopened(disk)


@pytest.fixture(params=["memory", "local"])
def any_disk(request, tmp_path):
    """Give both disks, so that the fake keeps to what the real one does."""
    return (MemoryDisk(), HERE) if request.param == "memory" else (LocalDisk(), tmp_path / "journal" / "a")


# --- both disks -------------------------------------------------------------------------------------------------------


def test_frames_are_read_back_in_order_before_and_after_a_restart(any_disk):
    disk, where = any_disk
    journal = Journal(where, max_bytes=SMALL, disk=disk)
    journal.open()
    written = [tuple(rows(n)) for n in range(5)]
    for one in written:
        journal.write(one)
    assert contents(journal) == written
    identity = journal.identity
    journal.close()
    again = Journal(where, max_bytes=SMALL, disk=disk)
    again.open()
    assert contents(again) == written
    assert again.identity == identity
    assert again.waiting_bytes > 0
    again.close()


def test_a_second_process_is_kept_out_until_the_first_lets_go(any_disk):
    disk, where = any_disk
    first, second = (Journal(where, max_bytes=SMALL, disk=disk) for _ in range(2))
    first.open()
    with pytest.raises(DirectoryLocked):
        second.open()
    first.close()
    second.open()
    second.close()


def test_what_was_drained_is_gone_for_good(any_disk):
    disk, where = any_disk
    journal = Journal(where, max_bytes=SMALL, disk=disk)
    journal.open()
    for n in range(3):
        journal.write(rows(n))
    journal.drained(2)
    assert contents(journal) == [tuple(rows(2))]
    journal.drained(1)
    assert (journal.empty, journal.waiting_bytes) == (True, 0)
    journal.write(rows(9))
    assert contents(journal) == [tuple(rows(9))]
    journal.drained(1)
    journal.close()
    assert not [name for name in disk.names(where) if name.endswith(".journal")]


def test_an_orphan_is_found_and_one_in_use_is_not(any_disk):
    disk, where = any_disk
    journals = {name: Journal(where.parent / name, max_bytes=SMALL, disk=disk) for name in ("a", "live", "gone", "dry")}
    for journal in journals.values():
        journal.open()
    journals["live"].write(rows(1))
    journals["gone"].write(rows(2))
    for name in ("gone", "dry"):
        journals[name].close()
    (orphan,) = journals["a"].orphans()
    assert contents(orphan) == [tuple(rows(2))]
    assert orphan.identity == journals["gone"].identity
    orphan.drained(1)
    orphan.close()
    assert journals["a"].orphans() == []
    for name in ("a", "live"):
        journals[name].close()


def test_files_are_private_allocated_and_locked(tmp_path):
    where = tmp_path / "journal" / "a"
    journal = Journal(where, max_bytes=SMALL)
    journal.open()
    (file,) = where.glob("*.journal")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(where.stat().st_mode) == 0o700
    assert file.stat().st_size == SMALL // 4
    assert file.stat().st_blocks * 512 >= SMALL // 4
    with (where / "lock").open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    journal.close()


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_full_journal_refuses_and_keeps_what_it_has(journal):
    taken = 0
    while journal.waiting_bytes < SMALL - SMALL // 4:
        try:
            journal.write(rows(taken, pad=2000))
        except JournalFull:
            break
        taken += 1
    with pytest.raises(JournalFull):
        journal.write(rows(taken, pad=6000))
    assert len(contents(journal)) == taken > 5
    journal.drained(taken)
    journal.write(rows(1))
    assert contents(journal) == [tuple(rows(1))]


def test_a_frame_larger_than_a_file_gets_one_of_its_own_size(journal):
    journal.write(rows(1, pad=12_000))
    assert contents(journal) == [tuple(rows(1, pad=12_000))]
    with pytest.raises(JournalFull):
        journal.write(rows(2, pad=SMALL))


def test_a_peek_is_bounded_and_never_empty_while_something_waits(journal):
    for n in range(4):
        journal.write(rows(n))
    assert len(journal.peek(1)) == 1
    assert len(journal.peek(5)) == 2
    assert journal.peek(5, skip=3) == [tuple(rows(3))]
    assert journal.peek(5, skip=4) == []


def test_nothing_is_drained_twice(journal):
    journal.write(rows(1))
    with pytest.raises(ValueError, match="more frames"):
        journal.drained(2)


# --- the disk fails ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["fail_sync", "fail_write"])
def test_a_file_that_failed_once_is_never_written_to_again(disk, journal, fault):
    journal.write(rows(1))
    (first,) = [path for path in disk.files if path.suffix == ".journal"]
    setattr(disk, fault, 1)
    journal.write(rows(2))
    before = bytes(disk.files[first].cached)
    journal.write(rows(3))
    assert disk.files[first].cached == before
    assert contents(journal) == [tuple(rows(n)) for n in (1, 2, 3)]


@pytest.mark.parametrize("fault", ["fail_sync", "fail_write"])
def test_when_the_new_file_fails_too_nothing_counts(disk, journal, fault):
    journal.write(rows(1))
    setattr(disk, fault, 4)
    with pytest.raises(JournalUnavailable):
        journal.write(rows(2))
    setattr(disk, fault, 0)
    assert contents(journal) == [tuple(rows(1))]
    failed = {path: bytes(file.cached) for path, file in disk.files.items()}
    journal.write(rows(3))
    assert all(path not in disk.files or disk.files[path].cached == before for path, before in failed.items())
    disk.crash()
    assert contents(reopened(disk)) == [tuple(rows(1)), tuple(rows(3))]


def test_a_new_file_that_fails_on_its_first_frame_is_given_up_as_well(disk, journal):
    sync = disk.sync

    def fail_on_frames(handle):
        written = disk.files[disk._handles[handle]].pending
        disk.fail_sync = int(any(offset >= frames.FILE_HEADER.size for offset, _ in written))
        sync(handle)

    disk.sync = fail_on_frames
    with pytest.raises(JournalUnavailable):
        journal.write(rows(1))
    disk.sync = sync
    failed = {path: bytes(file.cached) for path, file in disk.files.items()}
    journal.write(rows(2))
    assert all(path not in disk.files or disk.files[path].cached == before for path, before in failed.items())
    assert contents(journal) == [tuple(rows(2))]


def test_files_that_failed_take_no_room_however_long_the_disk_fails(disk, journal):
    """Otherwise a disk that fails for half a minute would leave the journal full of nothing until the next start."""
    journal.write(rows(1))
    disk.fail_sync = 1_000
    for _ in range(50):
        with pytest.raises(JournalUnavailable):
            journal.write(rows(2))
    disk.fail_sync = 0
    journal.write(rows(2))
    assert contents(journal) == [tuple(rows(1)), tuple(rows(2))]
    assert len([path for path in disk.files if path.suffix == ".journal"]) == 2


@pytest.mark.parametrize("files_that_fail", [1, 2])
def test_a_frame_that_its_disk_kept_although_it_said_no_is_superseded_by_what_was_written_then(disk, files_that_fail):
    """Its callers were refused by the later one; the earlier one must not bring the permission back."""
    journal = reopened(disk)
    journal.write(rows(1))
    sync, write, failures = disk.sync, disk.write, []

    def kept_and_denied(handle):
        sync(handle)
        if len(failures) < files_that_fail:
            failures.append(handle)
            raise OSError(5, "Input/output error")

    def no_second_thoughts(handle, data, offset):
        if handle in failures:
            raise OSError(5, "Input/output error")
        write(handle, data, offset)

    disk.sync, disk.write = kept_and_denied, no_second_thoughts
    refused = [JournalRow(body=row.body, seal=row.seal, released=False) for row in rows(2)]
    if files_that_fail == 1:
        journal.write(refused)
    else:
        with pytest.raises(JournalUnavailable):
            journal.write(rows(2))
        journal.write(refused)
    journal.write(rows(3))
    disk.sync, disk.write = sync, write
    disk.crash(power=True)
    again = reopened(disk)
    assert contents(again) == [tuple(rows(1)), tuple(refused), tuple(rows(3))]
    assert again.waiting_bytes == sum(len(frames.encode(frame)) for frame in contents(again))


def test_journals_that_cannot_be_listed_are_not_taken_for_none(disk, journal):
    def cannot(directory):
        raise OSError(5, "Input/output error")

    disk.names = cannot
    with pytest.raises(JournalUnavailable, match="cannot be listed"):
        journal.orphans()


def test_a_full_disk_does_not_matter_while_there_is_an_allocated_file(disk, journal):
    disk.full = True
    journal.write(rows(1))
    disk.fail_sync = 1
    with pytest.raises(JournalUnavailable):
        journal.write(rows(2))
    disk.full = False
    journal.write(rows(3))
    assert contents(journal) == [tuple(rows(1)), tuple(rows(3))]


def test_a_full_disk_at_the_start_is_a_trouble_only_when_the_journal_is_needed(disk):
    disk.create(HERE / "identity", 32)
    disk.write(3, b"a" * 32, 0)
    disk.full = True
    journal = reopened(disk)
    with pytest.raises(JournalUnavailable):
        journal.write(rows(1))
    disk.full = False
    journal.write(rows(1))


def test_a_disk_that_does_not_answer_stops_the_opening(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(JournalUnavailable):
        Journal(tmp_path / "file" / "a", max_bytes=SMALL).open()


# --- power loss -------------------------------------------------------------------------------------------------------


def test_a_crash_at_any_byte_of_a_write_loses_nothing_that_was_acknowledged():
    """The last write is cut after every number of bytes; what was acknowledged before it is read back whole."""
    size = len(frames.encode(rows(3)))
    for cut in range(size):
        disk = MemoryDisk()
        journal = reopened(disk)
        for n in range(3):
            journal.write(rows(n))
        disk.cut_after = cut
        with pytest.raises(PowerLost):
            journal.write(rows(3))
        disk.crash()
        again = reopened(disk)
        assert contents(again) == [tuple(rows(n)) for n in range(3)], cut
        again.write(rows(4))
        disk.crash(power=True)
        assert contents(reopened(disk))[-1] == tuple(rows(4)), cut


@pytest.mark.parametrize("mark_kept", [True, False])
@pytest.mark.parametrize("kept", ["the start", "the end"])
def test_a_power_loss_that_keeps_any_part_of_the_last_write_loses_nothing_acknowledged(mark_kept, kept):
    size = len(frames.encode(rows(3, pad=1500)))
    for page in range(0, size + 512, 512):

        def keep(offset, data, page=page):
            if offset < frames.FILE_HEADER.size:
                return data if mark_kept else b""
            return data[:page] if kept == "the start" else bytes(min(page, len(data))) + data[page:]

        disk = MemoryDisk()
        journal = reopened(disk)
        for n in range(3):
            journal.write(rows(n))
        disk.plug_pulled_in_sync = True
        with pytest.raises(PowerLost):
            journal.write(rows(3, pad=1500))
        disk.crash(power=True, keep=keep)
        found = contents(reopened(disk))
        assert found[:3] == [tuple(rows(n)) for n in range(3)], page
        assert found[3:] in ([], [tuple(rows(3, pad=1500))]), page


def test_a_file_that_ends_before_what_was_acknowledged_is_an_alarm(tmp_path):
    """The mark says how far the file was acknowledged: losing that is damage, not a torn tail."""
    where = tmp_path / "a"
    journal = Journal(where, max_bytes=SMALL)
    journal.open()
    for n in range(3):
        journal.write(rows(n))
    journal.close()
    (file,) = where.glob("*.journal")
    whole = file.read_bytes()
    end = frames.FILE_HEADER.size + sum(len(frames.encode(rows(n))) for n in range(3))
    for length in range(1, end):
        os.truncate(file, length)
        with pytest.raises(JournalCorrupt):
            Journal(where, max_bytes=SMALL).open()
        file.write_bytes(whole)
    os.truncate(file, end)
    again = Journal(where, max_bytes=SMALL)
    again.open()
    assert len(contents(again)) == 3
    again.close()


def test_every_flipped_bit_of_what_was_acknowledged_is_an_alarm(disk, journal):
    for n in range(2):
        journal.write(rows(n))
    disk.crash(power=True)
    (path,) = [path for path in disk.files if path.suffix == ".journal"]
    whole = bytes(disk.files[path].cached)
    end = frames.FILE_HEADER.size + sum(len(frames.encode(rows(n))) for n in range(2))
    for offset in range(frames.FILE_HEADER.size, end):
        for bit in (1, 128):
            damaged = bytearray(whole)
            damaged[offset] ^= bit
            with pytest.raises(JournalCorrupt):
                _strictly(damaged, end)


def _strictly(data, end):
    """Scan as after an orderly stop, when the mark covers everything."""
    data[frames.MARK_OFFSET : frames.FILE_HEADER.size] = end.to_bytes(8, "little")
    frames.scan(bytes(data))


def test_a_changed_last_frame_is_an_alarm_even_without_its_mark(disk, journal):
    """A torn frame has holes where the disk wrote nothing; a changed one has none."""
    journal.write(rows(1))
    (path,) = [path for path in disk.files if path.suffix == ".journal"]
    data = disk.files[path].cached
    data[frames.MARK_OFFSET : frames.FILE_HEADER.size] = frames.FILE_HEADER.size.to_bytes(8, "little")
    data[frames.FILE_HEADER.size + frames.FRAME_HEADER.size + 20] ^= 1
    disk.crash()
    with pytest.raises(JournalCorrupt):
        reopened(disk)


def test_damage_while_the_process_runs_is_found_when_it_is_read(disk, journal):
    journal.write(rows(1))
    (path,) = [path for path in disk.files if path.suffix == ".journal"]
    disk.files[path].cached[60] ^= 1
    with pytest.raises(JournalCorrupt):
        contents(journal)


def test_a_file_whose_making_was_cut_short_holds_nothing_and_stops_nobody(disk):
    for cut in range(frames.FILE_HEADER.size):
        disk = MemoryDisk()
        disk.lock(HERE)
        handle = disk.create(HERE / "00000001.journal", 1024)
        disk.write(handle, frames.MAGIC[:cut], 0)
        disk.crash()
        journal = reopened(disk)
        assert journal.empty
        journal.write(rows(1))
        assert contents(journal) == [tuple(rows(1))]


def test_a_file_that_is_no_journal_is_an_alarm(disk):
    handle = disk.create(HERE / "00000001.journal", 1024)
    disk.write(handle, b"something else entirely, and long", 0)
    with pytest.raises(JournalCorrupt):
        reopened(disk)


def test_an_identity_whose_making_was_cut_short_is_made_again(disk):
    disk.create(HERE / "identity", 32)
    assert len(reopened(disk).identity) == 32


@pytest.mark.parametrize(
    "payload",
    [
        b"not json\n\n{}",
        b'{"released":1}\n\n{}',
        b'{"released":true,"op":"x"}\n\n{}',
        b'{"released":true}\n\n{}\n',
        b"{}\n\n{}",
    ],
)
def test_a_frame_that_holds_no_records_is_an_alarm(payload):
    header = len(payload).to_bytes(4, "little")
    frame = header + zlib.crc32(payload, zlib.crc32(header)).to_bytes(4, "little") + payload
    with pytest.raises(JournalCorrupt):
        frames.decode(frame)


def test_a_journal_that_holds_nothing_is_refused():
    with pytest.raises(ValueError, match="holds nothing"):
        Journal(HERE, max_bytes=100)
