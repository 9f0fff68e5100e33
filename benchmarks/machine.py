"""What the figures were measured on: commit, processor, memory, versions, the cost of a flush, who else was busy."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.percentiles import Distribution
from benchmarks.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

_PACKAGES: Final = ("asyncpg", "cedarpy", "cryptography", "fastapi", "httptools", "orjson", "uvicorn", "uvloop")
_FLUSHES: Final = 500
_BLOCK: Final = b"\x00" * 4096


def commit() -> Mapping[str, object]:
    """Return the checkout's commit, and whether it holds changes that are not in it. `unknown` outside of git."""
    revision = _git("rev-parse", "HEAD")
    return {"commit": revision or "unknown", "dirty": bool(_git("status", "--porcelain")) if revision else None}


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def describe() -> dict[str, object]:
    """Return the machine and the versions, nothing that names its owner."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def flush_cost(directory: Path) -> Distribution:
    """Return how long one appended block takes to become durable where the database lies: write and fdatasync."""
    path = directory / "flush-probe"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    took_ns: list[int] = []
    try:
        for _ in range(_FLUSHES):
            began_ns = time.perf_counter_ns()
            os.write(descriptor, _BLOCK)
            os.fdatasync(descriptor)
            took_ns.append(time.perf_counter_ns() - began_ns)
    finally:
        os.close(descriptor)
        path.unlink()
    return Distribution.of(took_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks:
    """The processors' time so far, in seconds summed over them. Source: proc(5)."""

    whole_s: float
    idle_s: float
    stolen_s: float

    @classmethod
    def now(cls) -> Ticks:
        """Read it."""
        with Path("/proc/stat").open(encoding="ascii") as stat:
            ticks = [int(value) for value in stat.readline().split()[1:9]]
        per_s = os.sysconf("SC_CLK_TCK")
        return cls(whole_s=sum(ticks) / per_s, idle_s=(ticks[3] + ticks[4]) / per_s, stolen_s=ticks[7] / per_s)

    def since(self, before: Ticks, *, ours_s: float) -> dict[str, float]:
        """Return in percent: what was busy, what was busy with other work than our `ours_s`, what was stolen.

        Stolen is what other machines on the same hardware took.
        """
        whole_s = max(self.whole_s - before.whole_s, 1e-9)
        busy_s = whole_s - (self.idle_s - before.idle_s)
        return {
            "busy_percent": round(100 * busy_s / whole_s, 1),
            "other_work_percent": round(100 * max(0.0, busy_s - ours_s) / whole_s, 1),
            "stolen_percent": round(100 * (self.stolen_s - before.stolen_s) / whole_s, 1),
        }


def busy_percent_at_rest(seconds: float) -> float:
    """Return how busy the processors are while this run does nothing: that is the work of others."""
    before = Ticks.now()
    time.sleep(seconds)
    return Ticks.now().since(before, ours_s=0.0)["busy_percent"]
