"""A process that writes journals on a real disk and ends without a word, or whose disk takes no more.

    python journal_process.py crash DIR      end a child at every operation of its disk, and look at what it left
    python journal_process.py limit DIR      a limit on the size of files is reached, then lifted
    python journal_process.py full DIR       the file system is full, then there is room (DIR is a small one)
    python journal_process.py closed DIR     the directory takes no new files, then it does

Prints `ok` and what it saw. Anything else is a failure.
"""

from __future__ import annotations

import os
import resource
import stat
import sys
from pathlib import Path

from services.recording.disk import LocalDisk
from services.recording.frames import JournalRow
from services.recording.journal import Journal, JournalUnavailable

BOUND = 1 << 16
CRASHED = 9
NOBODY = 65534


class EndingDisk(LocalDisk):
    """Ends the process at operation `at`, before or after it."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.left, self.after = at, after

    def _operate(self, operation):
        self.left -= 1
        if self.left < 0 and not self.after:
            os._exit(CRASHED)
        result = operation()
        if self.left < 0:
            os._exit(CRASHED)
        return result

    def create(self, path, size):
        return self._operate(lambda: super(EndingDisk, self).create(path, size))

    def write(self, handle, data, offset):
        return self._operate(lambda: super(EndingDisk, self).write(handle, data, offset))

    def sync(self, handle):
        return self._operate(lambda: super(EndingDisk, self).sync(handle))

    def remove(self, path):
        return self._operate(lambda: super(EndingDisk, self).remove(path))


def rows(n: int) -> tuple[JournalRow, ...]:
    return tuple(JournalRow(body=b'{"n":%d,"i":%d,"pad":"%s"}' % (n, i, b"x" * 3000)) for i in (0, 1))


def live(journal: Journal, say) -> None:
    journal.open()
    for n in range(7):
        journal.write(rows(n))
        say(b"w")
        if n == 4:
            say(b"d" * 3)  # drained from here on, whether it is forgotten or not
            journal.drained(3)
    journal.close()


def crash(directory: Path) -> str:
    for after in (False, True):
        at, ended = 0, CRASHED
        while ended == CRASHED:
            here = directory / f"{after}-{at}"
            told, tell = os.pipe()
            child = os.fork()
            if child == 0:
                live(
                    Journal(here, max_bytes=BOUND, disk=EndingDisk(at, after=after)),
                    lambda what, tell=tell: os.write(tell, what),
                )
                os._exit(0)
            os.close(tell)
            said = b""
            while piece := os.read(told, 1024):
                said += piece
            os.close(told)
            ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            _look(here, written=said.count(b"w"), drained=said.count(b"d"))
            at += 1
    return f"{at} operations"


def _look(here: Path, *, written: int, drained: int) -> None:
    journal = Journal(here, max_bytes=BOUND)
    journal.open()
    found = journal.peek(1000)
    attempted = [rows(n) for n in range(written + 1)]
    if found and found[-1] == attempted[-1]:
        found.pop()
    expected = attempted[:-1]
    missing = len(expected) - len(found)
    require(found == expected[missing:], f"{here.name}: neither lost nor invented nor out of order")
    require(missing <= drained, f"{here.name}: {missing} are missing, {drained} were drained")
    journal.close()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in here.iterdir()}
    require(modes <= {0o600}, f"{here.name}: every file is private, not {modes}")


def limit(directory: Path) -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    return _until_it_takes_no_more(
        directory,
        close=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard)),
        reopen=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)),
    )


def full(directory: Path) -> str:
    ballast = directory / "ballast"

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    return _until_it_takes_no_more(directory / "journal", close=fill, reopen=ballast.unlink)


def closed(directory: Path) -> str:
    if os.geteuid() == 0:  # who root is, no mode keeps out
        os.chown(directory, NOBODY, NOBODY)
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    here = directory / "journal"
    return _until_it_takes_no_more(here, close=lambda: here.chmod(0o500), reopen=lambda: here.chmod(0o700))


def _until_it_takes_no_more(here: Path, *, close, reopen) -> str:
    journal = Journal(here, max_bytes=1 << 20)
    journal.open()
    journal.write(rows(0))
    close()
    written = 1
    try:
        while written < 1000:
            journal.write(rows(written))
            written += 1
    except JournalUnavailable as error:
        why = str(error)
    else:
        raise SystemExit("it took everything")
    for _ in range(40):  # whoever waits tries again and again
        try:
            journal.write(rows(written))
        except JournalUnavailable:
            continue
        raise SystemExit("it took one more")
    reopen()
    journal.write(rows(written))
    expected = [rows(n) for n in range(written + 1)]
    require(journal.peek(10_000) == expected, "everything acknowledged is there, in order, once")
    journal.close()
    again = Journal(here, max_bytes=1 << 20)
    again.open()
    require(again.peek(10_000) == expected, "and after a restart")
    again.drained(len(expected))
    again.close()
    require(not list(here.glob("*.journal")), "no file is left once it is drained")
    return f"{written} frames, then: {why}"


def require(holds: bool, what: str) -> None:  # noqa: FBT001 - a sentence follows
    if not holds:
        raise SystemExit(what)


if __name__ == "__main__":
    print("ok", {"crash": crash, "limit": limit, "full": full, "closed": closed}[sys.argv[1]](Path(sys.argv[2])))  # noqa: T201
