"""A process that ends at any operation of its disk, in an outage: every acknowledged record reaches the log, once."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from fakes.recording_disk import PowerLost
from fakes.recording_plug import LEFT, PluggedDisk
from fakes.recording_world import Recorder, allow, denial

from services.ports import RecordingFailed
from services.recording.lane import LaneSettings, Mode

QUICK = LaneSettings(
    group_rows=4,
    drain_rows=6,
    hedge_s=0.02,
    commit_deadline_s=0.04,
    reconnect_first_s=0.0005,
    reconnect_last_s=0.001,
    journal_retry_s=0.001,
)


class Story:
    """Two outages with a recovery between, as far as the disk lets them come."""

    def __init__(self, disk: PluggedDisk) -> None:
        self.world = Recorder(QUICK)
        self.world.disk = disk
        self.lane = None
        self.appended = []
        self.answers = {}

    async def tell(self) -> None:
        database = self.world.database
        self.lane = await self.world.start()
        await self.say(allow(1))
        database.up = False
        await self.say(denial(2), denial(3), allow(4))
        await self.say(denial(5))
        self.world.disk.fail_sync = 1
        await self.say(denial(6))
        database.up = True
        await self.world.until(lambda: self.lane.mode is Mode.DATABASE or self.lane._task.done())
        await self.say(allow(7))
        database.up = False
        await self.say(denial(8), denial(9))
        database.up = True
        await self.lane.stop()

    async def say(self, *entries) -> None:
        pending = []
        for entry in entries:
            with contextlib.suppress(RecordingFailed):
                pending.append((entry.members["n"], self.lane.append(entry)))
        self.appended += pending
        for n, one in pending:
            with contextlib.suppress(RecordingFailed):
                self.answers[n] = await one.settled()

    async def end(self, *, power: bool, keep) -> None:
        """Let the process be gone, then start another on what is left."""
        if self.lane is not None and self.lane._task is not None:
            self.lane._task.cancel()
            with contextlib.suppress(PowerLost, asyncio.CancelledError):
                await self.lane._task
            self.lane._task = None
        for lane in self.world.lanes:
            await self.world.crash(lane)
        self.world.disk.crash(power=power, keep=keep)
        self.world.disk.fail_sync = 0
        self.world.database.up = True
        again = await self.world.start()
        assert (await again.append(allow(99)).settled()).applied
        await again.stop()

    def check(self) -> None:
        log = self.world.log()
        receipts = [found.receipt for found in log]
        voided = {found.members["void"]["seq"] for found in log if found.kind == "decision.void"}
        intents = self.world.database.tables.intents
        for n, pending in self.appended:
            settled = self.answers.get(n)
            if settled is not None and settled.applied:
                assert receipts.count(settled.receipt) == 1, f"{n} was acknowledged and is lost"
                assert settled.receipt.seq not in voided
                assert f"int_{n}" in intents
            elif pending.receipt.seq in voided:
                assert f"int_{n}" not in intents, f"{n} was refused and happened all the same"
        assert set(intents) <= {f"int_{n}" for n, _ in self.appended} | {"int_99"}, "nothing is invented"


async def operations() -> int:
    disk = PluggedDisk()
    story = Story(disk)
    await story.tell()
    assert {n for n, settled in story.answers.items() if settled.applied} == {1, 2, 3, 5, 6, 7, 8, 9}
    return disk.done


@pytest.mark.parametrize("left", [None, *LEFT])
@pytest.mark.parametrize("when", ["before", "within", "after"])
async def test_wherever_the_process_ends_nothing_acknowledged_is_lost_and_nothing_is_invented(when, left):
    ended = 0
    for at in range(await operations()):
        story = Story(PluggedDisk(at, when))
        try:
            await story.tell()
        except (PowerLost, RecordingFailed):
            ended += 1
        await story.end(power=left is not None, keep=LEFT[left or "everything"])
        story.check()
    assert ended > 10
