"""A disk whose plug is pulled at any of its operations, and what may be left of what was not synced."""

from __future__ import annotations

from fakes.recording_disk import MemoryDisk, PowerLost

from services.recording.frames import FILE_HEADER

#: What a power loss may leave of a write that was not synced: whole or not at all, either end of it, or its mark alone.
LEFT = {
    "nothing": lambda offset, data: b"",
    "everything": lambda offset, data: data,
    "the start": lambda offset, data: data[: len(data) // 2],
    "the end": lambda offset, data: bytes(len(data) // 2) + data[len(data) // 2 :],
    "headers": lambda offset, data: data if offset < FILE_HEADER.size else b"",
}


class PluggedDisk(MemoryDisk):
    """Pulls the plug at operation `at`: before it, after it, or in the middle. Then nothing of the process goes on."""

    def __init__(self, at: int | None = None, when: str = "before") -> None:
        super().__init__()
        self.at, self.when = at, when
        self.done = 0
        self.dead = False

    def _operate(self, whole, part=None):
        if self.dead:
            raise PowerLost
        self.done += 1
        if self.at is None or self.done <= self.at:
            return whole()
        self.dead = True
        if self.when == "after":
            whole()
        elif self.when == "within" and part is not None:
            part()
        raise PowerLost

    def create(self, path, size):
        make = super().create
        return self._operate(lambda: make(path, size), lambda: make(path, 0))

    def write(self, handle, data, offset):
        write = super().write
        # The fake checks that a file never grows, so the part is not longer than the whole.
        self._operate(lambda: write(handle, data, offset), lambda: write(handle, data[: len(data) // 2], offset))

    def sync(self, handle):
        sync = super().sync
        self._operate(lambda: sync(handle))

    def remove(self, path):
        remove = super().remove
        self._operate(lambda: remove(path))

    def close(self, handle):
        if handle in self._handles:
            super().close(handle)

    def crash(self, *, power=False, keep=LEFT["everything"]):
        self.at, self.dead = None, False
        super().crash(power=power, keep=keep)
