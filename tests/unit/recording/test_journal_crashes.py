"""A crash at any operation, or damage at any byte: what was acknowledged is there, or there is an alarm."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes.recording_disk import MemoryDisk, PowerLost
from fakes.recording_plug import LEFT, PluggedDisk

from services.recording import frames
from services.recording.frames import JournalCorrupt, JournalRow
from services.recording.journal import Journal

HERE = Path("/data/journal/a")
SMALL = 1 << 16

Frame = tuple[JournalRow, ...]


def frame(n: int, pad: int = 3_000) -> Frame:
    return tuple(JournalRow(body=b'{"n":%d,"i":%d,"pad":"%s"}' % (n, i, b"x" * pad), seal=None) for i in (0, 1))


@dataclass
class Life:
    """One process's use of its journal, and what it was told."""

    disk: MemoryDisk
    acknowledged: list[Frame] = field(default_factory=list)
    drained: int = 0
    under_way: Frame | None = None
    pad: int = 3_000

    def live(self) -> None:
        """Write over several files, drain in between, drain all, write again, close."""
        journal = Journal(HERE, max_bytes=SMALL, disk=self.disk)
        journal.open()
        for n in range(9):
            self.write(journal, n)
            if n in (3, 6):
                self.drain(journal, n - 1)
        self.drain(journal, len(self.acknowledged) - self.drained)
        self.write(journal, 9)
        journal.close()

    def write(self, journal: Journal, n: int) -> None:
        self.under_way = frame(n, self.pad)
        journal.write(self.under_way)
        self.acknowledged.append(self.under_way)
        self.under_way = None

    def drain(self, journal: Journal, count: int) -> None:
        assert journal.peek(10_000)[:count] == self.acknowledged[self.drained : self.drained + count]
        self.drained += count  # from here on PostgreSQL has them, and they may be gone or not
        journal.drained(count)

    def check(self) -> None:
        """Look at what the next process finds."""
        journal = Journal(HERE, max_bytes=SMALL, disk=self.disk)
        journal.open()
        found = journal.peek(10_000)
        if self.under_way is not None and found and found[-1] == self.under_way:
            found.pop()  # it may be found or not, since nobody was told
        missing = len(self.acknowledged) - len(found)
        assert found == self.acknowledged[missing:], "in order, nothing between, nothing invented"
        assert missing <= self.drained, "what was acknowledged is lost"
        journal.write(frame(100))
        journal.close()
        self.disk.crash(power=True, keep=LEFT["nothing"])
        again = Journal(HERE, max_bytes=SMALL, disk=self.disk)
        again.open()
        assert again.peek(10_000)[-1] == frame(100), "it goes on"
        again.close()


def operations() -> int:
    disk = PluggedDisk()
    Life(disk).live()
    return disk.done


def test_the_life_touches_every_part_of_the_journal():
    """Otherwise what follows would show little."""
    disk = PluggedDisk()
    removed, remove = [], disk.remove
    disk.remove = lambda path: (removed.append(path), remove(path))
    Life(disk).live()
    assert len([path for path in removed if path.suffix == ".journal"]) > 3
    assert operations() > 50


@pytest.mark.parametrize("left", [None, *LEFT])
@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_a_crash_at_any_operation_loses_nothing_acknowledged_and_invents_nothing(when, left):
    for at in range(operations()):
        life = Life(PluggedDisk(at, when))
        with pytest.raises(PowerLost):
            life.live()
        if left is None:
            life.disk.crash()
        else:
            life.disk.crash(power=True, keep=LEFT[left])
        life.check()


def written() -> tuple[MemoryDisk, Path, list[Frame]]:
    """Return a disk with one file of three small frames, as a process leaves it that ends without a word."""
    disk = MemoryDisk()
    journal = Journal(HERE, max_bytes=SMALL, disk=disk)
    journal.open()
    life = Life(disk, pad=5)
    for n in range(3):
        life.write(journal, n)
    (path,) = [path for path in disk.files if path.suffix == ".journal"]
    disk.crash()
    return disk, path, life.acknowledged


def finds_all_or_alarms(data: bytes, expected: list[Frame]) -> bool:
    with contextlib.suppress(JournalCorrupt):
        found = [frames.decode(data[extent.offset : extent.offset + extent.size]) for extent in frames.scan(data)]
        assert found == expected, "neither lost nor changed nor invented without a word"
        return True
    return False


@pytest.mark.parametrize("change", [lambda byte: 0, lambda byte: 0xFF, lambda byte: byte ^ 1, lambda byte: byte ^ 0x80])
def test_any_byte_that_is_changed_is_an_alarm_or_makes_no_difference(change):
    disk, path, expected = written()
    whole = bytes(disk.files[path].cached)
    end = frames.FILE_HEADER.size + sum(len(frames.encode(one)) for one in expected)
    harmless = 0
    for offset in range(end):
        damaged = bytearray(whole)
        damaged[offset] = change(whole[offset])
        harmless += finds_all_or_alarms(bytes(damaged), expected) and bytes(damaged) != whole
    assert harmless <= frames.FILE_HEADER.size, "only the mark may be lower than it was"


def test_a_file_that_is_cut_anywhere_is_an_alarm_unless_only_room_is_missing():
    disk, path, expected = written()
    whole = bytes(disk.files[path].cached)
    end = frames.FILE_HEADER.size + sum(len(frames.encode(one)) for one in expected)
    for length in range(1, end + 100):
        assert finds_all_or_alarms(whole[:length], expected) == (length >= end)


def test_a_frame_that_is_moved_or_repeated_is_found_as_it_stands_and_never_taken_for_another():
    """Order and uniqueness are the chain's to prove; the journal hands on what it holds, whole."""
    disk, path, expected = written()
    data = disk.files[path].cached
    spans = [(extent.offset, extent.size) for extent in frames.scan(bytes(data))]
    (first, size), (second, _), _ = spans
    data[first : first + size], data[second : second + size] = data[second : second + size], data[first : first + size]
    journal = Journal(HERE, max_bytes=SMALL, disk=disk)
    journal.open()
    assert journal.peek(10) == [expected[1], expected[0], expected[2]]
