"""The processes of the story, each on a leash: none outlives the demo."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from console.runtime import leash
from console.runtime.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

_STOP_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Running:
    """A started process."""

    name: str
    process: asyncio.subprocess.Process

    async def stop(self) -> int:
        """Ask it to end, insist after a while, and return its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_S):
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()


@contextlib.asynccontextmanager
async def started(
    name: str, command: Sequence[str], *, environment: Mapping[str, str], log: Path, read: bool = False
) -> AsyncIterator[Running]:
    """Run `command` for the time of the block; `read` leaves its standard output to the caller.

    It inherits no setting of Holdfast's: what is played here never meets a deployment that the environment names.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(Path(leash.__file__)),
            str(os.getpid()),
            str(int(signal.SIGTERM)),
            "-",
            "/",
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if read else file,
            stderr=file,
            env={**inherited, **environment},
        )
    running = Running(name, process)
    try:
        yield running
    finally:
        if process.returncode is None:
            await running.stop()


def tree(pid: int) -> list[int]:
    """Return a process and everything below it, parents first. Source: /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The command's name may hold anything, so what is read stands behind its closing bracket.
                parent = int(
                    (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
                )
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for known in found:
        found.extend(children.get(known, []))
    return found


def signal_tree(pid: int, number: signal.Signals) -> int:
    """Send a signal to a process and everything below it; return how many there were."""
    members = tree(pid)
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, number)
    if not members:
        raise CommandFailed("there was no process to signal")
    return len(members)
