"""A process of which a part has failed ends, whatever the other parts do."""

from __future__ import annotations

import signal
import subprocess
import sys

STUBBORN = """
import asyncio, signal
from services import process

process._END_S = 1

async def fails():
    await asyncio.sleep(0.05)
    raise RuntimeError("a part failed")

async def ends():
    await asyncio.sleep(0.05)

async def holds_on():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("held on", flush=True)

async def main():
    async with asyncio.TaskGroup() as tasks:
        for part in (fails() if {failing} else ends(), holds_on()):
            tasks.create_task(part).add_done_callback(process.end_with)
        if not {failing}:
            await asyncio.sleep(1.5)
            import os
            os._exit(7)

asyncio.run(main())
"""


def run(*, failing: bool) -> subprocess.CompletedProcess[str]:
    program = STUBBORN.replace("{failing}", str(failing))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)


def test_a_part_that_fails_ends_the_process_though_another_does_not_let_go():
    ended = run(failing=True)

    assert ended.returncode == -signal.SIGALRM, ended.stderr
    assert "held on" in ended.stdout
    assert "RuntimeError: a part failed" in ended.stderr


def test_a_part_that_merely_ends_does_not():
    assert run(failing=False).returncode == 7
