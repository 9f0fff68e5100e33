"""An outbox in memory, a receiver without a network, and records whose fate the test decides."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

from holdfast.audit.record import Receipt

from services.notices.channel import Channel, Taken
from services.notices.notice import Kind, Severity
from services.notices.outbox import Delivery, Standing, Unresolved
from services.ports import RecordingFailed, Settled, StoreUnreachable


@dataclass
class Row:
    """One delivery."""

    state: str
    attempts: int
    due: float
    lease_until: float = 0.0
    why: str | None = None


@dataclass
class MemoryOutbox:
    """The Outbox port in memory. `now` moves only when the test says so."""

    now: float = 1000.0
    up: bool = True
    breaks: bool = False  # at the end of the next fan-out
    notices: dict = field(default_factory=dict)  # id -> (notice, origin, stored at)
    fanned: dict = field(default_factory=dict)  # id -> when
    rows: dict = field(default_factory=dict)  # (id, channel) -> Row
    closed: dict = field(default_factory=dict)

    def put(self, notice, origin="api") -> None:
        self.notices.setdefault(notice.notice_id, (notice, origin, self.now))

    async def fan_out(self, origin, route):
        await self._reach()
        done = []
        for name, (notice, of, stored) in sorted(self.notices.items()):
            if name in self.fanned or (of not in (None, origin) and self.now - stored <= 30):
                continue
            places = route(notice, dict(self.closed))
            if places is not None:
                done.append(name)
                for place in places:
                    state = "delivered" if place.delivered else "due"
                    self.rows.setdefault((name, place.channel), Row(state, place.attempts, self.now))
        if done and self.breaks:
            self.breaks, self.up = False, False
            for name in done:
                self.rows = {key: row for key, row in self.rows.items() if key[0] != name}
            await self._reach()
        self.fanned |= dict.fromkeys(done, self.now)
        return tuple(done)

    async def lease(self, channel, *, limit, lease_s):
        await self._reach()
        taken, keys = [], set()
        for (name, of), row in sorted(self.rows.items()):
            if of != channel or row.state != "due":
                continue
            notice = self.notices[name][0]
            first = notice.dedupe_key not in keys
            keys.add(notice.dedupe_key)
            if first and row.due <= self.now and row.lease_until <= self.now and len(taken) < limit:
                row.lease_until = self.now + lease_s
                row.attempts += 1
                age_s = self.now - self.fanned[name]
                taken.append(Delivery(notice=notice, channel=channel, attempts=row.attempts, age_s=age_s))
        return tuple(taken)

    async def delivered(self, delivery):
        await self._settle(delivery, "delivered", None)

    async def postpone(self, delivery, *, pause_s, why):
        row = await self._settle(delivery, "due", why)
        row.due = self.now + pause_s

    async def give_up(self, delivery, *, why):
        await self._settle(delivery, "dead", why)

    async def close_channel(self, channel, *, address, why):
        await self._reach()
        self.closed[channel] = address
        for (_, of), row in self.rows.items():
            if of == channel and row.state == "due":
                row.state, row.why = "dead", why

    async def unresolved(self, origin):
        await self._reach()
        told = [notice for notice, of, _ in self.notices.values() if of == origin]
        over = {one.dedupe_key for one in told if one.kind is Kind.INCIDENT_RESOLVED}
        keys = {
            one.dedupe_key: one.details["boundary"]
            for one in told
            if one.kind is Kind.INCIDENT_OPENED and one.dedupe_key not in over
        }
        return tuple(Unresolved(dedupe_key=key, boundary=boundary) for key, boundary in sorted(keys.items()))

    async def standings(self):
        await self._reach()
        found = {}
        for name in sorted({channel for _, channel in self.rows}):
            mine = [(key[0], row) for key, row in self.rows.items() if key[1] == name]
            due = [self.now - self.fanned[one] for one, row in mine if row.state == "due"]
            dead = sum(row.state == "dead" for _, row in mine)
            if due or dead:
                found[name] = Standing(due=len(due), oldest_s=max(due, default=0.0), dead=dead)
        return found

    async def prune(self):
        await self._reach()

    async def _settle(self, delivery, state, why) -> Row:
        await self._reach()
        row = self.rows[delivery.notice.notice_id, delivery.channel]
        row.state, row.why, row.lease_until = state, why, 0.0
        return row

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if not self.up:
            raise StoreUnreachable("the store is away")


class MemoryReceiver:
    """The Receiver port. `script` holds what the next calls raise, or an Event they wait for."""

    def __init__(self) -> None:
        self.got: list = []
        self.script: deque = deque()
        self.under_way = 0
        self.most_under_way = 0

    async def send(self, notice, now) -> Taken:
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            answer = self.script.popleft() if self.script else None
            if isinstance(answer, asyncio.Event):
                await answer.wait()
            if isinstance(answer, Exception):
                raise answer
            self.got.append(notice)
        finally:
            self.under_way -= 1
        return Taken(answer="ok")

    async def close(self) -> None:
        pass


def channel(name="ops", **changes) -> Channel:
    values = {"name": name, "address": name * 4, "receiver": MemoryReceiver(), "min_severity": Severity.WARNING}
    return Channel(**(values | changes))


class Pending:
    """A record whose end the test decides."""

    body = b"{}"
    receipt = Receipt(stream="str_" + "0" * 26, seq=0, hash="0" * 64)

    def __init__(self) -> None:
        self.done = asyncio.get_running_loop().create_future()

    async def settled(self) -> Settled:
        return await asyncio.shield(self.done)

    def settle(self, *, in_journal=False, applied=True) -> None:
        self.done.set_result(Settled(receipt=self.receipt, applied=applied, in_journal=in_journal))

    def fail(self) -> None:
        self.done.set_exception(RecordingFailed("neither place takes it"))


class FakeClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 20, 12, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.time
