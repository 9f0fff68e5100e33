"""A database, a disk, and recorders on them that crash and start again."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fakes.recording import MemoryDatabase, MemorySink
from fakes.recording_disk import MemoryDisk
from fakes.recording_entries import AT, open_intent, verify, verify_succession, waiting_intent

from services.ports import Entry
from services.recording.journal import Journal
from services.recording.lane import Lane, LaneSettings, Mode
from services.system import SystemClock, SystemIds

ROOT = Path("/data/journal")
FAST = LaneSettings(
    hedge_s=0.02, commit_deadline_s=0.04, reconnect_first_s=0.001, reconnect_last_s=0.002, journal_retry_s=0.001
)


class Recorder:
    """A database, a disk, and the processes that use them one after the other."""

    def __init__(self, settings: LaneSettings = FAST) -> None:
        self.database = MemoryDatabase()
        self.disk = MemoryDisk()
        self.settings = settings
        self.lanes: list[Lane] = []
        self._threads: dict[asyncio.AbstractEventLoop, ThreadPoolExecutor] = {}

    async def start(self, instance: str = "a") -> Lane:
        self._thread()
        journal = Journal(ROOT / instance, max_bytes=1 << 20, disk=self.disk)
        lane = Lane(
            MemorySink(self.database), journal, SystemClock(), SystemIds(), instance=instance, settings=self.settings
        )
        self.lanes.append(lane)
        await lane.start()
        return lane

    async def crash(self, lane: Lane, *, power: bool = False) -> None:
        """End the process: nothing it had in memory is left."""
        for task in (lane._task, lane._heartbeat, lane._recovery):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        lane._task = None
        lane._sink.abandon()
        # A thread that writes to the disk cannot be cancelled; its process ends with it.
        await asyncio.get_running_loop().run_in_executor(self._thread(), lambda: None)
        self.disk.crash(power=power)

    def _thread(self) -> ThreadPoolExecutor:
        """Give this loop one thread for everything that blocks, so that its end can be waited for."""
        loop = asyncio.get_running_loop()
        if self._threads.get(loop) is None:
            self._threads[loop] = ThreadPoolExecutor(1)
            loop.set_default_executor(self._threads[loop])
        return self._threads[loop]

    async def until(self, condition) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - a fake has no event for everything
                await asyncio.sleep(0.001)

    async def restored(self, lane: Lane) -> None:
        await self.until(lambda: lane.mode is Mode.DATABASE)

    def log(self) -> list:
        """Return every record of every stream, each verified, and that they follow each other."""
        if self.database.tables.records:
            verify_succession(list(self.database.tables.records.values()))
        return [found for name in sorted(self.database.tables.records) for found in verify(self._stored(name))]

    def _stored(self, name: str) -> list:
        return self.database.tables.records[name]

    def kinds(self) -> list[str]:
        return [found.kind for found in self.log()]


def allow(n=1, **changes) -> Entry:
    values = {"effect": open_intent(f"int_{n}", jti=f"jti_{n}")}
    return Entry(**({"kind": "decision", "at": AT, "members": {"n": n}} | values | changes))


def denial(n=1, **changes) -> Entry:
    values = {"effect": waiting_intent(f"int_{n}"), "journal_may_release": True}
    return Entry(**({"kind": "decision", "at": AT, "members": {"n": n}} | values | changes))


def voids(log) -> dict[int, str]:
    return {found.members["void"]["seq"]: found.members["why"] for found in log if found.kind.endswith(".void")}
