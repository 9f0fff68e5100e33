"""Children under a supervisor, with stand-ins for the real programs."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from runtime_processes import alive, program, until

from console.runtime import leash
from console.runtime.children import RESTARTS, RESTARTS_BEFORE_READY, Children, Command, Patience, run_once
from console.runtime.failure import CommandFailed

pytestmark = pytest.mark.integration


def shell(name, script, **options):
    return Command(
        name=name, argv=("/bin/sh", "-c", script), environment={"PATH": "/usr/bin:/bin"}, directory=Path("/"), **options
    )


async def at_once():
    return True


async def test_a_child_that_is_killed_runs_again_and_that_is_said(tmp_path):
    said, seen = [], []
    async with Children(logs=tmp_path, say=said.append, changed=seen.append) as children:
        await children.start(shell("sleeper", "exec sleep 600"), at_once)
        first = children.pids()["sleeper"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: children.pids()["sleeper"] != first)
        await until(lambda: seen[-1] == children.pids())
        second = children.pids()["sleeper"]
        assert alive(second)
    assert not alive(second)
    assert said[0].startswith(f"sleeper (pid {first}) was killed by SIGKILL; restart 1 of")
    assert said[1] == f"sleeper is running again (pid {second})"


async def test_a_child_that_was_ready_once_is_borne_with_for_longer(tmp_path):
    async with Children(logs=tmp_path, say=lambda _: None) as children:
        await children.start(shell("sleeper", "exec sleep 600"), at_once)
        for _ in range(RESTARTS_BEFORE_READY + 1):
            pid = children.pids()["sleeper"]
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: children.pids()["sleeper"] != pid)


async def test_a_child_that_cannot_start_is_given_up_with_the_end_of_its_log(tmp_path):
    async def never():
        return False

    async with Children(logs=tmp_path, say=lambda _: None) as children:
        with pytest.raises(CommandFailed, match=r"(?s)broken .*exited with status 3; .*giving up.*\n  no such luck"):
            await children.start(shell("broken", "echo no such luck; exit 3"), never)


async def test_a_child_that_is_never_given_up_runs_again_however_often_it_died(tmp_path):
    """An outage that lasts is refused by those who are left, not ended by stopping everybody."""
    said, log = [], tmp_path / "log"
    log.mkdir()
    flag, deaths = tmp_path / "mended", RESTARTS_BEFORE_READY + 2
    script = f'[ -e "{flag}" ] && exec sleep 600; echo still broken; exit 1'

    async with Children(logs=log, say=said.append) as children:
        await children.start(shell("sleeper", script), at_once)
        children.never_give_up()
        children._children[0].patience = Patience(limit=None, deaths=RESTARTS - deaths)
        await until(lambda: sum("exited with status 1" in line for line in said) > deaths)
        assert not children._lost.done()
        flag.touch()
        await until(lambda: alive(children.pids()["sleeper"]) and program(children.pids()["sleeper"]) == "sleep")

    assert any("still broken" in line for line in said), "the end of its log is shown now and then"


async def test_children_live_on_where_nothing_can_be_written(tmp_path):
    said = []

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    async with Children(logs=tmp_path, say=said.append, changed=full) as children:
        await children.start(shell("sleeper", "exec sleep 600"), at_once)
        first = children.pids()["sleeper"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: children.pids()["sleeper"] != first)
        await until(lambda: len(said) == 4)
        assert alive(children.pids()["sleeper"])

    assert said[0] == said[-1] == "the process ids could not be written down: No space left on device"


async def test_a_child_that_the_system_does_not_start_now_is_started_later(tmp_path):
    said, logs = [], tmp_path / "log"
    logs.mkdir()
    async with Children(logs=logs, say=said.append) as children:
        await children.start(shell("sleeper", "exec sleep 600"), at_once)
        first = children.pids()["sleeper"]
        logs.rename(tmp_path / "away")
        os.kill(first, signal.SIGKILL)
        await until(lambda: any("cannot be started again: No such file or directory" in line for line in said))
        logs.mkdir()
        await until(lambda: children.pids()["sleeper"] != first)
        assert alive(children.pids()["sleeper"])


async def test_children_stop_in_reverse_order(tmp_path):
    order = tmp_path / "order"
    script = 'trap \'echo {name} >> "{order}"; exit 0\' TERM; touch "{ready}"; while :; do sleep 0.02; done'

    async with Children(logs=tmp_path, say=lambda _: None) as children:
        for name in ("first", "second", "third"):
            flag = tmp_path / f"{name}.ready"

            async def ready(flag=flag):
                return flag.exists()

            await children.start(shell(name, script.format(name=name, order=order, ready=flag)), ready)

    assert order.read_text().split() == ["third", "second", "first"]


async def test_a_child_that_does_not_stop_is_killed_and_reported(tmp_path):
    said, flag = [], tmp_path / "ready"

    async def ready():
        return flag.exists()

    async with Children(logs=tmp_path, say=said.append) as children:
        stubborn = shell("stubborn", f'trap "" TERM; touch "{flag}"; while :; do sleep 0.02; done', grace_s=0.2)
        await children.start(stubborn, ready)
        pid = children.pids()["stubborn"]

    assert not alive(pid)
    assert said == [f"stubborn (pid {pid}) did not stop in time and was killed"]


async def test_a_child_that_was_frozen_still_stops_by_itself(tmp_path):
    said, flag = [], tmp_path / "ready"

    async def ready():
        return flag.exists()

    async with asyncio.timeout(30), Children(logs=tmp_path, say=said.append) as children:
        tidy = shell("frozen", f'trap "exit 0" TERM; touch "{flag}"; while :; do sleep 0.02; done', grace_s=600)
        await children.start(tidy, ready)
        os.kill(children.pids()["frozen"], signal.SIGSTOP)

    assert said == []


async def test_a_hurry_leaves_no_grace(tmp_path):
    said, flag = [], tmp_path / "ready"

    async def ready():
        return flag.exists()

    async with asyncio.timeout(30), Children(logs=tmp_path, say=said.append) as children:
        stubborn = shell("stubborn", f'trap "" TERM; touch "{flag}"; while :; do sleep 0.02; done', grace_s=600)
        await children.start(stubborn, ready)
        children.hurry()

    assert len(said) == 1


async def test_the_body_s_error_passes_through_and_the_children_stop(tmp_path):
    pids = []

    async def body():
        async with Children(logs=tmp_path, say=lambda _: None) as children:
            await children.start(shell("sleeper", "exec sleep 600"), at_once)
            pids.extend(children.pids().values())
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await body()
    assert len(pids) == 1
    assert not alive(pids[0])


async def test_a_command_that_fails_raises_with_its_output(tmp_path):
    with pytest.raises(CommandFailed, match=r"(?s)step exited with status 4.*\n  because"):
        await run_once(shell("step", "echo because >&2; exit 4"), tmp_path / "step.log")


async def test_a_command_that_is_cancelled_is_stopped(tmp_path):
    log = tmp_path / "step.log"
    task = asyncio.create_task(run_once(shell("step", "echo $$; exec sleep 600"), log))
    await until(lambda: log.exists() and log.read_text().endswith("\n"))
    pid = int(log.read_text())

    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    assert not alive(pid)


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from console.runtime.children import Children, Command

async def at_once():
    return True

async def main(logs):
    async with Children(logs=logs, say=print) as children:
        for name in ("one", "two"):
            await children.start(
                Command(name=name, argv=("/bin/sleep", "600"), environment={}, directory=logs), at_once
            )
        print(*children.pids().values(), flush=True)
        await children.lost()

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_a_supervisor_that_is_killed_leaves_no_child(tmp_path):
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SUPERVISOR, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    pids = [int(pid) for pid in (await supervisor.stdout.readline()).split()]
    assert len(pids) == 2
    # Past the leash, which would notice the loss by itself.
    await until(lambda: all(program(pid) == "/bin/sleep" for pid in pids))

    supervisor.kill()
    await supervisor.communicate()

    await until(lambda: not any(alive(pid) for pid in pids))


def test_a_child_whose_supervisor_is_gone_already_does_not_start():
    start = [sys.executable, "-I", "-S", leash.__file__, "1", "9", "-", "/", "/bin/echo", "started"]

    ended = subprocess.run(start, capture_output=True, text=True, check=False)

    assert ended.returncode == leash.REFUSED
    assert ended.stdout == ""
    assert "the supervisor is gone" in ended.stderr


def test_a_program_that_cannot_be_started_is_named():
    start = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), "9", "-", "/", "/no/such/program"]

    ended = subprocess.run(start, capture_output=True, text=True, check=False)

    assert ended.returncode == leash.REFUSED
    assert "/no/such/program" in ended.stderr
