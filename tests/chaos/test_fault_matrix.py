"""The fault matrix, cell by cell: nothing leaves without its dependency, and all is well again with nobody's help."""

from __future__ import annotations

import asyncio
import time

import pytest
from chaos.evidence import Evidence
from chaos.matrix import CHILDREN, SMALL, Cell, Dependency, Fault, Step, cells
from chaos.paced import PacedLoad
from chaos.report import Result
from chaos.rigged_service import RiggedService, Window

pytestmark = pytest.mark.integration

_BEFORE_S = 0.8
_AFTER_S = 0.4
_LASTS_S = 2.5
#: Late answers come after 3.6 s, and who waits for one that never comes gives up: both must be inside the fault.
_SILENT = frozenset({Fault.SLOW, Fault.STOPPED})
_SILENT_LASTS_S = 5.0
_BACKLOG_S = 1.5
_SETTLE_S = 120.0

#: Makes intents wait, so that there is something for a worker to do.
_BACKLOG = Cell(dependency=Dependency.SIGNER, fault=Fault.REFUSING, step=Step.SIGN)


@pytest.fixture(scope="module")
def rigged(tmp_path_factory):
    """Return one service for the whole matrix: it has to survive every cell, one after the other."""
    running = RiggedService(tmp_path_factory.mktemp("rig"))
    running.start()
    yield running
    running.close()


def of(cell: Cell):
    small = (cell.dependency, cell.fault, cell.step) in SMALL
    return pytest.param(
        cell, id=cell.name.replace(" ", "-"), marks=pytest.mark.chaos if small else pytest.mark.chaos_long
    )


@pytest.mark.parametrize("cell", [of(cell) for cell in cells()])
async def test_a_fault_releases_nothing_and_heals(rigged, tmp_path, matrix_results, cell):
    if cell.fault is Fault.FULL and not rigged.has_own_disk:
        pytest.skip("a disk that may be filled takes a mount, and that takes root")
    load = PacedLoad(rigged, tmp_path / "ledger", name=cell.name.replace(" ", "-"), seed=sum(cell.name.encode()))
    matrix_results[cell] = Result(problem="not played to the end")
    try:
        result = matrix_results[cell] = await play(rigged, load, cell)
    except (AssertionError, TimeoutError, KeyError) as error:
        matrix_results[cell] = Result(problem=f"{type(error).__name__}: {error}")
        raise
    assert result.problem == ""


async def play(service: RiggedService, load: PacedLoad, cell: Cell) -> Result:
    pids = service.runtime["children"]
    asking = asyncio.create_task(load.ask_until_over())
    await asyncio.sleep(_BEFORE_S)
    try:
        window = await broken(service, cell)
        ready = asyncio.create_task(asyncio.to_thread(_ready_at, service))
        await asyncio.sleep(_AFTER_S)
    finally:
        load.stop()
    await asking
    await asyncio.wait_for(load.see_through(), _SETTLE_S)
    decided_at = time.time()
    ready_at = await ready

    found = seen(load, cell, window)
    evidence = await Evidence.gather(service)
    await asyncio.to_thread(stands, evidence, service, load)
    died = {name for name, pid in service.runtime["children"].items() if pids[name] != pid}
    assert died <= may_die(cell), f"died of it: {died}"
    return Result(
        **found,
        ready_s=max(0.0, ready_at - window.ended),
        decided_s=max(0.0, decided_at - window.ended),
    )


async def broken(service: RiggedService, cell: Cell) -> Window:
    if cell.dependency is Dependency.WORKER:
        await asyncio.to_thread(service.inflict, _BACKLOG, lasts_s=_BACKLOG_S)
    lasts_s = (_SILENT_LASTS_S if cell.fault in _SILENT else _LASTS_S) + cell.use.trusted_s
    return await asyncio.to_thread(service.inflict, cell, lasts_s=lasts_s)


def _ready_at(service: RiggedService) -> float:
    service.until_ready()
    return time.time()


def seen(load: PacedLoad, cell: Cell, window: Window) -> dict:
    """Return what was seen inside the fault, and what of it must not be."""
    use = cell.use
    began = window.began + use.trusted_s
    undecided = [a for a in load.answers if a.submitted and a.status == 503 and a.read_at >= window.began]
    if cell.fault is Fault.FULL:
        began = min((answer.read_at for answer in undecided), default=window.ended)
    inside = [a for a in load.answers if a.sent_at >= began and a.read_at <= window.ended]
    asked = [a for a in inside if a.submitted and (not use.agents or a.agent in use.agents)]
    tokens = [a for a in inside if a.body.get("token") and (use.agents is None or a.agent in use.agents)]
    ran = [line for line in load.lines() if line["asked_at"] >= began and line["ran_at"] <= window.ended]
    told = {a.body["reason_code"] for a in inside if a.submitted and a.status == 503}

    problems = []
    if not asked and cell.fault is not Fault.KILLED and cell.dependency is not Dependency.WORKER:
        problems.append("nobody asked for anything inside the fault")
    if tokens:
        problems.append(f"{len(tokens)} tokens left inside the fault")
    if ran and not use.executes:
        problems.append(f"{len(ran)} actions ran inside the fault")
    if told - use.codes and cell.dependency is not Dependency.WORKER:
        problems.append(f"told {', '.join(sorted(told - use.codes))}")
    return {
        "asked": len(asked),
        "tokens": len(tokens),
        "executed": len(ran),
        "told": tuple(sorted(told)),
        "problem": "; ".join(problems),
    }


def stands(evidence: Evidence, service: RiggedService, load: PacedLoad) -> None:
    """Check everything that must hold once all is well again."""
    evidence.every_intent_has_exactly_one_end(load)
    evidence.nothing_ran_without_a_consumed_token(load)
    evidence.every_token_has_its_decision(service, load)
    evidence.the_log_ends_every_intent_once(load)
    verified = service.verify(load.receipts())
    assert verified.returncode == 0, verified.stdout[-2000:] + verified.stderr[-2000:]
    assert service.faults() == []


def may_die(cell: Cell) -> set[str]:
    """Return the processes that the supervisor may have had to start again."""
    if cell.fault is Fault.FULL:
        return {"postgres", "valkey"}
    return {CHILDREN[cell.dependency]} if cell.fault in {Fault.KILLED, Fault.AWAY} else set()
