"""What the journal needs from a disk, so that a test can pull the plug between any two of its steps."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

_PRIVATE_FILE = 0o600
_PRIVATE_DIRECTORY = 0o700


class DirectoryLocked(Exception):
    """Another process uses this journal."""


class Disk(Protocol):
    """Files in directories. Every method blocks and may raise OSError."""

    def lock(self, directory: Path) -> int:
        """Make the directory if need be and lock it for this process. Raises: DirectoryLocked."""
        ...

    def names(self, directory: Path) -> list[str]:
        """Return the names in a directory, sorted; none if it does not exist."""
        ...

    def create(self, path: Path, size: int) -> int:
        """Return a handle to a new file of `size` zero bytes, allocated. MUST survive a power loss when it returns."""
        ...

    def write(self, handle: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`. Durable only after `sync`."""
        ...

    def sync(self, handle: int) -> None:
        """Make every write to this file durable. After an OSError nothing is known of the writes before it."""
        ...

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        """Return `size` bytes from `offset`, fewer at the end of the file."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file. MUST survive a power loss when it returns."""
        ...

    def close(self, handle: int) -> None:
        """Close a file, or release a lock."""
        ...


class LocalDisk:
    """The Disk port on the local file system. Files are 0600, directories 0700."""

    def lock(self, directory: Path) -> int:
        """Make the directory if need be and lock it for this process."""
        directory.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise DirectoryLocked(f"another process uses `{directory}`") from error
        except OSError:
            os.close(handle)
            raise
        return handle

    def names(self, directory: Path) -> list[str]:
        """Return the names in a directory, sorted; none if it does not exist."""
        try:
            return sorted(path.name for path in directory.iterdir())
        except FileNotFoundError:
            return []

    def create(self, path: Path, size: int) -> int:
        """Return a handle to a new file of `size` zero bytes, allocated and durable."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE_FILE)
        try:
            os.posix_fallocate(handle, 0, size)
            os.fsync(handle)
            _sync_directory(path.parent)
        except OSError:
            os.close(handle)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return handle

    def write(self, handle: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data)
        while view:
            written = os.pwrite(handle, view, offset)
            offset += written
            view = view[written:]

    def sync(self, handle: int) -> None:
        """Make every write to this file durable. The size never changes, so the data is enough."""
        os.fdatasync(handle)

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        """Return `size` bytes from `offset`, fewer at the end of the file."""
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def remove(self, path: Path) -> None:
        """Remove a file for good."""
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)

    def close(self, handle: int) -> None:
        """Close a file, or release a lock."""
        os.close(handle)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
