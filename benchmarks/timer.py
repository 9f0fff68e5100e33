"""A timer of the kernel that an event loop can wait for. Loops round their own timers to whole milliseconds.

Source: timerfd_create(2). Python has it from 3.13 on.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

from benchmarks.schedule import SECOND_NS

_CLOCK_MONOTONIC: Final = 1
_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE: Final = 1
_EXPIRATIONS_BYTES: Final = 8

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """Readable once the time it is armed for has come. Its clock is `time.monotonic_ns`."""

    def __init__(self) -> None:
        self._fd = _checked(_libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC))

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._fd

    def arm(self, at_ns: int) -> None:
        """Expire at a monotonic time; at once if it is past."""
        # A value of zero would disarm it.
        seconds, nanoseconds = divmod(max(at_ns, 1), SECOND_NS)
        setting = _Setting(_Timespec(0, 0), _Timespec(seconds, nanoseconds))
        _checked(_libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(setting), None))

    def acknowledge(self) -> None:
        """Forget that it expired."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, _EXPIRATIONS_BYTES)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
