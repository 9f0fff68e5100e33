"""How fast the worker drains, and what that costs those who submit meanwhile. Through `holdfast up`, on one machine.

The rows are written by SQL in one transaction, as if an outage had left them, no two alike. Each is classified, scored,
evaluated on the active bundle, chained and committed, as every drained intent is. The agents have no rate limits. The
shipped pace applies (start 4, cap 64).

    1. fill   while a report of an open boundary holds the drain, as in an outage
    2. live   with `--live`: open-loop load at each rate, with the drain held and while it drains, in turns, so that
              what the machine does besides meets both
    3. alone  what is left, with nobody submitting

`python -m benchmarks.drain` is phases 1 and 3; `--live 100 200` adds the second; `--output FILE` writes all figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
import orjson
from holdfast.intent import Intent
from rich.console import Console

from benchmarks import machine, openloop, queue_rows, report, stage
from benchmarks.openloop import Load
from benchmarks.percentiles import in_ms, ratio
from benchmarks.processes import RunFailed
from benchmarks.traffic import Kind, intent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from benchmarks.openloop import Measured

_PATIENCE_S: Final = 900.0
_LOOK_EVERY_S: Final = 0.1
_COUNT_EVERY_S: Final = 2.5  # counting walks the table: a hundredth of one processor, with 100,000 rows
_CLOSED_FOR_S: Final = 6.5  # what the boundaries must have been closed for, and a little more
_SETTLE_S: Final = 3.0
_BEST_S: Final = 5.0
_STOPS_S: Final = 2.0  # for what is in flight
_PERCENTILES: Final = ("p50", "p99", "p999")

_HOLD: Final = """
INSERT INTO boundary_reports (process, not_closed, live_slow, reported_at)
VALUES ('benchmark', '{token}', false, now() + interval '1 day')
"""
_RELEASE: Final = "DELETE FROM boundary_reports WHERE process = 'benchmark'"
_LEFT: Final = "SELECT count(*) FROM queue_entries WHERE state IN ('waiting', 'leased')"
_BECAME: Final = "SELECT status, count(*) AS intents FROM intents WHERE intent_id < 'int_001' GROUP BY status"
#: What is drained is an event, and what is answered at once is none.
_EVENTS: Final = "SELECT last_value FROM intent_events_id_seq"
_ANY_LEFT: Final = """
SELECT EXISTS (SELECT FROM queue_entries WHERE state = 'waiting')
    OR EXISTS (SELECT FROM queue_entries WHERE state = 'leased' AND lease_until IS NOT NULL)
