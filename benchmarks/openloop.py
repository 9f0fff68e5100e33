"""Open-loop load: requests leave at times fixed beforehand, and a latency counts from the time a request was due.

A closed loop asks the next question after the last answer, so that a server that stalls is asked less while it does
(coordinated omission). Here a stall meets every request that was due meanwhile. Source: G. Tene, "How NOT to Measure
Latency".

As a command it loads any server that answers as Holdfast does:
`python -m benchmarks.openloop --bootstrap D/bootstrap.json --rate 200 --seconds 8`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx2
import orjson

from benchmarks.generator import Job, Tally, labels, merged
from benchmarks.percentiles import Distribution, in_ms
from benchmarks.processes import RunFailed, started, tail
from benchmarks.schedule import Arrivals, schedule, share
from benchmarks.traffic import HTTP_OK, Kind, Target

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A generator that is later than this for one request in a hundred measures itself.
MAX_LAG_P99_NS: Final = 1_000_000
_LEAD_NS: Final = 200_000_000
_VERIFIED: Final = 50
_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent. The warm-up comes before the measured `seconds`, at the same rate, and is left out."""

    rate_per_s: float
    seconds: float
    warm_up_s: float = 2.0
    arrivals: Arrivals = Arrivals.CONSTANT
    workers: int = 2
    connections: int = 128
    drain_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of it. Right answers alone count as achieved; `latency` holds those never answered, too."""

    kind: Kind
    load: Load
    latency: Distribution
    lag: Distribution
    achieved_per_s: float
    errors: Mapping[str, int]
    verified: int
    priority: str
    generator_cpu_s: float

    @property
    def saturated(self) -> bool:
        """Whether the generator could not keep its schedule, so that the run says nothing."""
        late_ns = self.lag.p99 if self.lag.p99 is not None else self.lag.max
        return late_ns is None or late_ns > MAX_LAG_P99_NS or "not sent" in self.errors

    @property
    def clean(self) -> bool:
        """Whether every request was answered rightly."""
        return not self.errors and self.latency.count > 0

    def within(self, limit_ns: int) -> bool:
        """Whether the run is valid and clean, and its p99 under a limit."""
        return not self.saturated and self.clean and self.latency.p99 is not None and self.latency.p99 < limit_ns

    def to_json(self) -> dict[str, object]:
        """Return the figures."""
        return {
            "target": self.kind.value,
            "rate_per_s": self.load.rate_per_s,
            "arrivals": self.load.arrivals.value,
            "seconds": self.load.seconds,
            "achieved_per_s": round(self.achieved_per_s, 1),
            "latency": self.latency.to_json(),
            "send_lag": self.lag.to_json(),
            "errors": dict(self.errors),
            "tokens_verified": self.verified,
            "generator_saturated": self.saturated,
            "generator_priority": self.priority,
            "valid": not self.saturated and self.clean,
        }


async def measure(target: Target, load: Load, *, log: Path) -> Measured:
    """Load a server once. Raises: RunFailed when a worker does."""
    run = secrets.token_hex(6)
    times_ns = schedule(
        load.arrivals, rate_per_s=load.rate_per_s, seconds=load.warm_up_s + load.seconds, seed=int(load.rate_per_s)
    )
    numbers = range(len(times_ns))
    jobs = [
        Job(
            target=target,
            run=run,
            times_ns=tuple(share(times_ns, worker=worker, workers=load.workers)),
            numbers=tuple(share(numbers, worker=worker, workers=load.workers)),
            warm_up_s=load.warm_up_s,
            seconds=load.seconds,
            drain_s=load.drain_s,
            connections=max(1, load.connections // load.workers),
            verify_every=max(1, len(times_ns) // load.workers // _VERIFIED),
        )
        for worker in range(load.workers)
    ]
    limit_s = load.warm_up_s + load.seconds + load.drain_s + _PATIENCE_S
    try:
        async with asyncio.timeout(limit_s):
            tally = merged(await _send(jobs, log))
    except TimeoutError as error:
        raise RunFailed(f"the load generator did not end in {limit_s:.0f} s:\n{tail(log)}") from error
    return Measured(
        kind=target.kind,
        load=load,
        latency=Distribution.of(tally.latencies_ns),
        lag=Distribution.of(tally.lags_ns),
        achieved_per_s=tally.in_window / load.seconds,
        errors=tally.errors,
        verified=tally.verified,
        priority=tally.priority,
        generator_cpu_s=tally.cpu_s,
    )


async def _send(jobs: list[Job], log: Path) -> list[Tally]:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(started("benchmarks.generator", log=log, talks=True)) for _ in jobs]
        talks = [(worker.stdin, worker.stdout) for worker in workers]
        for (stdin, _), job in zip(talks, jobs, strict=True):
            if stdin is not None:
                stdin.write(job.to_json() + b"\n")
        for _, stdout in talks:
            if stdout is None or await stdout.readline() != b"ready\n":
                raise RunFailed(f"the load generator did not start:\n{tail(log)}")
        start_ns = time.monotonic_ns() + _LEAD_NS
        for stdin, _ in talks:
            if stdin is not None:
                stdin.write(b"%d\n" % start_ns)
        tallies = [Tally.from_json(await stdout.read()) for _, stdout in talks if stdout is not None]
        for worker in workers:
            await worker.wait()
        return tallies


async def holdfast_target(bootstrap: Mapping[str, object], *, keyed: bool, prefix: str = "") -> Target:
    """Return Holdfast as a target: agents whose names start with `prefix`, and the keys as it publishes them.

    Raises: RunFailed.
    """
    base_url, agents = str(bootstrap["base_url"]), bootstrap["agents"]
    if not isinstance(agents, dict):
        raise RunFailed("bootstrap.json holds no agents")
    chosen = tuple(str(key) for name, key in sorted(agents.items()) if name.startswith(prefix))
    async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
        answer = await client.get(f"{base_url}/.well-known/jwks.json")
    if answer.status_code != HTTP_OK or not chosen:
        raise RunFailed("there are no keys to verify with, or no agents to ask as")
    keys = orjson.loads(answer.content)["keys"]
    return Target(
        kind=Kind.HOLDFAST_KEYED if keyed else Kind.HOLDFAST, base_url=base_url, agents=chosen, jwks=tuple(keys)
    )


def main() -> int:
    """Load one running server and print what came of it as JSON."""
    parser = argparse.ArgumentParser(description="Open-loop load on a running Holdfast.", allow_abbrev=False)
    parser.add_argument("--bootstrap", type=Path, required=True, metavar="FILE", help="bootstrap.json of the service")
    parser.add_argument("--agents", default="", metavar="PREFIX", help="ask as agents with such names (default: all)")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured time (default: %(default)s)")
    parser.add_argument("--arrivals", type=Arrivals, choices=list(Arrivals), default=Arrivals.CONSTANT)
    parser.add_argument("--workers", type=int, default=2, help="sending processes (default: %(default)s)")
    parser.add_argument("--idempotency-keys", action="store_true", help="send an Idempotency-Key with each")
    arguments = parser.parse_args()
    load = Load(
        rate_per_s=arguments.rate, seconds=arguments.seconds, arrivals=arguments.arrivals, workers=arguments.workers
    )

    async def run(log: Path) -> Measured:
        bootstrap = orjson.loads(arguments.bootstrap.read_bytes())
        target = await holdfast_target(bootstrap, keyed=arguments.idempotency_keys, prefix=arguments.agents)
        return await measure(target, load, log=log)

    with tempfile.TemporaryDirectory(prefix="holdfast-load-") as directory:
        try:
            measured = asyncio.run(run(Path(directory) / "load.log"))
        except RunFailed as error:
            print(f"openloop: {error}")
            return 1
    print(json.dumps(measured.to_json(), indent=1))
    if measured.saturated:
        print(f"openloop: generator saturated (send lag p99 {in_ms(measured.lag.p99)} ms); the figures are not valid")
    if not measured.clean:
        print(f"openloop: errors: {labels(measured.errors)}")
    return 0 if measured.clean and not measured.saturated else 1


if __name__ == "__main__":
    raise SystemExit(main())
