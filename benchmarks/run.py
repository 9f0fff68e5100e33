"""`make bench`: one run of everything, beside its floor.

Floor and Holdfast take turns at every rate, so that what the machine does besides meets both. The ratio is the figure;
the milliseconds are this machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from benchmarks import closedloop, commits, machine, micro, report, simulate, stage
from benchmarks.openloop import Load, Measured, measure
from benchmarks.percentiles import in_ms
from benchmarks.processes import ROOT, RunFailed
from benchmarks.schedule import Arrivals
from benchmarks.traffic import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.stage import Stage

RESULTS: Final = ROOT / "benchmarks" / "results"
#: What the project promises for the p99 of a decision. Nothing here fails when it is missed: the figures say so.
LIMIT_NS: Final = 5_000_000
_RATES: Final = (50.0, 200.0, 500.0, 1000.0)
_QUICK_RATES: Final = (50.0, 200.0)
_SEARCH_STEP: Final = 1.5
_SEARCH_ROUNDS: Final = 3
_AT_REST_S: Final = 2.0

METHOD: Final[Mapping[str, object]] = {
    "loop": "open: requests leave on a schedule fixed beforehand, whatever comes back",
    "latency": "from the intended send time to the last byte of the answer (safe from coordinated omission)",
    "percentiles": "exact, nearest rank over every value; null where fewer than one value is expected above",
    "floor": "same framework and server (FastAPI with a plain ASGI route, uvicorn, httptools, uvloop, asyncpg), strict "
    "JSON, one durable single-row commit in the same PostgreSQL, no caller, no decision, no token",
    "holdfast": "`holdfast up`: one API process, PostgreSQL, Valkey, signer and worker on this machine; a low-impact "
    "read by a fleet of agents without rate limits; holdfast+key sends an Idempotency-Key, as the SDK does",
    "right_answer": "HTTP 200 with a token for an intent that no other answer names; about 100 tokens of a round are "
    "verified in full, signature and action digest included; anything else is an error",
    "valid": "no error, and the generator's own send lag p99 is at most 1 ms",
    "order": "floor and holdfast take turns at each rate; the warm-up is left out",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long a run is."""

    rates: tuple[float, ...]
    seconds: float
    warm_up_s: float
    search_seconds: float
    search_rounds: int
    arrivals: Arrivals
    workers: int

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Plan:
        """Return the plan that the command line asks for."""
        quick = bool(arguments.quick)
        rates = _QUICK_RATES if quick else _RATES
        return cls(
            rates=tuple(arguments.rates or rates),
            seconds=arguments.seconds or (3.0 if quick else 8.0),
            warm_up_s=1.0 if quick else 2.0,
            search_seconds=4.0,
            search_rounds=0 if quick else _SEARCH_ROUNDS,
            arrivals=arguments.arrivals,
            workers=arguments.workers,
        )

    def load(self, rate_per_s: float, seconds: float, warm_up_s: float) -> Load:
        """Return one round's load."""
        return Load(
            rate_per_s=rate_per_s,
            seconds=seconds,
            warm_up_s=warm_up_s,
            arrivals=self.arrivals,
            workers=self.workers,
        )


