"""What all processes have seen of each agent lately, kept in Valkey; a decision is answered from this process's memory.

Every process writes its own tallies, as absolute numbers under a name of its own that it takes at start: writing twice
changes nothing, a process that starts again takes nothing back, and reading tells its own from the others'. Writing
happens behind the decision and reading beside it. Valkey is in a decision's way once, for at most 50 ms: when this
process has not heard of the agent for a while. While Valkey is away, this process's own memory answers, and what it
does not know is novel. Source: docs/risk.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.activity import (
    DENIALS_WINDOW_S,
    MAX_AGENTS,
    MAX_FAMILIAR,
    VELOCITY_WINDOW_S,
    RecentActivity,
    Traits,
)
from services.decision.verdict import Allow, Deny

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from holdfast.intent import Intent

    from services.decision.risk import Signals
    from services.decision.verdict import Verdict
    from services.ports import Clock

_K = TypeVar("_K")
_log = logging.getLogger(__name__)

WRITE_EVERY_S: Final = 0.25
#: How often an agent is read back at the most, how many are after each write, and how many in one round trip.
_READ_EVERY_S: Final = 1.0
_READ_A_TICK: Final = 12
_READ_TOGETHER: Final = 3
#: How long a decision may wait for what the others know of an agent, and for how long the answer then serves.
RECALL_S: Final = 0.05
_FRESH_S: Final = 15.0
#: After a failure no decision waits for Valkey for this long.
_AWAY_S: Final = 5.0
#: Agents asked for within this time are read back; so many at most, the latest first.
_RECENT_S: Final = 60.0
_READ_AT_ONCE: Final = 500
_WRITE_AT_ONCE: Final = 20
_TIMEOUT_S: Final = 1.0

_MINUTE_S: Final = 60
#: Calls are told apart by slots of a minute. A slot counts as long as part of it lies in the window: never too few.
_SLOT_S: Final = 5
_MINUTES: Final = int(DENIALS_WINDOW_S) // _MINUTE_S + 1
_TALLY_LIFE_S: Final = (_MINUTES + 2) * _MINUTE_S
_FAMILIAR_LIFE_S: Final = 90 * 86_400
#: Familiar traits are read again from this much before the last reading: clocks differ.
_OVERLAP_S: Final = 60.0
_MAX_TALLIES: Final = 50_000
_MAX_UNWRITTEN_TRAITS: Final = 50_000


@dataclass(slots=True)
class _Tally:
    """One agent's minute, as this process counted it. `calls` by slot."""

    calls: dict[int, int] = field(default_factory=dict)
    denials: int = 0


@dataclass(slots=True)
class _Others:
    """One agent, as the other processes counted it. `calls` by the start of a slot, `denials` of a minute."""

    asked_at: float
    read_at: float | None = None
    calls: dict[int, int] = field(default_factory=dict)
    denials: dict[int, int] = field(default_factory=dict)
    familiar_until: float = 0.0


