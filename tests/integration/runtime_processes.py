"""Watching processes from outside, by id."""

import asyncio
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 60.0


def alive(pid: int) -> bool:
    """Return whether a process runs; one that only waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def children_of(pid: int) -> set[int]:
    """Return every process below `pid`."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def program(pid: int) -> str:
    """Return what a process was started as."""
    return Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]


def told_to(pid: int) -> set[str]:
    """Return the values in a process's environment."""
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return {value for _, _, value in (entry.partition("=") for entry in entries)}


def owner(pid: int) -> int:
    """Return the user id that a process runs as."""
    return Path(f"/proc/{pid}").stat().st_uid


async def until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds. Raises: TimeoutError."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.02)
