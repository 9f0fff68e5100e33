"""How fast the worker drains: full re-evaluations a second through `holdfast up`, everything on one machine.

The rows are written by SQL in one transaction, as if an outage had left them; the running worker finds them. Each is
classified, scored, evaluated on the active bundle, chained and committed, as every drained intent is. The agents have
no rate limits. Time runs from the insert's commit until no row waits; the shipped pace (start 4, cap 64) applies.

With `--live RATE` agents submit at that rate meanwhile, and before: the ratio says what the drain costs them.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
import orjson
from holdfast.intent import Intent
from rich.console import Console

from benchmarks import machine, openloop, queue_rows, stage
from benchmarks.openloop import Load
from benchmarks.percentiles import in_ms
from benchmarks.processes import RunFailed
from benchmarks.traffic import Kind, intent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.openloop import Measured

_PATIENCE_S: Final = 300.0
_LIVE_S: Final = 15.0
_LOOK_EVERY_S: Final = 0.1
_LEFT: Final = "SELECT count(*) FROM queue_entries WHERE state IN ('waiting', 'leased')"
_BECAME: Final = "SELECT status, count(*) AS intents FROM intents GROUP BY status"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """One run. `best_per_s` is over the best whole five seconds: what the pace reaches once it is up."""

    intents: int
    seconds: float
    best_per_s: float
    became: Mapping[str, int]
    cpu_s: Mapping[str, float]

    @property
    def per_s(self) -> float:
        """Over the whole run, the slow start included."""
        return self.intents / self.seconds


async def measure(on: stage.Stage, intents: int) -> Drained:
    """Fill the queue and watch it drain. Raises: RunFailed if it does not."""
    submission = orjson.dumps(Intent.from_json(intent(7)).to_json(), option=orjson.OPT_SORT_KEYS)
    connection = await asyncpg.connect(on.database_url)
    try:
        before = on.cpu()
        await queue_rows.fill(
            connection, intents, agents=stage.AGENTS, agent_prefix=stage.AGENT_PREFIX, submission=submission
        )
        began, seen = time.monotonic(), [(0.0, intents)]
        while seen[-1][1] > 0:
            if seen[-1][0] > _PATIENCE_S:
                raise RunFailed(f"{seen[-1][1]} intents still wait after {_PATIENCE_S:.0f} s")
            await asyncio.sleep(_LOOK_EVERY_S)
            left = int(await connection.fetchval(_LEFT))
            seen.append((time.monotonic() - began, left))
        became = {row["status"]: int(row["intents"]) for row in await connection.fetch(_BECAME)}
        taken = {name: seconds - before[name] for name, seconds in on.cpu().items()}
    finally:
        await connection.close()
    return Drained(
        intents=intents, seconds=seen[-1][0], best_per_s=_best(seen, window_s=5.0), became=became, cpu_s=taken
    )


def _best(seen: list[tuple[float, int]], *, window_s: float) -> float:
    rates = [0.0]
    for index, (at, left) in enumerate(seen):
        later = next(((then, less) for then, less in seen[index:] if then - at >= window_s), None)
        if later is not None:
            rates.append((left - later[1]) / (later[0] - at))
    return max(rates)


async def _live(on: stage.Stage, rate: float, log: Path) -> Measured:
    load = Load(rate_per_s=rate, seconds=_LIVE_S, warm_up_s=2.0, workers=1)
    return await openloop.measure(on.targets[Kind.HOLDFAST], load, log=log)


async def _run(arguments: argparse.Namespace, console: Console) -> None:
    with tempfile.TemporaryDirectory(prefix="holdfast-drain-") as directory:
        async with stage.raised(Path(directory), stage.shipped_policies()) as on:
            await asyncio.sleep(6)  # the boundaries must have been closed for 5 s
            log = Path(directory) / "generator.log"
            at_rest = await _live(on, arguments.live, log) if arguments.live else None
            ticks = machine.Ticks.now()
            async with asyncio.TaskGroup() as both:
                draining = both.create_task(measure(on, arguments.intents))
                meanwhile = both.create_task(_live(on, arguments.live, log)) if arguments.live else None
            drained = draining.result()
            if at_rest is not None and meanwhile is not None:
                for name, measured in (("at rest", at_rest), ("in the drain", meanwhile.result())):
                    console.print(
                        f"live {name}: p50 {in_ms(measured.latency.p50)} ms, p99 {in_ms(measured.latency.p99)} ms, "
                        f"errors {dict(measured.errors)}"
                    )
            around = machine.Ticks.now().since(ticks, ours_s=sum(drained.cpu_s.values()))
            console.print(
                f"{drained.intents} intents in {drained.seconds:.1f} s: {drained.per_s:.0f}/s, "
                f"best 5 s {drained.best_per_s:.0f}/s; became {dict(drained.became)}"
            )
            console.print(f"cpu: { {k: round(v, 1) for k, v in drained.cpu_s.items()} }, {around}")


def main() -> int:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drain", description=__doc__, allow_abbrev=False)
    parser.add_argument("--intents", type=int, default=30_000)
    parser.add_argument("--live", type=float, default=0.0, metavar="RATE", help="live submissions a second meanwhile")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    try:
        asyncio.run(_run(arguments, console))
    except RunFailed as error:
        console.print(f"benchmarks: {error}", markup=False)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
