"""Runs the locust file against both servers, each in a process of its own, bounded in time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import orjson

from benchmarks.processes import RunFailed, started, tail
from benchmarks.stage import AGENT_PREFIX
from benchmarks.traffic import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.stage import Stage

_USERS: Final = 10
_PATIENCE_S: Final = 30.0
_LOCUSTFILE: Final = "benchmarks/locustfile.py"


async def run(on: Stage, place: Path, *, seconds: float) -> dict[str, object]:
    """Return what locust counted for the floor and for submit, consume, report. Raises: RunFailed."""
    return {
        "loop": f"closed: {_USERS} users, each waits for its answers and starts a round every 100 ms at most",
        "seconds": seconds,
        "floor": await _locust("Floor", on.targets[Kind.FLOOR].base_url, on, place, seconds=seconds),
        "holdfast": await _locust("AgentAndExecutor", on.targets[Kind.HOLDFAST].base_url, on, place, seconds=seconds),
    }


async def _locust(user: str, host: str, on: Stage, place: Path, *, seconds: float) -> list[dict[str, object]]:
    stats, log = place / f"locust-{user}", place / f"locust-{user}.log"
    arguments = (
        *("-f", _LOCUSTFILE, user, "--host", host, "--headless", "--only-summary", "--skip-log-setup"),
        *("--users", str(_USERS), "--spawn-rate", str(_USERS), "--run-time", f"{seconds:g}s"),
        *("--json-file", str(stats), "--exit-code-on-error", "0", "--stop-timeout", "5"),
    )
    environment = {"HOLDFAST_BOOTSTRAP": str(on.bootstrap), "HOLDFAST_AGENTS": AGENT_PREFIX}
    async with started("locust", *arguments, log=log, environment=environment) as process:
        try:
            async with asyncio.timeout(seconds + _PATIENCE_S):
                status = await process.wait()
        except TimeoutError as error:
            raise RunFailed(f"locust did not end:\n{tail(log)}") from error
    written = stats.with_name(stats.name + ".json")
    if status != 0 or not written.exists():
        raise RunFailed(f"locust ended with status {status}:\n{tail(log)}")
    return [_line(entry) for entry in orjson.loads(written.read_bytes())]


def _line(entry: dict[str, object]) -> dict[str, object]:
    """Return one request's figures from locust's own."""
    times = entry["response_times"]
    if not isinstance(times, dict):
        raise RunFailed("locust's statistics hold no response times")
    ordered = sorted((float(ms), int(count)) for ms, count in times.items())
    return {
        "request": f"{entry['method']} {entry['name']}",
        "count": entry["num_requests"],
        "failures": entry["num_failures"],
        "p50_ms": _at(ordered, 500),
        "p99_ms": _at(ordered, 990),
        "max_ms": entry["max_response_time"],
    }


def _at(ordered: list[tuple[float, int]], per_mille: int) -> float | None:
    """Return a percentile of values with counts; locust keeps its own to whole milliseconds above one."""
    total = sum(count for _, count in ordered)
    passed = 0
    for value, count in ordered:
        passed += count
        if passed * 1000 >= total * per_mille:
            return value
    return None