class SharedActivity:
    """The Activity port over Valkey. `process` must be new at every start."""

    def __init__(self, broker_url: str, *, clock: Clock, process: str) -> None:
        self._redis: Redis = Redis.from_url(
            broker_url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, decode_responses=False
        )
        self._clock = clock
        self._process = process
        self._own = RecentActivity()
        self._others: OrderedDict[str, _Others] = OrderedDict()
        self._tallies: OrderedDict[tuple[str, int], _Tally] = OrderedDict()
        self._unwritten: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._allowed: OrderedDict[tuple[str, str, bytes], float] = OrderedDict()
        self._recalling: dict[str, asyncio.Event] = {}
        self._away_until = float("-inf")
        self._away = False

    # --- the port -------------------------------------------------------------------------------------------------

    async def recall(self, agent: str) -> None:
        """Fetch what the others know of an agent that was not heard of lately: at most 50 ms, and never an error."""
        now = self._clock.monotonic()
        others = self._others.get(agent)
        if others is None:
            others = self._others[agent] = _Others(asked_at=now)
            if len(self._others) > MAX_AGENTS:
                self._others.popitem(last=False)
        others.asked_at = now
        self._others.move_to_end(agent)
        if now < self._away_until or (others.read_at is not None and now - others.read_at < _FRESH_S):
            return
        under_way = self._recalling.get(agent)
        if under_way is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECALL_S):
                    await under_way.wait()
            return
        done = self._recalling[agent] = asyncio.Event()
        try:
            async with asyncio.timeout(RECALL_S):
                await self._read([agent])
        except _UNREACHABLE as error:
            self._failed(error)
        finally:
            del self._recalling[agent]
            done.set()

    def signals(self, agent: str, intent: Intent, now: datetime) -> Signals:
        """Return the signals as of now, this intent not counted: this process's own, and the others' last known."""
        own = self._own.signals(agent, intent, now)
        others = self._others.get(agent)
        if others is None:
            return own
        at = now.timestamp()
        return replace(
            own,
            recent_denials=own.recent_denials + _since(others.denials, _MINUTE_S, at - DENIALS_WINDOW_S),
            velocity=own.velocity + _since(others.calls, _SLOT_S, at - VELOCITY_WINDOW_S),
        )

    def note(self, agent: str, intent: Intent, now: datetime, verdict: Verdict) -> None:
        """Count one recorded verdict. Returns at once; it is written within a quarter of a second."""
        self._own.note(agent, intent, now, verdict)
        at = now.timestamp()
        minute, second = divmod(int(at), _MINUTE_S)
        tally = self._tallies.setdefault((agent, minute), _Tally())
        slot = second // _SLOT_S
        tally.calls[slot] = tally.calls.get(slot, 0) + 1
        tally.denials += isinstance(verdict, Deny)
        self._unwritten[agent, minute] = None
        if isinstance(verdict, Allow):
            traits = Traits.of(intent)
            self._allowed["actions", agent, traits.action] = at
            self._allowed["resources", agent, traits.resource] = at
        self._bound(minute)

    # --- beside the decisions -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write and read back until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.write()
            await self.read_back(limit=_READ_A_TICK, every_s=_READ_EVERY_S)

    async def write(self) -> None:
        """Write what was noted. What cannot be written now is kept, up to a bound."""
        unwritten, self._unwritten = self._unwritten, OrderedDict()
        # Side by side what goes to one key: it is one command then.
        allowed, self._allowed = OrderedDict(sorted(self._allowed.items())), OrderedDict()
        try:
            while unwritten or allowed:
                await self._write(_first(unwritten, _WRITE_AT_ONCE), _first(allowed, _WRITE_AT_ONCE))
                for key in _first(unwritten, _WRITE_AT_ONCE):
                    del unwritten[key]
                for trait in _first(allowed, _WRITE_AT_ONCE):
                    del allowed[trait]
        except _UNREACHABLE as error:
            self._failed(error)
        finally:
            # Also when cancelled. Writing twice changes nothing.
            self._unwritten = unwritten | self._unwritten
            self._allowed = allowed | self._allowed

    async def read_back(self, *, limit: int = _READ_AT_ONCE, every_s: float = 0.0) -> None:
        """Read what the others counted of the agents that were asked for lately, those not read for longest first.

        A few at a time: a long pipeline would hold the loop, and every decision with it, for as long as it takes to
        pack and to parse. So with many agents each is read less often.
        """
        now = self._clock.monotonic()
        waited = {
            agent: float("inf") if others.read_at is None else now - others.read_at
            for agent, others in self._others.items()
            if others.asked_at >= now - _RECENT_S
        }
        due = sorted((agent for agent, s in waited.items() if s >= every_s), key=waited.__getitem__, reverse=True)[
            :limit
        ]
        try:
            for start in range(0, len(due), _READ_TOGETHER):
                await self._read(due[start : start + _READ_TOGETHER])
        except _UNREACHABLE as error:
            self._failed(error)

    async def close(self) -> None:
        """Write the rest, as far as that takes no longer than a quarter of a second, and close the connections."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WRITE_EVERY_S):
                await self.write()
        await self._redis.aclose()

    # --- Valkey ---------------------------------------------------------------------------------------------------

    async def _write(self, keys: Sequence[tuple[str, int]], allowed: Sequence[tuple[str, str, bytes]]) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            for agent, minute in keys:
                tally = self._tallies.get((agent, minute))
                if tally is None:
                    continue
                fields = {f"{self._process}:{slot}": count for slot, count in tally.calls.items()}
                if tally.denials:
                    fields[f"{self._process}:denials"] = tally.denials
                pipe.hset(_tally_key(agent, minute), mapping=fields)
                pipe.expire(_tally_key(agent, minute), _TALLY_LIFE_S)
            now = self._clock.now().timestamp()
            familiar: dict[str, dict[bytes, float]] = {}
            for kind, agent, trait in allowed:
                familiar.setdefault(_familiar_key(kind, agent), {})[trait] = now
            for key, traits in familiar.items():
                pipe.zadd(key, traits)
                pipe.zremrangebyrank(key, 0, -MAX_FAMILIAR - 1)
                pipe.expire(key, _FAMILIAR_LIFE_S)
            await pipe.execute()
        self._reached()

    async def _read(self, agents: Sequence[str]) -> None:
        now = self._clock.now().timestamp()
        minutes = range(int(now) // _MINUTE_S - _MINUTES, int(now) // _MINUTE_S + 2)
        async with self._redis.pipeline(transaction=False) as pipe:
            for agent in agents:
                others = self._others.get(agent)
                since = 0.0 if others is None else others.familiar_until
                for minute in minutes:
                    pipe.hgetall(_tally_key(agent, minute))
                for kind in ("actions", "resources"):
                    pipe.zrangebyscore(_familiar_key(kind, agent), since, "+inf")
            answers = iter(await pipe.execute())
        for agent in agents:
            counted = {minute: next(answers) for minute in minutes}
            actions, resources = next(answers), next(answers)
            self._own.learn(agent, actions=actions, resources=resources)
            others = self._others.get(agent)
            if others is not None:
                others.calls, others.denials = self._of_others(counted)
                others.read_at = self._clock.monotonic()
                others.familiar_until = now - _OVERLAP_S
        self._reached()

    def _of_others(self, counted: dict[int, dict[bytes, bytes]]) -> tuple[dict[int, int], dict[int, int]]:
        calls: dict[int, int] = {}
        denials: dict[int, int] = {}
        own = self._process.encode()
        for minute, fields in counted.items():
            for name, value in fields.items():
                process, _, what = name.rpartition(b":")
                if process == own:
                    continue
                count = max(0, int(value))
                if what == b"denials":
                    denials[minute * _MINUTE_S] = denials.get(minute * _MINUTE_S, 0) + count
                else:
                    slot = minute * _MINUTE_S + int(what) * _SLOT_S
                    calls[slot] = calls.get(slot, 0) + count
        return calls, denials

    # --- bounds and health ----------------------------------------------------------------------------------------

    def _bound(self, minute: int) -> None:
        while self._tallies:
            oldest = next(iter(self._tallies))
            if oldest[1] >= minute - _MINUTES and len(self._tallies) <= _MAX_TALLIES:
                break
            del self._tallies[oldest]
            self._unwritten.pop(oldest, None)
        while len(self._allowed) > _MAX_UNWRITTEN_TRAITS:
            self._allowed.popitem(last=False)

    def _failed(self, error: Exception) -> None:
        self._away_until = self._clock.monotonic() + _AWAY_S
        if not self._away:
            _log.warning("agents' shared activity is out of reach; memory answers: %s", type(error).__name__)
        self._away = True

    def _reached(self) -> None:
        if self._away:
            _log.warning("agents' shared activity is within reach again")
        self._away, self._away_until = False, float("-inf")


#: TypeError and ValueError: what is stored there is not what was written.
_UNREACHABLE: Final = (RedisError, OSError, TimeoutError, ValueError, TypeError)


def _since(counts: dict[int, int], width_s: int, since: float) -> int:
    return sum(count for start, count in counts.items() if start + width_s > since)


def _first(keys: Iterable[_K], count: int) -> list[_K]:
    return list(islice(keys, count))


def _tally_key(agent: str, minute: int) -> str:
    return f"holdfast:activity:{{{agent}}}:{minute}"


def _familiar_key(kind: str, agent: str) -> str:
    return f"holdfast:activity:{{{agent}}}:{kind}"
