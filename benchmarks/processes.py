"""Processes of a run, each on a leash: none outlives it, however it ends. Only what was started here is ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.schedule import SECOND_NS
from console.runtime import leash

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

ROOT: Final = Path(__file__).resolve().parent.parent
_STOP_S: Final = 20.0
_POLL_S: Final = 0.05
_LINE_LIMIT_BYTES: Final = 1 << 20


class RunFailed(Exception):
    """The run cannot go on; the text says why."""


@contextlib.asynccontextmanager
async def started(
    module: str,
    *arguments: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    talks: bool = False,
    death_signal: signal.Signals = signal.SIGKILL,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python -m module` for the time of the block. With `talks`, its standard input and output are pipes."""
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(Path(leash.__file__)),
            str(os.getpid()),
            str(int(death_signal)),
            "-",
            "/",
            sys.executable,
            "-P",
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.PIPE if talks else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if talks else file,
            stderr=file,
            env={**os.environ, **(environment or {})},
            cwd=ROOT,
            limit=_LINE_LIMIT_BYTES,
        )
    try:
        yield process
    finally:
        await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def until(holds: Callable[[], bool], process: asyncio.subprocess.Process, *, log: Path, timeout_s: float) -> None:
    """Wait until something holds. Raises: RunFailed, with the log's end, if the process ends or takes too long."""
    try:
        async with asyncio.timeout(timeout_s):
            while not holds():
                if process.returncode is not None:
                    raise RunFailed(f"a process ended with status {process.returncode}:\n{tail(log)}")
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        raise RunFailed(f"a process was not ready in {timeout_s:.0f} s:\n{tail(log)}") from error


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join(f"  {line}" for line in lines[-8:])


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and its living children have taken. Source: proc(5), schedstat."""
    return sum(_own_cpu_ns(member) for member in (pid, *_children(pid))) / SECOND_NS


def _own_cpu_ns(pid: int) -> int:
    taken_ns = 0
    # A process or a thread may end while it is looked at.
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                taken_ns += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
    return taken_ns


def _children(pid: int) -> list[int]:
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(child) for child in listed.split()]
