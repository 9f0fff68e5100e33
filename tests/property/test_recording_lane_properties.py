"""Whatever fails, in whatever order: no acknowledged record is lost, and nothing is released on an unrecorded one."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from fakes.recording import Fault
from fakes.recording_entries import AT, open_intent, waiting_intent
from fakes.recording_world import Recorder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ports import Entry, RecordingFailed
from services.recording.chained import Chained
from services.recording.lane import Lane, LaneSettings, Mode

QUICK = LaneSettings(
    group_rows=4,
    drain_rows=6,
    hedge_s=0.003,
    commit_deadline_s=0.006,
    reconnect_first_s=0.0005,
    reconnect_last_s=0.001,
    journal_retry_s=0.001,
)

FAULTS = [
    Fault.REFUSE,
    Fault.RAISE_AFTER_COMMIT,
    Fault.HANG,
    Fault.HANG_THEN_COMMIT,
    Fault.REJECT,
]

STEPS = st.one_of(
    st.tuples(st.just("allow"), st.integers(0, 5)),
    st.tuples(st.just("deny"), st.integers(0, 5)),
    st.tuples(st.just("fault"), st.sampled_from([None, *FAULTS])),
    st.tuples(st.just("allow_in_doubt"), st.sampled_from(FAULTS)),
    st.tuples(st.just("deny_in_doubt"), st.sampled_from(FAULTS)),
    st.tuples(st.just("outage"), st.integers(0, 5)),
    st.tuples(st.just("database"), st.booleans()),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("sync_fails"), st.integers(1, 3)),
    st.tuples(st.just("write_fails"), st.integers(1, 3)),
    st.tuples(st.just("disk_full"), st.booleans()),
    st.tuples(st.just("turns"), st.integers(0, 12)),
    st.tuples(st.just("answers"), st.none()),
    st.tuples(st.just("crash"), st.booleans()),
)


@dataclass
class Said:
    """One entry, and what its caller was told before its process ended."""

    entry: Entry
    mark: str
    pending: Chained
    lane: Lane
    must_be_void: bool = False


@dataclass
class Story:
    world: Recorder
    said: list[Said] = field(default_factory=list)
    lane: Lane | None = None

    def append(self, n: int, *, allow: bool) -> None:
        mark = f"m{len(self.said)}"
        build = open_intent if allow else waiting_intent
        effect = build(f"int_{n}", jti=f"jti_{mark}" if allow else None, act_hash=mark)
        entry = Entry(kind="decision", at=AT, members={"mark": mark}, effect=effect, journal_may_release=not allow)
        with contextlib.suppress(RecordingFailed):
            self.said.append(Said(entry, mark, self.lane.append(entry), self.lane))

    def look(self) -> None:
        """Once a lane is back on the database, whatever it refused before stands in the log with its void."""
        if self.lane.mode is Mode.DATABASE:
            for one in self.said:
                if one.lane is self.lane and one.pending.done and one.pending._done.exception() is not None:
                    one.must_be_void = True

    async def step(self, what: str, value) -> None:  # noqa: C901, PLR0912 - a table of what can happen
        world = self.world
        match what:
            case "allow" | "deny":
                self.append(value, allow=what == "allow")
            case "allow_in_doubt" | "deny_in_doubt":
                world.database.faults.append(value)
                self.append(len(self.said), allow=what == "allow_in_doubt")
            case "outage":
                world.database.up = False
                self.append(value, allow=False)
                await self.step("answers", None)
            case "fault":
                world.database.faults.append(value)
            case "database":
                world.database.up = value
            case "restart":
                world.database.restart()
            case "sync_fails":
                world.disk.fail_sync = value
            case "write_fails":
                world.disk.fail_write = value
            case "disk_full":
                world.disk.full = value
            case "turns":
                for _ in range(value):
                    await asyncio.sleep(0)
            case "answers":
                await asyncio.gather(
                    *(one.pending.settled() for one in self.said if one.lane is self.lane), return_exceptions=True
                )
            case "crash":
                await self.crash(power=value)
        self.look()

    async def crash(self, *, power: bool) -> None:
        if self.lane is not None:
            await self.world.crash(self.lane, power=power)
        self.world.disk.fail_sync = self.world.disk.fail_write = 0
        self.lane = await self.world.start()

    async def end(self) -> None:
        """Heal everything, start once more, and let it all reach the database."""
        world = self.world
        world.database.up, world.database.faults = True, type(world.database.faults)()
        world.disk.full, world.disk.fail_sync, world.disk.fail_write = False, 0, 0
        await world.restored(self.lane)
        self.look()
        await self.crash(power=True)
        self.append(99, allow=True)
        assert (await self.said[-1].pending.settled()).applied
        await self.lane.stop()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=6, max_size=40))
def test_no_acknowledged_record_is_lost_and_nothing_is_released_unrecorded(steps):
    story = Story(Recorder(QUICK))

    async def play() -> None:
        await story.crash(power=False)
        for what, value in steps:
            await story.step(what, value)
        await story.end()

    asyncio.run(play())
    log = story.world.log()  # verifies hashes, order, contiguity and seals of every stream
    receipts = [found.receipt for found in log]
    voids = {
        (found.members["void"].get("stream", found.stream), found.members["void"]["seq"]): found.members["why"]
        for found in log
        if found.kind in ("decision.void", "decision.void_earlier")
    }
    assert len(set(receipts)) == len(receipts)
    assert len(voids) == sum(".void" in found.kind for found in log), "nothing is voided twice"
    intents = {row["act_hash"] for row in story.world.database.tables.intents.values()}
    assert not story.world.database.tables.refused

    for one in story.said:
        receipt = one.pending.receipt
        why = voids.get((receipt.stream, receipt.seq))
        if one.must_be_void:
            assert receipt in receipts
            assert why is not None, "what was refused and stands in the log is voided"
        if not one.pending.done or one.pending._done.exception() is not None:
            continue
        settled = one.pending._done.result()
        assert receipts.count(receipt) == 1, "what was acknowledged is in the log"
        assert one.entry.journal_may_release or not settled.in_journal or not settled.applied
        if not settled.applied:
            assert why == "effect_refused"
        elif why is None:
            assert one.mark in intents, "its effect came with it"
        else:
            assert (why, settled.in_journal) == ("effect_refused", True)
