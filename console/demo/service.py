"""A throw-away `holdfast up`: how it is waited for."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Final

import httpx2

from console.runtime.failure import CommandFailed
from console.runtime.state import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    from console.demo.processes import Running

READY_S: Final = 60.0
_LOOK_S: Final = 0.1


def up_command(data_dir: Path, policies: Path) -> list[str]:
    """Return the command that serves `policies` from a directory of its own, on any free port of the loopback."""
    return [
        *(sys.executable, "-P", "-m", "console.cli.main", "up"),
        *("--data-dir", str(data_dir), "--port", "0", "--policies", str(policies)),
    ]


async def until_started(
    http: httpx2.AsyncClient, data_dir: Path, service: Running, log: Path
) -> tuple[str, dict[str, dict[str, str]]]:
    """Wait until the service is ready; return its base URL and its bootstrap file. Raises: CommandFailed."""
    deadline = time.monotonic() + READY_S
    bootstrap = data_dir / "bootstrap.json"
    while time.monotonic() < deadline:
        if service.process.returncode is not None:
            raise CommandFailed(f"`holdfast up` ended: {tail(log)}")
        if bootstrap.exists() and (data_dir / "runtime.json").exists():
            document: dict[str, dict[str, str]] = json.loads(bootstrap.read_text(encoding="utf-8"))
            base_url = Runtime.read(data_dir / "runtime.json").base_url
            if await is_ready(http, base_url):
                return base_url, document
        await asyncio.sleep(_LOOK_S)
    raise CommandFailed(f"the service did not become ready: {tail(log)}")


async def is_ready(http: httpx2.AsyncClient, base_url: str) -> bool:
    """Return whether `/readyz` says 200 now."""
    try:
        return (await http.get(f"{base_url}/readyz")).status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


async def until_readiness_is(http: httpx2.AsyncClient, base_url: str, *, ready: bool, limit_s: float) -> None:
    """Wait for a change of readiness. Raises: CommandFailed."""
    deadline = time.monotonic() + limit_s
    while await is_ready(http, base_url) is not ready:
        if time.monotonic() > deadline:
            raise CommandFailed(f"the service was not {'ready' if ready else 'unready'} within {limit_s:.0f} s")
        await asyncio.sleep(_LOOK_S)


def tail(log: Path) -> str:
    """Return the last line of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"
