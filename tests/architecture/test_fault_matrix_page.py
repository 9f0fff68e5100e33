"""docs/fault-matrix.md is written by a run of the whole matrix, and holds all of it."""

from __future__ import annotations

from pathlib import Path

from chaos.matrix import HOW, IMPOSSIBLE, SMALL, USES, Dependency, Fault, Step, cells
from chaos.report import Facts, Result, document, recorded

PAGE = Path(__file__).parents[2] / "docs" / "fault-matrix.md"


def test_the_page_holds_every_cell_and_every_cell_held():
    expected = {(str(cell.dependency), str(cell.fault), str(cell.step)) for cell in cells()}
    found = recorded(PAGE)

    assert found.keys() == expected
    assert [cell for cell, held in found.items() if not held] == []


def test_what_a_run_writes_is_what_is_read_back(tmp_path):
    results = {cell: Result(problem="") for cell in cells()}
    broken = next(iter(results))
    results[broken] = Result(problem="a | token\nleft")
    page = tmp_path / "page.md"
    page.write_text(document(results, Facts(date="2026-11-21", commit="c", cores=2, python="3.11")))

    found = recorded(page)

    assert len(found) == len(results)
    assert [cell for cell, held in found.items() if not held] == [
        (str(broken.dependency), str(broken.fault), str(broken.step))
    ]


def test_every_combination_is_a_cell_or_has_a_reason():
    """Nothing is left out in silence."""
    played = {(cell.dependency, cell.fault) for cell in cells()}
    for dependency in Dependency:
        assert set(USES[dependency]) <= set(Step)
        for fault in Fault:
            assert ((dependency, fault) in played) is not ((dependency, fault) in IMPOSSIBLE), (dependency, fault)
    assert set(HOW) == set(Fault)
    assert {(cell.dependency, cell.fault, cell.step) for cell in cells()} >= SMALL