class Run:
    """One run on one stage; `rounds` grows as it goes."""

    def __init__(self, on: Stage, plan: Plan, *, log: Path, say: Callable[[str], None]) -> None:
        self.rounds: list[Measured] = []
        self.details: list[dict[str, object]] = []
        self._stage = on
        self._plan = plan
        self._log = log
        self._say = say

    async def take_turns(self) -> None:
        """Measure every target at every rate."""
        for rate in self._plan.rates:
            for kind in Kind:
                await self._round(kind, self._plan.load(rate, self._plan.seconds, self._plan.warm_up_s))

    async def search(self, kind: Kind) -> None:
        """Raise the rate from the highest that held until one does not."""
        rate = report.highest(self.rounds, kind, LIMIT_NS)
        for _ in range(self._plan.search_rounds if rate is not None else 0):
            rate = float(round((rate or 0.0) * _SEARCH_STEP))
            load = self._plan.load(rate, self._plan.search_seconds, 1.0)
            if not (await self._round(kind, load)).within(LIMIT_NS):
                return

    async def _round(self, kind: Kind, load: Load) -> Measured:
        before, ticks = self._stage.cpu(), machine.Ticks.now()
        measured = await measure(self._stage.targets[kind], load, log=self._log)
        after = self._stage.cpu()
        taken_s = {name: after[name] - before[name] for name in after}
        around = machine.Ticks.now().since(ticks, ours_s=sum(taken_s.values()) + measured.generator_cpu_s)
        requests = max(1, round(load.rate_per_s * (load.seconds + load.warm_up_s)))
        cpu_us = {name: round(1e6 * seconds / requests, 1) for name, seconds in taken_s.items()}
        self.rounds.append(measured)
        self.details.append({**measured.to_json(), "machine": around, "cpu_us_per_request": cpu_us})
        p50, p99 = in_ms(measured.latency.p50), in_ms(measured.latency.p99)
        self._say(
            f"{kind.value} at {load.rate_per_s:g}/s: p50 {p50} ms, p99 {p99} ms "
            f"(other work {around['other_work_percent']} %)"
        )
        # What an overload left behind is not the next round's.
        if not await self._stage.settled():
            self._say("holdfast did not become ready again after this round")
        return measured


async def run(arguments: argparse.Namespace, console: Console) -> Path:
    """Run everything and return where the results are. Raises: RunFailed."""
    plan, say = Plan.of(arguments), console.print
    started_at = datetime.now(UTC)
    commit = machine.commit()
    results: dict[str, object] = {
        "schema": "holdfast-benchmark/v1",
        "at": started_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        **commit,
        "machine": machine.describe(),
        "method": METHOD,
        "limit_ms": in_ms(LIMIT_NS),
        "busy_before_percent": machine.busy_percent_at_rest(_AT_REST_S),
    }
    say(f"processors busy before the run: {results['busy_before_percent']} %")
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as directory:
        # PostgreSQL may run as another account, whose way leads through here.
        place = Path(directory)
        async with stage.raised(place, arguments.policies) as on:
            commit_cost, settings = await commits.probe(on.database_url)
            flush = machine.flush_cost(on.data)
            results["postgresql"] = settings
            results["flush"] = flush.to_json()
            results["commit"] = commit_cost.to_json()
            say(f"durable commit: p50 {in_ms(commit_cost.p50)} ms, p99 {in_ms(commit_cost.p99)} ms")
            running = Run(on, plan, log=place / "generator.log", say=say)
            await running.take_turns()
            for kind in Kind:
                await running.search(kind)
            results["rounds"] = running.details
            results["ratios"] = report.ratios(running.rounds)
            results["highest_rate_per_s"] = {
                kind.value: report.highest(running.rounds, kind, LIMIT_NS) for kind in Kind
            }
            if arguments.locust:
                results["closed_loop"] = await closedloop.run(on, place, seconds=6.0 if arguments.quick else 15.0)
        if arguments.micro:
            results["micro"] = micro.measure_all(arguments.policies)
            results["simulate"] = simulate.measure_all(arguments.policies)
    revision = str(commit["commit"])[:12]
    path: Path = arguments.output or RESULTS / f"{started_at:%Y-%m-%d}-{revision}.json"
    report.write(path, results)
    report.show(console, running.rounds, results)
    return path


def main() -> int:
    """Run the benchmarks from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="two rates, 3 s each, no search: to see that it works")
    parser.add_argument("--rates", type=float, nargs="+", metavar="N", help="requests a second, instead of the usual")
    parser.add_argument("--seconds", type=float, help="measured seconds of each round, instead of the usual")
    parser.add_argument("--arrivals", type=Arrivals, choices=list(Arrivals), default=Arrivals.CONSTANT)
    parser.add_argument("--workers", type=int, default=2, help="sending processes (default: %(default)s)")
    parser.add_argument("--locust", action="store_true", help="a closed-loop run with locust besides")
    parser.add_argument("--micro", action="store_true", help="the micro-benchmarks besides")
    parser.add_argument("--policies", type=Path, default=stage.shipped_policies(), metavar="DIR")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where the results go (default: benchmarks/results)"
    )
    arguments = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        path = asyncio.run(run(arguments, console))
    except RunFailed as error:
        console.print(f"benchmarks: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(f"results: {os.path.relpath(path)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
