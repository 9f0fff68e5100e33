"""The journal: where records wait, durably, while PostgreSQL is away.

One directory per lane, locked for one process. Files are allocated before they are needed, so that a full disk does
not surface in the middle of an outage. Every method blocks; a lane calls them from a thread, one at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import secrets
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from services.ports import RecordingFailed
from services.recording import frames
from services.recording.disk import DirectoryLocked, LocalDisk
from services.recording.frames import FILE_HEADER, MAGIC, MARK_OFFSET, Extent, JournalCorrupt, JournalRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from services.recording.disk import Disk

_log = logging.getLogger(__name__)

DEFAULT_MAX_BYTES: Final = 256 << 20
_SEGMENT_BYTES: Final = 8 << 20
_PEEK_BYTES: Final = 8 << 20
_SEGMENTS: Final = 4  # at least so many fit into the bound
_NAME = re.compile(r"(\d{8})\.journal")
_IDENTITY = re.compile(rb"[0-9a-f]{32}")
_MARK_BYTES: Final = FILE_HEADER.size - MARK_OFFSET


class JournalUnavailable(RecordingFailed):
    """The disk did not take the frame. Nothing of it counts."""


class JournalFull(JournalUnavailable):
    """The journal has reached its bound."""


@dataclass(slots=True, kw_only=True)
class _Segment:
    """One file. `handle` is None once it is only read."""

    path: Path
    size: int
    handle: int | None
    offset: int
    extents: deque[Extent] = field(default_factory=deque)


class Journal:
    """The journal of one lane. `open` before anything else."""

    def __init__(self, directory: Path, *, max_bytes: int = DEFAULT_MAX_BYTES, disk: Disk | None = None) -> None:
        if max_bytes < 1 << 16:
            raise ValueError("a journal that holds nothing saves nothing")
        self._directory = directory
        self._max_bytes = max_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, max_bytes // _SEGMENTS)
        self._disk: Disk = LocalDisk() if disk is None else disk
        self._lock: int | None = None
        self._segments: deque[_Segment] = deque()
        self._number = 0
        self._only_drains = False
        self._waiting_bytes = 0
        self.identity = ""

    # --- opening and closing --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Lock the directory and find what an earlier process left.

        Raises: DirectoryLocked, JournalCorrupt, JournalUnavailable when the disk does not answer.
        """
        self._find()
        self._prepare()

    def _find(self) -> None:
        try:
            self._lock = self._disk.lock(self._directory)
            self.identity = self._read_identity()
            for name in self._disk.names(self._directory):
                if (match := _NAME.fullmatch(name)) is None:
                    continue
                self._number = int(match.group(1))
                path = self._directory / name
                data = self._disk.read(path)
                extents = deque(frames.scan(data))
                self._waiting_bytes += sum(extent.size for extent in extents)
                self._segments.append(
                    _Segment(path=path, size=len(data), handle=None, offset=len(data), extents=extents)
                )
            self._drop_superseded()
            self._discard_drained()
        except (DirectoryLocked, JournalCorrupt):
            self._unlock()
            raise
        except OSError as error:
            self._unlock()
            raise JournalUnavailable(f"the journal cannot be opened: {error.strerror}") from error

    def orphans(self) -> list[Journal]:
        """Open the journals beside this one that hold records and that no process uses. The caller closes them.

        Raises: JournalUnavailable when nobody can say whether there are any.
        """
        found = []
        try:
            names = self._disk.names(self._directory.parent)
        except OSError as error:
            raise JournalUnavailable(f"the journals cannot be listed: {error.strerror}") from error
        for name in names:
            if name == self._directory.name:
                continue
            other = Journal(self._directory.parent / name, max_bytes=self._max_bytes, disk=self._disk)
            try:
                if not any(_NAME.fullmatch(file) for file in self._disk.names(other._directory)):
                    continue
                other._find()
            except DirectoryLocked:
                continue
            except (JournalCorrupt, JournalUnavailable, OSError) as error:
                _log.error("the journal of `%s` cannot be taken over: %s", name, error)
                continue
            other._only_drains = True
            found.append(other)
        return found

    def close(self) -> None:
        """Release the directory. What was not drained stays for the next process."""
        for segment in self._segments:
            self._retire(segment)
        with contextlib.suppress(OSError):
            self._discard_drained()
        self._unlock()

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, rows: Sequence[JournalRow]) -> None:
        """Store the rows as one frame, at the end. Durable when this returns.

        Raises: JournalUnavailable; then nothing of them counts, and they may be written again.
        """
        frame = frames.encode(rows)
        active = self._active()
        if active is not None and active.offset + len(frame) > active.size:
            self._retire(active)
            active = None
        if active is not None and self._write_to(active, frame):
            return
        # A file whose write or fsync failed is never written to again: the kernel may have dropped what it held.
        if not self._write_to(self._extend(len(frame)), frame):
            raise JournalUnavailable("the disk takes no journal")

    def _write_to(self, segment: _Segment, frame: bytes) -> bool:
        handle, offset = segment.handle, segment.offset
        if handle is None:
            return False
        try:
            self._disk.write(handle, frame, offset)
            self._disk.sync(handle)
        except OSError as error:
            _log.error("the journal file `%s` failed: %s", segment.path.name, error)
            with contextlib.suppress(OSError):
                # It was not acknowledged; better that nobody finds it.
                self._disk.write(handle, bytes(frames.FRAME_HEADER.size), offset)
            self._retire(segment)
            return False
        segment.extents.append(Extent(offset, len(frame)))
        self._waiting_bytes += len(frame)
        segment.offset = offset + len(frame)
        try:
            # Rides to the disk with the next frame. A damaged frame below the mark is never taken for a torn one.
            self._disk.write(handle, segment.offset.to_bytes(_MARK_BYTES, "little"), MARK_OFFSET)
        except OSError:
            self._retire(segment)
        return True

    def _prepare(self) -> None:
        """Allocate a file before it is needed. A full disk is a trouble only when the journal is needed."""
        try:
            self._extend(0)
        except JournalUnavailable as error:
            _log.warning("no journal file is ready for an outage: %s", error)

    def _extend(self, frame_bytes: int) -> _Segment:
        """Add a file to write to. Raises: JournalFull, JournalUnavailable."""
        with contextlib.suppress(OSError):  # files that failed before anything was acknowledged in them take no room
            self._discard_drained()
        size = max(self._segment_bytes, FILE_HEADER.size + frame_bytes)
        if sum(segment.size for segment in self._segments) + size > self._max_bytes:
            raise JournalFull("the journal is full")
        self._number += 1
        path = self._directory / f"{self._number:08d}.journal"
        try:
            handle = self._disk.create(path, size)
        except OSError as error:
            raise JournalUnavailable(f"the disk takes no journal: {error.strerror}") from error
        segment = _Segment(path=path, size=size, handle=handle, offset=FILE_HEADER.size)
        self._segments.append(segment)
        try:
            self._disk.write(handle, FILE_HEADER.pack(MAGIC, FILE_HEADER.size), 0)
            self._disk.sync(handle)
        except OSError as error:
            self._retire(segment)
            raise JournalUnavailable(f"the disk takes no journal: {error.strerror}") from error
        return segment

    # --- draining ---------------------------------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Return whether everything was drained."""
        return not any(segment.extents for segment in self._segments)

    @property
    def waiting_bytes(self) -> int:
        """Return the bytes that were not drained."""
        return self._waiting_bytes

    def peek(self, max_rows: int, *, skip: int = 0) -> list[tuple[JournalRow, ...]]:
        """Return the oldest frames behind the first `skip`: at least one if there is one, as many as fit `max_rows`.

        Raises: JournalCorrupt, JournalUnavailable.
        """
        found: list[tuple[JournalRow, ...]] = []
        rows = size = 0
        waiting = ((segment.path, extent) for segment in self._segments for extent in segment.extents)
        for path, extent in itertools.islice(waiting, skip, None):
            size += extent.size
            if found and size > _PEEK_BYTES:
                return found
            try:
                frame = frames.decode(self._disk.read(path, extent.offset, extent.size))
            except OSError as error:
                raise JournalUnavailable(f"the journal cannot be read: {error.strerror}") from error
            rows += len(frame)
            if found and rows > max_rows:
                return found
            found.append(frame)
        return found

    def drained(self, count: int) -> None:
        """Forget the oldest `count` frames: PostgreSQL has them. Raises: JournalUnavailable if a file will not go."""
        for segment in self._segments:
            while count and segment.extents:
                self._waiting_bytes -= segment.extents.popleft().size
                count -= 1
        if count:
            raise ValueError("more frames were drained than there are")
        try:
            if self.empty and (active := self._active()) is not None and active.offset > FILE_HEADER.size:
                self._retire(active)
            self._discard_drained()
        except OSError as error:
            raise JournalUnavailable(f"a drained journal file cannot be removed: {error.strerror}") from error
        if self._active() is None and not self._only_drains:
            self._prepare()

    # --- details ----------------------------------------------------------------------------------------------------

    def _active(self) -> _Segment | None:
        if self._segments and self._segments[-1].handle is not None:
            return self._segments[-1]
        return None

    def _retire(self, segment: _Segment) -> None:
        if segment.handle is not None:
            with contextlib.suppress(OSError):
                self._disk.close(segment.handle)
            segment.handle = None

    def _drop_superseded(self) -> None:
        """Forget a last frame that was written again in a later file, because its own file failed.

        A disk may keep what it said it could not. Whoever waited for that frame was answered by what was written then:
        perhaps that it is refused.
        """
        followed_by: set[bytes] = set()
        for segment in reversed(self._segments):
            if not segment.extents:
                continue
            first, last = (self._first_body(segment, segment.extents[n]) for n in (0, -1))
            if last in followed_by:
                self._waiting_bytes -= segment.extents.pop().size
            followed_by.add(first)

    def _first_body(self, segment: _Segment, extent: Extent) -> bytes:
        return frames.decode(self._disk.read(segment.path, extent.offset, extent.size))[0].body

    def _discard_drained(self) -> None:
        for segment in list(self._segments):
            if segment.handle is None and not segment.extents:
                self._disk.remove(segment.path)
                self._segments.remove(segment)

    def _unlock(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._disk.close(self._lock)
            self._lock = None

    def _read_identity(self) -> str:
        """Return what tells this directory's database connections from all others; made once."""
        path = self._directory / "identity"
        if path.name in self._disk.names(self._directory):
            found = self._disk.read(path)
            if _IDENTITY.fullmatch(found):
                return found.decode("ascii")
            self._disk.remove(path)  # its making was cut short, so no connection carried it
        fresh = secrets.token_hex(16)
        handle = self._disk.create(path, len(fresh))
        try:
            self._disk.write(handle, fresh.encode("ascii"), 0)
            self._disk.sync(handle)
        finally:
            self._disk.close(handle)
        return fresh