"""

METHOD: Final[Mapping[str, object]] = {
    "drain": "`holdfast up`: PostgreSQL (fsync on), Valkey, signer, one API process and one worker on this machine; "
    "full re-evaluations of a low-impact read by 100 agents without rate limits, no two alike; time from the first "
    "drained intent until none waits, the slow start included",
    "live": "open loop, from the intended send time, see docs/benchmarks.md; at rest, with the same queue and the "
    "drain held by a report of an open boundary, and while it drains, in turns; each ratio is of two neighbours, and "
    "each figure of `median` the median of the turns",
    "cpu_us_per_intent": "processor time of each process over the drain alone, divided by the intents drained in it",
    "other_work_percent": "of all processors, what went to none of these processes, the load generator among ours",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A stretch of the drain. `best_per_s` is over the best whole five seconds, None where there were not five."""

    intents: int
    seconds: float
    best_per_s: float | None
    cpu_s: Mapping[str, float]
    around: Mapping[str, float]

    @property
    def per_s(self) -> float:
        """Over the whole stretch."""
        return self.intents / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, object]:
        """Return the figures."""
        each = max(1, self.intents)
        return {
            "intents": self.intents,
            "seconds": round(self.seconds, 2),
            "per_s": round(self.per_s, 1),
            "best_5s_per_s": None if self.best_per_s is None else round(self.best_per_s, 1),
            "cpu_us_per_intent": {name: round(1e6 * seconds / each, 1) for name, seconds in self.cpu_s.items()},
            "machine": dict(self.around),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The same load at rest and in the drain, one after the other."""

    at_rest: Measured
    in_the_drain: Measured
    drain: Stretch

    def ratio(self, name: str) -> float | None:
        """Return how many times the latency at rest that in the drain is, at one percentile."""
        return ratio(getattr(self.in_the_drain.latency, name), getattr(self.at_rest.latency, name))

    def to_json(self) -> dict[str, object]:
        """Return the figures."""
        return {
            "at_rest": self.at_rest.to_json(),
            "in_the_drain": self.in_the_drain.to_json(),
            "ratio": {name: self.ratio(name) for name in _PERCENTILES},
            "drain": self.drain.to_json(),
        }

    def line(self) -> str:
        """Return them for a person."""
        figures = (
            f"{name} {in_ms(getattr(self.at_rest.latency, name))} -> {in_ms(getattr(self.in_the_drain.latency, name))}"
            f" ms (x{self.ratio(name)})"
            for name in _PERCENTILES
        )
        wrong = {**self.at_rest.errors, **self.in_the_drain.errors}
        late = ", generator saturated" if self.at_rest.saturated or self.in_the_drain.saturated else ""
        return (
            f"live {self.at_rest.load.rate_per_s:g}/s, at rest -> in the drain: {', '.join(figures)}, errors {wrong}"
            f"{late}; drained {_line(self.drain)}"
        )


def medians(turns: Sequence[Turn]) -> dict[str, object]:
    """Return the medians over the turns; None where a percentile has too few values."""

    def median(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(statistics.median(known), 3) if len(known) == len(turns) else None

    return {
        "at_rest_ms": {n: median(in_ms(getattr(turn.at_rest.latency, n)) for turn in turns) for n in _PERCENTILES},
        "in_the_drain_ms": {
            n: median(in_ms(getattr(turn.in_the_drain.latency, n)) for turn in turns) for n in _PERCENTILES
        },
        "ratio": {name: median(turn.ratio(name) for turn in turns) for name in _PERCENTILES},
        "drained_per_s": median(turn.drain.per_s for turn in turns),
    }


class Progress:
    """Watches what is left in line."""

    def __init__(self, on: stage.Stage, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._on = on
        self._connection = connection
        self._asking = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def stretch(self, into: list[Stretch], *, others_s: list[float]) -> AsyncIterator[None]:
        """Measure the time of the block. `others_s` is what our own load took of the processors, once it is known."""
        before, ticks, began = self._on.cpu(), machine.Ticks.now(), time.monotonic()
        first = await self._ask(_LEFT)
        seen = [(0.0, 0)]
        watching = asyncio.create_task(self._watch(seen, began, first))
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        seen.append((time.monotonic() - began, first - await self._ask(_LEFT)))
        taken = {name: seconds - before[name] for name, seconds in self._on.cpu().items()}
        ours_s = sum(taken.values()) + sum(others_s)
        into.append(
            Stretch(
                intents=seen[-1][1],
                seconds=seen[-1][0] - idle_before_s(seen),
                best_per_s=best_per_s(seen),
                cpu_s=taken,
                around=machine.Ticks.now().since(ticks, ours_s=ours_s),
            )
        )

    async def until_done(self) -> None:
        """Return when none waits. Raises: RunFailed if that takes too long."""
        until = time.monotonic() + _PATIENCE_S
        while await self._ask(_ANY_LEFT):
            if time.monotonic() > until:
                raise RunFailed(f"{await self._ask(_LEFT)} intents still wait after {_PATIENCE_S:.0f} s")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _ask(self, question: str) -> int:
        async with self._asking:
            return int(await self._connection.fetchval(question))

    async def _watch(self, seen: list[tuple[float, int]], began: float, first: int) -> None:
        events = await self._ask(_EVENTS)
        while await self._ask(_EVENTS) == events:
            seen.append((time.monotonic() - began, 0))
            await asyncio.sleep(_LOOK_EVERY_S)
        while True:
            await asyncio.sleep(_COUNT_EVERY_S)
            left = await self._ask(_LEFT)
            seen.append((time.monotonic() - began, first - left))


def idle_before_s(seen: Sequence[tuple[float, int]]) -> float:
    """Return for how long nothing was drained at first: until the worker looks, up to a second."""
    return max((at for at, drained in seen if drained == seen[0][1]), default=0.0)


def best_per_s(seen: Sequence[tuple[float, int]]) -> float | None:
    """Return the rate over the best whole five seconds; None where there were not five."""
    rates = []
    for index, (at, drained) in enumerate(seen):
        later = next(((then, more) for then, more in seen[index:] if then - at >= _BEST_S), None)
        if later is not None:
            rates.append((later[1] - drained) / (later[0] - at))
    return max(rates, default=None)


class Run:
    """One run on one stage."""

    def __init__(self, on: stage.Stage, arguments: argparse.Namespace, *, log: Path, console: Console) -> None:
        self._on = on
        self._intents: int = arguments.intents
        self._rates: Sequence[float] = arguments.live or ()
        self._seconds: float = arguments.seconds
        self._number_of_turns: int = arguments.turns
        self._log = log
        self._say = console.print

    async def run(self) -> dict[str, object]:
        """Fill, measure at rest, drain. Raises: RunFailed."""
        connection = await asyncpg.connect(self._on.database_url, command_timeout=600)
        try:
            await connection.execute(_HOLD)
            await self._fill(connection)
            progress = Progress(self._on, connection)
            live = [await self._turns(rate, progress, connection) for rate in self._rates]
            stretches: list[Stretch] = []
            await connection.execute(_RELEASE)
            async with progress.stretch(stretches, others_s=[]):
                await progress.until_done()
            became = {row["status"]: int(row["intents"]) for row in await connection.fetch(_BECAME)}
        finally:
            await connection.close()
        alone = stretches[0]
        self._say(f"alone: {_line(alone)}; became {became}")
        return {"live": live, "drain": alone.to_json(), "became": became}

    async def _fill(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        asked = intent(7)
        asked["resource"] = {"type": "knowledge-base", "id": f"article-{queue_rows.NUMBER}"}
        asked["parameters"] = {"query": f"where is my delivery, question {queue_rows.NUMBER}", "limit": 7}
        submission = orjson.dumps(Intent.from_json(asked).to_json(), option=orjson.OPT_SORT_KEYS)
        await queue_rows.fill(
            connection, self._intents, agents=stage.AGENTS, agent_prefix=stage.AGENT_PREFIX, submission=submission
        )
        # What the filling left to do is not the drain's: a checkpoint, and the rows' hint bits.
        await connection.execute("VACUUM ANALYZE intents, queue_entries")
        await connection.execute("CHECKPOINT")
        await asyncio.sleep(_SETTLE_S)

    async def _live(self, rate: float) -> Measured:
        load = Load(rate_per_s=rate, seconds=self._seconds, warm_up_s=2.0, workers=1)
        return await openloop.measure(self._on.targets[Kind.HOLDFAST], load, log=self._log)

    async def _turns(
        self, rate: float, progress: Progress, connection: asyncpg.Connection[asyncpg.Record]
    ) -> dict[str, object]:
        """Load at one rate, at rest and in the drain, in turns. The drain is held before and after."""
        turns: list[Turn] = []
        for _ in range(self._number_of_turns):
            rest, stretches = await self._live(rate), list[Stretch]()
            others_s: list[float] = []
            await connection.execute(_RELEASE)
            async with progress.stretch(stretches, others_s=others_s):
                during = await self._live(rate)
                others_s.append(during.generator_cpu_s)
            await connection.execute(_HOLD)
            await asyncio.sleep(_STOPS_S)
            turns.append(Turn(at_rest=rest, in_the_drain=during, drain=stretches[0]))
            self._say(turns[-1].line())
        return {"rate_per_s": rate, "turns": [turn.to_json() for turn in turns], "median": medians(turns)}


def _line(stretch: Stretch) -> str:
    each = {name: round(1e6 * s / max(1, stretch.intents)) for name, s in stretch.cpu_s.items() if s > 0}
    best = "-" if stretch.best_per_s is None else f"{stretch.best_per_s:.0f}"
    return (
        f"{stretch.intents} in {stretch.seconds:.1f} s: {stretch.per_s:.0f}/s, best 5 s {best}/s; "
        f"cpu us each {each}; other work {stretch.around['other_work_percent']} %"
    )


async def _run(arguments: argparse.Namespace, console: Console) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="holdfast-drain-") as directory:
        async with stage.raised(Path(directory), stage.shipped_policies()) as on:
            await asyncio.sleep(_CLOSED_FOR_S)
            busy = machine.busy_percent_at_rest(1.0)
            console.print(f"processors busy before the run: {busy} %")
            told = await Run(on, arguments, log=Path(directory) / "generator.log", console=console).run()
    return {
        "schema": "holdfast-drain/v1",
        "at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        **machine.commit(),
        "machine": machine.describe(),
        "method": METHOD,
        "busy_before_percent": busy,
        **told,
    }


def main() -> int:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drain", description=__doc__, allow_abbrev=False)
    parser.add_argument("--intents", type=int, default=40_000)
    parser.add_argument("--live", type=float, nargs="+", metavar="RATE", help="live submissions a second, one by one")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each live round (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="at rest and in the drain (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results there")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=160)
    try:
        results = asyncio.run(_run(arguments, console))
    except RunFailed as error:
        console.print(f"benchmarks: {error}", markup=False)
        return 1
    if arguments.output is not None:
        report.write(arguments.output, results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
