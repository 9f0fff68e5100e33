"""Child processes: started on a leash, kept alive with a bounded backoff, stopped in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

from console.runtime.failure import CommandFailed

if TYPE_CHECKING:
    from types import TracebackType

LOG_LIMIT_BYTES: Final = 16 * 1024 * 1024
STEADY_S: Final = 30.0
FIRST_DELAY_S: Final = 0.25
LONGEST_DELAY_S: Final = 5.0
RESTARTS: Final = 10
RESTARTS_BEFORE_READY: Final = 2
POLL_S: Final = 0.05
_DOUBLINGS: Final = 10
_LEASH: Final = Path(__file__).with_name("leash.py")
_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whom a child runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How one child is started and stopped.

    `environment` is all it gets. Each of `stop_signals` is given `grace_s` seconds before the next, and SIGKILL comes
    last. `death_signal` is what the kernel sends when the supervisor vanishes. With `account`, the child must reach
    `directory`.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    inherited_fds: tuple[int, ...] = ()
    stop_signals: tuple[signal.Signals, ...] = (signal.SIGTERM,)
    grace_s: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL
    account: Account | None = None


@dataclass(slots=True, kw_only=True)
class Patience:
    """How often, and after how long, a child that died is started again. Without a `limit` there is no end.

    Deaths count in a row; a child that lived for STEADY_S seconds starts a new row.
    """

    limit: int | None = RESTARTS
    deaths: int = 0

    def delay_s(self, *, lived_s: float) -> float | None:
        """Return the seconds to wait before the restart, or None when it is enough."""
        self.deaths = 1 if lived_s >= STEADY_S else self.deaths + 1
        if self.limit is not None and self.deaths > self.limit:
            return None
        return min(LONGEST_DELAY_S, FIRST_DELAY_S * float(2 ** min(self.deaths - 1, _DOUBLINGS)))


@dataclass(slots=True, kw_only=True)
class _Child:
    command: Command
    process: asyncio.subprocess.Process
    patience: Patience
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


class Children:
    """The children of one supervisor, as an async context manager: leaving it stops them, last started first.

    `say` receives a sentence for a person. `changed` receives name and pid of every child after each start; an OSError
    from it stops nothing.
    """

    def __init__(
        self, *, logs: Path, say: Callable[[str], None], changed: Callable[[Mapping[str, int]], None] | None = None
    ) -> None:
        self._logs = logs
        self._say = say
        self._changed = changed
        self._children: list[_Child] = []
        self._keepers = asyncio.TaskGroup()
        self._hurry = asyncio.Event()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        """Return itself."""
        await self._keepers.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop every child, then let go of their keepers."""
        try:
            await self._stop()
        finally:
            # The body's own error is not the keepers': they have ended, and it goes on as it is.
            await self._keepers.__aexit__(None, None, None)

    async def start(self, command: Command, ready: Callable[[], Awaitable[bool]], *, timeout_s: float = 60.0) -> None:
        """Start a child and return once `ready` answers True; from then on it is kept alive.

        Raises: CommandFailed, with the end of its log, if it dies too often or is not ready in time.
        """
        child = _Child(
            command=command,
            process=await spawn(command, self._log(command)),
            patience=Patience(limit=RESTARTS_BEFORE_READY),
        )
        self._children.append(child)
        self._tell()
        self._keepers.create_task(self._keep(child), name=f"keep {command.name}")
        await self.until(ready, command, timeout_s=timeout_s)
        child.patience = Patience()

    async def until(self, ready: Callable[[], Awaitable[bool]], command: Command, *, timeout_s: float = 60.0) -> None:
        """Return once `ready` answers True.

        Raises: CommandFailed if a child is lost meanwhile, or `command` is not ready in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not await ready():
                    if self._lost.done():
                        raise CommandFailed(self._lost.result())
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            problem = f"{command.name} is not ready after {timeout_s:.0f} s"
            raise CommandFailed(with_log(problem, self._log(command))) from error

    async def lost(self) -> str:
        """Wait until a child has died too often. Return what to tell about it."""
        return await asyncio.shield(self._lost)

    def never_give_up(self) -> None:
        """Start every child again from now on, however often it dies: what it dies of may be over in an hour."""
        for child in self._children:
            child.patience.limit = None

    def hurry(self) -> None:
        """Give no more time to children that are being stopped."""
        self._hurry.set()

    def pids(self) -> dict[str, int]:
        """Return the pid of every child by name, as last started."""
        return {child.command.name: child.process.pid for child in self._children}

    async def _keep(self, child: _Child) -> None:
        clock = asyncio.get_running_loop().time
        name = child.command.name
        while True:
            started = clock()
            status = await child.process.wait()
            ended = f"{name} (pid {child.process.pid}) {describe(status)}"
            if not await self._pause(child, ended, lived_s=clock() - started):
                return
            while not await self._respawned(child):
                if not await self._pause(child, f"{name} does not run", lived_s=0.0):
                    return
            self._say(f"{name} is running again (pid {child.process.pid})")
            self._tell()

    async def _pause(self, child: _Child, ended: str, *, lived_s: float) -> bool:
        """Wait before a restart. Return False when there shall be none."""
        if child.stopping.is_set():
            return False
        patience, command = child.patience, child.command
        delay_s = patience.delay_s(lived_s=lived_s)
        if delay_s is None:
            if not self._lost.done():
                self._lost.set_result(with_log(f"{ended}; it died too often, giving up", self._log(command)))
            return False
        bound = "" if patience.limit is None else f" of {patience.limit}"
        said = f"{ended}; restart {patience.deaths}{bound} in {delay_s:g} s"
        self._say(with_log(said, self._log(command)) if patience.deaths % RESTARTS == 0 else said)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.stopping.wait(), delay_s)
            return False
        return True

    async def _respawned(self, child: _Child) -> bool:
        """Start a child again. Return False if the system did not let it."""
        try:
            child.process = await spawn(child.command, self._log(child.command))
        except OSError as error:
            self._say(f"{child.command.name} cannot be started again: {error.strerror}")
            return False
        return True

    async def _stop(self) -> None:
        for child in reversed(self._children):
            child.stopping.set()
            if not await stop(child.process, child.command, hurry=self._hurry):
                self._say(f"{child.command.name} (pid {child.process.pid}) did not stop in time and was killed")

    def _tell(self) -> None:
        if self._changed is None:
            return
        try:
            self._changed(self.pids())
        except OSError as error:
            # A full disk: who looks for the children by name has to wait, and they go on.
            self._say(f"the process ids could not be written down: {error.strerror}")

    def _log(self, command: Command) -> Path:
        return self._logs / f"{command.name}.log"


async def spawn(command: Command, log: Path) -> asyncio.subprocess.Process:
    """Start a child in a session of its own: a Ctrl-C at the terminal reaches the supervisor alone.

    The leash binds it to the calling *thread*; call this from the main one.
    """
    account = "-" if command.account is None else f"{command.account.uid}:{command.account.gid}"
    with _open_log(log) as output:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(_LEASH),
            str(os.getpid()),
            str(int(command.death_signal)),
            account,
            str(command.directory),
            *command.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(command.environment),
            cwd="/",
            pass_fds=command.inherited_fds,
            start_new_session=True,
        )


async def run_once(command: Command, log: Path) -> None:
    """Run a child to its end. Raises: CommandFailed, with the end of its log, unless it exits with 0."""
    process = await spawn(command, log)
    try:
        status = await process.wait()
    except asyncio.CancelledError:
        await stop(process, command)
        raise
    if status != 0:
        raise CommandFailed(with_log(f"{command.name} {describe(status)}", log))


async def stop(process: asyncio.subprocess.Process, command: Command, *, hurry: asyncio.Event | None = None) -> bool:
    """Stop a child and everything in its process group. Return False if it had to be killed."""
    hurry = hurry or asyncio.Event()
    for stop_signal in command.stop_signals:
        if process.returncode is not None or hurry.is_set():
            break
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(stop_signal)
            process.send_signal(signal.SIGCONT)
        await _ended(process, hurry, command.grace_s)
    if process.returncode is not None:
        return True
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    return False


async def _ended(process: asyncio.subprocess.Process, hurry: asyncio.Event, timeout_s: float) -> None:
    waits = {asyncio.ensure_future(process.wait()), asyncio.ensure_future(hurry.wait())}
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def describe(status: int) -> str:
    """Return how a process ended, from its return code."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def with_log(problem: str, log: Path) -> str:
    """Return the problem with the last lines of a log below it."""
    try:
        lines = log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
    except OSError:
        lines = []
    return "\n".join([f"{problem} (log: {log})", *(f"  {line}" for line in lines)])


def _open_log(log: Path) -> IO[bytes]:
    """Open a log to append, private to its owner. A log beyond LOG_LIMIT_BYTES becomes `NAME.log.1` first."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_name(log.name + ".1"))
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
