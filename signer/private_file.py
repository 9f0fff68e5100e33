"""Reading files whose permissions are part of their meaning, and writing one that must never overwrite another."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

#: Permission bits that a secret must not have, and that a file others may read but not change must not have.
NOT_PRIVATE: Final = 0o077
NOT_OURS_ALONE_TO_CHANGE: Final = 0o022


class UnsafeFile(Exception):
    """The file is missing, unreadable, too large, or open to others."""


def read(path: Path, *, forbidden: int, max_bytes: int) -> bytes:
    """Return the file's bytes. Raises: UnsafeFile if it is no regular file of ours or root's, or has `forbidden` bits.

    What is checked is the opened file, so nothing can be put in its place between the check and the reading.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UnsafeFile(f"cannot open `{path}`: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeFile(f"`{path}` is not a regular file")
        if status.st_uid not in (0, os.geteuid()):
            raise UnsafeFile(f"`{path}` belongs to another user")
        if (mode := stat.S_IMODE(status.st_mode)) & forbidden:
            raise UnsafeFile(f"`{path}` has mode {mode:04o}, which gives others a part in it")
        if status.st_size > max_bytes:
            raise UnsafeFile(f"`{path}` is larger than {max_bytes} bytes")
        return _read_all(descriptor, status.st_size)
    except OSError as error:
        raise UnsafeFile(f"cannot read `{path}`: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := os.read(descriptor, size - len(data))):
        data += part
    return data


def create(path: Path, data: bytes) -> None:
    """Put `data` at `path`, mode 0600, whole and durable or not at all. Raises: FileExistsError, never overwriting.

    The link is the moment of creation: it fails if anything, a dangling symbolic link included, has the name.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
