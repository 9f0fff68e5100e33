"""A disk in memory that loses power, fills up, and fails its fsync."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from services.recording.disk import DirectoryLocked


class PowerLost(BaseException):
    """The plug was pulled in the middle of a write: nothing after this line runs."""


@dataclass
class _File:
    durable: bytearray
    cached: bytearray
    pending: list[tuple[int, bytes]] = field(default_factory=list)  # written, not synced


class MemoryDisk:
    """The Disk port in memory. `crash` ends the process; with `keep` it decides what the cache saved before."""

    def __init__(self) -> None:
        self.files: dict[Path, _File] = {}
        self.locks: set[Path] = set()
        self._handles: dict[int, Path] = {}
        self._numbers = itertools.count(3)
        self.fail_sync = 0
        self.fail_write = 0
        self.full = False
        self.cut_after: int | None = None  # bytes until the plug is pulled
        self.plug_pulled_in_sync = False

    def lock(self, directory: Path) -> int:
        if directory in self.locks:
            raise DirectoryLocked(str(directory))
        self.locks.add(directory)
        handle = next(self._numbers)
        self._handles[handle] = directory
        return handle

    def names(self, directory: Path) -> list[str]:
        below = [path.relative_to(directory) for path in self.files if path.is_relative_to(directory)]
        return sorted({path.parts[0] for path in below})

    def create(self, path: Path, size: int) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        if path in self.files:
            raise FileExistsError(17, "File exists")
        self.files[path] = _File(bytearray(size), bytearray(size))
        handle = next(self._numbers)
        self._handles[handle] = path
        return handle

    def write(self, handle: int, data: bytes, offset: int) -> None:
        if self.fail_write:
            self.fail_write -= 1
            raise OSError(5, "Input/output error")
        file = self.files[self._handles[handle]]
        cut = self.cut_after is not None and self.cut_after < len(data)
        part = data[: self.cut_after] if cut else data
        if self.cut_after is not None:
            self.cut_after -= len(part)
        assert offset + len(data) <= len(file.cached), "a file never grows"
        file.cached[offset : offset + len(part)] = part
        file.pending.append((offset, bytes(part)))
        if cut:
            raise PowerLost

    def sync(self, handle: int) -> None:
        if self.plug_pulled_in_sync:
            raise PowerLost
        file = self.files[self._handles[handle]]
        if self.fail_sync:
            self.fail_sync -= 1
            # As Linux does it: the pages are clean now, and whether they reached the disk nobody knows.
            file.pending.clear()
            raise OSError(5, "Input/output error")
        file.durable[:] = file.cached
        file.pending.clear()

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        data = self.files[path].cached
        return bytes(data[offset:] if size < 0 else data[offset : offset + size])

    def remove(self, path: Path) -> None:
        self.files.pop(path, None)

    def close(self, handle: int) -> None:
        path = self._handles.pop(handle)
        self.locks.discard(path)

    def crash(self, *, power: bool = False, keep=lambda offset, data: data) -> None:
        """End every process. When the power goes too, only what was synced is left, and what `keep` lets through."""
        self.locks.clear()
        self._handles.clear()
        self.cut_after = None
        self.plug_pulled_in_sync = False
        if power:
            for file in self.files.values():
                file.cached[:] = file.durable
                for offset, data in file.pending:
                    kept = keep(offset, data)
                    file.cached[offset : offset + len(kept)] = kept
                file.durable[:] = file.cached
        for file in self.files.values():
            file.pending.clear()
