"""What became of each cell of the matrix, as the table that is printed and kept in docs/fault-matrix.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chaos.matrix import HOW, IMPOSSIBLE, UNUSED, USES, Cell, Dependency, Fault, Step, cells

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_HEAD = "| dependency | fault | step | asked | tokens | executed | told | ready after | all decided after | verdict |"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One played cell. `problem` is empty when everything held."""

    asked: int = 0
    tokens: int = 0
    executed: int = 0
    told: tuple[str, ...] = ()
    ready_s: float = 0.0
    decided_s: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """When and on what it was played."""

    date: str
    commit: str
    cores: int
    python: str


def table(results: Mapping[Cell, Result]) -> list[str]:
    """Return the table's lines, in the matrix's order."""
    lines = [_HEAD, "|" + " --- |" * 10]
    lines += [_line(cell, results[cell]) for cell in cells() if cell in results]
    return lines


def _line(cell: Cell, result: Result) -> str:
    told = ", ".join(result.told) or "nothing"
    verdict = "held" if not result.problem else f"BROKEN: {result.problem.splitlines()[0][:120]}".replace("|", "/")
    return (
        f"| {cell.dependency} | {cell.fault} | {cell.step} | {result.asked} | {result.tokens} | {result.executed} | "
        f"{told} | {result.ready_s:.1f} s | {result.decided_s:.1f} s | {verdict} |"
    )


_PAGE = """\
# The fault matrix

`make chaos` plays it and writes this page; `make test` plays a few of its cells. Each dependency is broken in each way
at each step of an intent at which it is used, under a light load of four agents through the SDK, with executors behind
the SDK's guard.

{held} of {played} cells held on {date}, commit {commit}, {cores} cores, Python {python}.

## What is checked in each cell

- **tokens**: answers with a token to questions that were sent, decided and answered inside the fault, by agents whose
  tokens need the dependency. Must be 0. Where the service may act on a last sign of life (*trusted* below), the fault
  counts from then on; with a full disk, from the first intent that could not be decided.
- **asked**: how many such questions there were. Must not be 0, or the cell would prove nothing; a process that is
  started again at once may be back before anybody asks.
- **executed**: actions that executors began and ran inside the fault, on tokens from before it. Must be 0 where the
  consumption needs the dependency. Everywhere: each line of the executors' ledger has one consumed token of one granted
  intent, both in the log.
- **told**: reason codes of what could not be decided. Must be those of the boundary.
- Afterwards, with nobody's help: `/readyz` is 200 again, every intent that waited is decided and recorded exactly once,
  every receipt that was acknowledged is in the log, `holdfast audit verify` finds the chain intact, and no process but
  the one that was killed was started again.

## Results

{table}

*ready after*: from the end of the fault until `/readyz` is 200. *all decided after*: until the last intent of the load
has ended; the drain starts five seconds after the boundaries have closed, and what was in the hands of a worker that
was killed waits for its lease of 30 seconds.

## How each fault is made

{faults}

## Where each dependency is used

| dependency | step | use | trusted |
| --- | --- | --- | --- |
{uses}

## Combinations that mean nothing

{nothing}
- worker, killed, stays away: one step stands for all, what is in its hands waits for the lease in any case.
"""


def document(results: Mapping[Cell, Result], facts: Facts) -> str:
    """Return the whole page."""
    return _PAGE.format(
        held=sum(not result.problem for result in results.values()),
        played=len(results),
        date=facts.date,
        commit=facts.commit,
        cores=facts.cores,
        python=facts.python,
        table="\n".join(table(results)),
        faults="\n".join(f"- **{fault}**: {HOW[fault]}." for fault in Fault),
        uses="\n".join(_use(dependency, step) for dependency, uses in USES.items() for step in uses),
        nothing="\n".join(
            [
                *(f"- {dependency} at {_listed(dependency)}: {why}." for dependency, why in UNUSED.items()),
                *(f"- {dependency}, {fault}: {why}." for (dependency, fault), why in IMPOSSIBLE.items()),
            ]
        ),
    )


def _use(dependency: Dependency, step: Step) -> str:
    use = USES[dependency][step]
    trusted = f"{use.trusted_s:g} s" if use.trusted_s else "not at all"
    return f"| {dependency} | {step} | {use.how} | {trusted} |"


def _listed(dependency: Dependency) -> str:
    return ", ".join(f"`{step}`" for step in Step if step not in USES[dependency])


def recorded(page: Path) -> dict[tuple[str, str, str], bool]:
    """Return the cells that a page holds, and whether each held."""
    found = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        parts = [part.strip() for part in line.strip("|").split("|")]
        if len(parts) == 10 and parts[0] != "dependency" and parts[1] != "---":
            found[parts[0], parts[1], parts[2]] = parts[9] == "held"
    return found
