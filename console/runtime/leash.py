"""Bind a program to its supervisor, then become it.

Run as a script between fork and exec, so that no Python runs in a forked copy of a threaded process:
`python -I -S leash.py PARENT_PID DEATH_SIGNAL UID:GID|- DIRECTORY PROGRAM ARGUMENT…`.

The program dies with the supervisor, however that ends (PR_SET_PDEATHSIG), and cannot gain privileges by exec. With
`UID:GID` it runs as that account and keeps one capability of root's, to search and read directories: DIRECTORY may
lie under directories that are closed to the account, and nobody's directories are opened for it.
Source: capabilities(7), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

REFUSED: Final = 126

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_KEEPCAPS: Final = 8
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_CAP_DAC_OVERRIDE: Final = 1
_CAP_DAC_READ_SEARCH: Final = 2
_CAPABILITY_VERSION_3: Final = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySet(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def main(arguments: list[str]) -> NoReturn:
    """Take on the account, bind to the parent, exec. Exits with REFUSED and one line on stderr if a step fails."""
    parent, death_signal, account, directory, *command = arguments
    try:
        if account != "-":
            uid, _, gid = account.partition(":")
            _become(int(uid), int(gid), directory)
        # A change of credentials clears the death signal, so this comes after it.
        _prctl(_PR_SET_PDEATHSIG, int(death_signal))
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        # The parent may have died before the signal was set.
        if os.getppid() != int(parent):
            _refuse("the supervisor is gone")
        os.execv(command[0], command)  # noqa: S606 - an argument list without a shell is the point
    except OSError as error:
        _refuse(f"cannot start {command[0]} as {account}: {error.strerror}")


def _become(uid: int, gid: int, directory: str) -> None:
    """Change to the account for good, keeping one capability if this process has it.

    Nothing is imported or read after the change: this account may not reach Python's own files.
    """
    capability = _search_capability()
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _set_capabilities(0 if capability is None else 1 << capability)
    if capability is not None:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)
    try:
        Path(directory, "..").stat()
    except PermissionError:
        _refuse(
            f"the account with uid {uid} cannot reach {directory}: a directory above it is closed, and this system "
            "grants neither CAP_DAC_READ_SEARCH nor CAP_DAC_OVERRIDE. Run as an ordinary user instead, or set "
            "HOLDFAST_DATABASE_URL to a PostgreSQL of your own."
        )


def _search_capability() -> int | None:
    """Return the least capability that reaches closed directories, of those this process may keep."""
    with Path("/proc/self/status").open(encoding="ascii") as status:
        permitted = next(int(line.split()[1], 16) for line in status if line.startswith("CapPrm:"))
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if permitted >> capability & 1:
            return capability
    return None


def _set_capabilities(mask: int) -> None:
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    sets = (_CapabilitySet * 2)(_CapabilitySet(mask, mask, mask), _CapabilitySet(0, 0, 0))
    if _libc.capset(ctypes.byref(header), ctypes.byref(sets)) != 0:
        _raise_errno("capset")


def _prctl(option: int, first: int, second: int = 0) -> None:
    long = ctypes.c_ulong
    if _libc.prctl(ctypes.c_int(option), long(first), long(second), long(0), long(0)) != 0:
        _raise_errno("prctl")


def _raise_errno(call: str) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}")


def _refuse(reason: str) -> NoReturn:
    sys.stderr.write(f"holdfast: {reason}\n")
    sys.exit(REFUSED)


if __name__ == "__main__":
    main(sys.argv[1:])
