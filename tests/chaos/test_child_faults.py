"""Every child killed and stopped in the middle of a load: nothing is lost, nothing happens twice, all is well again."""

from __future__ import annotations

import asyncio
import signal

import pytest
from chaos.evidence import check
from chaos.load import Load
from e2e.running_service import RunningService, send, tree, until

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

STOPPED_S = 2.5


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Return one service for all faults of this module: it has to survive them one after the other."""
    running = RunningService(tmp_path_factory.mktemp("chaos"), max_per_agent=2_000)
    running.start()
    yield running
    running.close()


async def inflict(service: RunningService, load: Load, child: str, how: str) -> None:
    """Wait for the moment, do it, and return once it is over."""
    await load.moment()
    pid = service.pid(child)
    members = tree(pid)
    if how == "kill":
        for member in members:
            send(member, signal.SIGKILL)
        await asyncio.to_thread(until, lambda: service.pid(child) != pid, f"{child} is started again")
        return
    for member in members:
        send(member, signal.SIGSTOP)
    try:
        await asyncio.sleep(STOPPED_S)  # how long the fault lasts, not how long an answer may take
    finally:
        for member in members:
            send(member, signal.SIGCONT)


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize("child", ["postgres", "valkey", "signer", "worker", "api"])
async def test_a_fault_of_one_child_loses_and_doubles_nothing(service, tmp_path, child, how):
    load = Load(service, tmp_path / "ledger", name=f"{child}-{how}", seed=hash_of(child, how), intents=80)

    await load.run(asyncio.create_task(inflict(service, load, child, how)))

    await asyncio.to_thread(service.until_ready)
    await check(service, load)
    assert load.summary()["executed"] > 0
    assert load.summary()["denied"] > 0


def hash_of(child: str, how: str) -> int:
    return sum(f"{child}{how}".encode())
