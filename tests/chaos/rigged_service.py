"""A service whose every dependency can be broken, at the step of an intent that a test names."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.matrix import LEASE_S
from e2e.running_service import RunningService, _environment

from console.runtime import leash

if TYPE_CHECKING:
    from chaos.matrix import Cell

_RIG = (sys.executable, "-P", "-m", "chaos.rig")
_TESTS = Path(__file__).parents[1]
_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """When a fault was in effect, by this machine's clock."""

    began: float
    ended: float


class FaultNotInflicted(Exception):
    """The rig could not break what it was asked to."""


class RiggedService(RunningService):
    """A `RunningService` run by `chaos.rig` in place of `holdfast up`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, max_per_agent=5_000)
        with (self.policies / "holdfast.yaml").open("a") as settings:
            settings.write(f"limits: {{lease_seconds: {LEASE_S}}}\n")

    @property
    def has_own_disk(self) -> bool:
        return self.data.is_mount()

    def start(self) -> None:
        """Start, and return once it is ready."""
        with (self.directory / "rig.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", leash.__file__),
                    *(str(os.getpid()), str(int(signal.SIGTERM)), "-", "/"),
                    *_RIG,
                    *(str(self.data), str(self.policies), str(self.port)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **_environment(),
                    "PYTHONPATH": str(_TESTS),
                    "HOLDFAST_JOURNAL_MAX_BYTES": str(1 << 20),
                    "PYTHONUNBUFFERED": "1",
                },
            )
        self.until(self._rigged, "the service is ready")

    def _rigged(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError((self.directory / "rig.log").read_text())
        return (self.directory / "rig.sock").exists() and self._started()

    def close(self) -> None:
        super().close()
        if self.data.is_mount():
            subprocess.run(["umount", "-l", str(self.data)], check=False)

    def inflict(self, cell: Cell, *, lasts_s: float) -> Window:
        """Wait until an intent is at the cell's step, break, mend, and say when. Raises: FaultNotInflicted."""
        order = {"dependency": cell.dependency, "fault": cell.fault, "step": cell.step, "lasts_s": lasts_s}
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(_LIMIT_S)
            connection.connect(str(self.directory / "rig.sock"))
            connection.sendall(json.dumps(order).encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline() or b"{}")
        if "began" not in answer:
            raise FaultNotInflicted(answer.get("error", "the rig said nothing"))
        return Window(began=answer["began"], ended=answer["ended"])
