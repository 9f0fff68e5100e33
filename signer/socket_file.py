"""A listening Unix socket that belongs to one process and one user."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

#: `sun_path` holds 108 bytes on Linux and 104 elsewhere, the terminating zero included. Source: unix(7)
MAX_PATH_BYTES: Final = 100
_BACKLOG: Final = 256


class SocketRefused(Exception):
    """The socket cannot be opened here, safely."""


def check_path(path: Path) -> None:
    """Refuse a path that the kernel would cut. Raises: ValueError."""
    if (length := len(os.fsencode(path))) > MAX_PATH_BYTES:
        raise ValueError(f"the socket path has {length} bytes, at most {MAX_PATH_BYTES} are possible: `{path}`")


class SocketFile:
    """Opens the socket, mode 0600 in a directory of mode 0700, and removes it again.

    A lock beside the socket makes sure that of two signers started at once one refuses; a socket left behind by a
    process that died is removed only when nobody listens on it.
    """

    def __init__(self, path: Path) -> None:
        check_path(path)
        self._path = path
        self._lock: int | None = None
        self._identity: tuple[int, int] | None = None

    def open(self) -> socket.socket:
        """Return the listening socket, non-blocking. Raises: SocketRefused."""
        try:
            self._check_directory()
            self._take_lock()
            self._remove_stale()
            return self._bind()
        except OSError as error:
            self.close()
            raise SocketRefused(f"cannot listen on `{self._path}`: {error.strerror}") from error
        except SocketRefused:
            self.close()
            raise

    def close(self) -> None:
        """Remove the socket if it is still ours, and give up the lock."""
        if self._identity is not None:
            with suppress(FileNotFoundError):
                status = self._path.lstat()
                if (status.st_dev, status.st_ino) == self._identity:
                    self._path.unlink()
            self._identity = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check_directory(self) -> None:
        directory = self._path.parent
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        status = directory.stat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise SocketRefused(f"`{directory}` is not a directory of this user")
        if (mode := stat.S_IMODE(status.st_mode)) & 0o077:
            raise SocketRefused(f"the socket's directory `{directory}` has mode {mode:04o}, it must be 0700")

    def _take_lock(self) -> None:
        lock = os.open(
            self._path.with_name(self._path.name + ".lock"),
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
        )
        self._lock = lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SocketRefused(f"another signer holds `{self._path}`") from error

    def _remove_stale(self) -> None:
        try:
            status = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise SocketRefused(f"`{self._path}` exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # noqa: FBT003 - the socket API's own parameter
            if probe.connect_ex(os.fsencode(self._path)) != errno.ECONNREFUSED:
                raise SocketRefused(f"somebody listens on `{self._path}`")
        self._path.unlink()

    def _bind(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The directory keeps others out between bind and chmod.
            listener.bind(os.fsencode(self._path))
            self._path.chmod(0o600)
            status = self._path.lstat()
            self._identity = (status.st_dev, status.st_ino)
            listener.listen(_BACKLOG)
            listener.setblocking(False)  # noqa: FBT003 - the socket API's own parameter
        except OSError:
            listener.close()
            raise
        return listener
