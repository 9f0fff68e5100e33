from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chaos.matrix import cells
from chaos.report import Facts, document, table
from e2e.service_fixtures import fresh_service, service

if TYPE_CHECKING:
    from chaos.matrix import Cell
    from chaos.report import Result

__all__ = ["fresh_service", "service"]

ROOT = Path(__file__).parents[2]
_RESULTS = pytest.StashKey[dict["Cell", "Result"]]()
_FACTS = pytest.StashKey[Facts]()


@pytest.fixture
def matrix_results(pytestconfig: pytest.Config) -> dict[Cell, Result]:
    """Return where the results of the fault matrix are kept until the end of the run."""
    if _FACTS not in pytestconfig.stash:
        pytestconfig.stash[_FACTS] = _facts()  # of what is played, not of what the checkout holds when it ends
    return pytestconfig.stash.setdefault(_RESULTS, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table; a run of every cell writes the page."""
    results = config.stash.get(_RESULTS, {})
    if not results:
        return
    terminalreporter.section("fault matrix")
    for line in table(results):
        terminalreporter.line(line)
    if set(cells()) <= set(results):
        (ROOT / "docs" / "fault-matrix.md").write_text(document(results, config.stash[_FACTS]), encoding="utf-8")


def _facts() -> Facts:
    return Facts(
        date=datetime.now(UTC).date().isoformat(),
        commit=_git("rev-parse", "--short=12", "HEAD") + (" with changes" if _git("status", "--porcelain") else ""),
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip()
