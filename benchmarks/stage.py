"""The servers of a run: Holdfast as `holdfast up` runs it, and the floor beside it on the same PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx2
import orjson

from benchmarks.openloop import holdfast_target
from benchmarks.processes import ROOT, cpu_seconds, started, until
from benchmarks.traffic import EXECUTOR, HTTP_OK, Kind, Target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

AGENTS: Final = 100
AGENT_PREFIX: Final = "bench-"
_START_S: Final = 60.0
_PAUSE_S: Final = 0.5
_SETTLE_TRIES: Final = 30
#: What `holdfast up` prints once `/readyz` has answered 200.
_READY: Final = "holdfast: ready at"
_MANIFEST: Final = """\
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {{name: {name}, owner: benchmarks, groups: [fleet]}}
spec:
  tools: [kb.search, kb.read, ticket.create]
  policies:
    - {{effect: allow, resource: "knowledge-base/*", action: read}}
"""
#: The floor authenticates nobody; it is sent as many header bytes all the same.
_NOBODY: Final = "hfa_" + "0" * 43


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What runs, and how it is reached. `database_url` and `executor_key` are secrets."""

    targets: Mapping[Kind, Target]
    database_url: str
    data: Path
    bootstrap: Path
    executor_key: str
    pids: Mapping[str, int]

    def cpu(self) -> dict[str, float]:
        """Return the processor seconds each server has taken so far."""
        return {name: cpu_seconds(pid) for name, pid in self.pids.items()}

    async def settled(self) -> bool:
        """Wait a little, then until Holdfast is ready; return False if it does not become so."""
        await asyncio.sleep(_PAUSE_S)
        async with httpx2.AsyncClient(trust_env=False, timeout=2) as client:
            for _ in range(_SETTLE_TRIES):
                with contextlib.suppress(httpx2.TransportError):
                    answer = await client.get(f"{self.targets[Kind.HOLDFAST].base_url}/readyz")
                    if answer.status_code == HTTP_OK:
                        return True
                await asyncio.sleep(_PAUSE_S)
        return False


@contextlib.asynccontextmanager
async def raised(directory: Path, policies: Path) -> AsyncIterator[Stage]:
    """Run both servers for the time of the block. Raises: RunFailed when one does not start."""
    bundle, data = directory / "policies", directory / "data"
    write_policies(policies, bundle)
    up = ("up", "--data-dir", str(data), "--port", "0", "--policies", str(bundle))
    log = directory / "up.log"
    # SIGTERM, should this process vanish: the supervisor then ends its own children in their order.
    async with started("console.cli.main", *up, log=log, death_signal=signal.SIGTERM) as supervisor:
        await until(lambda: _READY in log.read_text(encoding="utf-8"), supervisor, log=log, timeout_s=_START_S)
        runtime = orjson.loads((data / "runtime.json").read_bytes())
        bootstrap = orjson.loads((data / "bootstrap.json").read_bytes())
        port, floor_log = directory / "floor.port", directory / "floor.log"
        environment = {"HOLDFAST_DATABASE_URL": runtime["database_url"]}
        floor_command = ("--ready", str(port))
        async with started("benchmarks.floor", *floor_command, log=floor_log, environment=environment) as floor:
            await until(port.exists, floor, log=floor_log, timeout_s=_START_S)
            yield Stage(
                targets={
                    Kind.FLOOR: Target(
                        kind=Kind.FLOOR,
                        base_url=f"http://127.0.0.1:{port.read_text(encoding='ascii')}",
                        agents=(_NOBODY,),
                        jwks=(),
                    ),
                    Kind.HOLDFAST: await holdfast_target(bootstrap, keyed=False, prefix=AGENT_PREFIX),
                    Kind.HOLDFAST_KEYED: await holdfast_target(bootstrap, keyed=True, prefix=AGENT_PREFIX),
                },
                database_url=runtime["database_url"],
                data=data,
                bootstrap=data / "bootstrap.json",
                executor_key=bootstrap["executors"][EXECUTOR],
                pids={**runtime["children"], "floor": floor.pid},
            )


def write_policies(shipped: Path, target: Path, *, agents: int = AGENTS) -> None:
    """Copy a bundle and add a fleet: agents without limits that may look things up."""
    shutil.copytree(shipped, target)
    for number in range(agents):
        name = f"{AGENT_PREFIX}{number:03}"
        (target / "agents" / f"{name}.yaml").write_text(_MANIFEST.format(name=name), encoding="utf-8")


def shipped_policies() -> Path:
    """Return the bundle of this checkout."""
    return ROOT / "policies"
