"""The journal on a real disk: processes that end without a word, and disks that take no more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

PROCESS = Path(__file__).with_name("journal_process.py")
ROOT = PROCESS.parents[2]


def run(what: str, directory: Path, *before: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, str(PROCESS), what, str(directory)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )


def test_a_process_that_ends_at_any_operation_leaves_everything_that_it_acknowledged(tmp_path):
    done = run("crash", tmp_path)
    assert done.stdout.startswith("ok"), done.stdout + done.stderr
    assert int(done.stdout.split()[1]) > 30


def test_a_limit_on_files_is_reached_and_lifted_without_a_restart(tmp_path):
    done = run("limit", tmp_path / "journal")
    assert done.stdout.startswith("ok"), done.stdout + done.stderr
    assert "File too large" in done.stdout


def test_a_full_file_system_refuses_and_takes_again_what_it_has_room_for(tmp_path):
    """On a file system of its own, in a mount namespace that ends with the process."""
    mounted = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"', str(tmp_path))
    if os.geteuid() != 0 or shutil.which("unshare") is None or _status(*mounted, "true") != 0:
        pytest.skip("no file system can be mounted here")
    done = run("full", tmp_path, *mounted)
    assert done.stdout.startswith("ok"), done.stdout + done.stderr
    assert "No space left on device" in done.stdout


def test_a_directory_that_takes_no_new_files_refuses_until_it_does():
    """Not below `tmp_path`, which an unprivileged process cannot enter."""
    with tempfile.TemporaryDirectory() as directory:
        done = run("closed", Path(directory))
    assert done.stdout.startswith("ok"), done.stdout + done.stderr
    assert "Permission denied" in done.stdout


def _status(*command: str) -> int:
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode
