"""How a run's figures are put side by side: ratios, the table, the file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from benchmarks.percentiles import in_ms, ratio
from benchmarks.traffic import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from benchmarks.openloop import Measured


_WIDTH: Final = 100


def ratios(rounds: Sequence[Measured]) -> list[dict[str, object]]:
    """Return how many times the floor Holdfast takes at each rate. Both sides come from this run, minutes apart.

    A figure is null unless both rounds are valid.
    """
    floors = {measured.load.rate_per_s: measured for measured in rounds if measured.kind is Kind.FLOOR}
    found: list[dict[str, object]] = []
    for measured in rounds:
        floor = floors.get(measured.load.rate_per_s)
        if measured.kind is Kind.FLOOR or floor is None:
            continue
        valid = all(side.clean and not side.saturated for side in (measured, floor))
        found.append(
            {
                "target": measured.kind.value,
                "rate_per_s": measured.load.rate_per_s,
                "p50": ratio(measured.latency.p50, floor.latency.p50) if valid else None,
                "p99": ratio(measured.latency.p99, floor.latency.p99) if valid else None,
            }
        )
    return found


def highest(rounds: Iterable[Measured], kind: Kind, limit_ns: int) -> float | None:
    """Return the highest rate that a target held with its p99 under the limit; None if it held none."""
    return max(
        (measured.load.rate_per_s for measured in rounds if measured.kind is kind and measured.within(limit_ns)),
        default=None,
    )


def table(rounds: Sequence[Measured]) -> Table:
    """Return the rounds as a table, a line each."""
    drawn = Table(title="open loop, latency from the intended send time, ms", title_justify="left", min_width=_WIDTH)
    for heading in ("rate/s", "target", "p50", "p90", "p99", "p99.9", "max", "got/s", "lag p99", "verdict"):
        drawn.add_column(heading, justify="left" if heading in {"target", "verdict"} else "right", no_wrap=True)
    for measured in sorted(rounds, key=lambda one: (one.load.rate_per_s, one.kind)):
        latency = measured.latency
        drawn.add_row(
            f"{measured.load.rate_per_s:g}",
            measured.kind.value,
            *(_ms(value) for value in (latency.p50, latency.p90, latency.p99, latency.p999, latency.max)),
            f"{measured.achieved_per_s:.0f}",
            _ms(measured.lag.p99),
            _verdict(measured),
        )
    return drawn


def show(console: Console, rounds: Sequence[Measured], results: Mapping[str, object]) -> None:
    """Print the run for a person."""
    console.print(table(rounds))
    for line in ratios(rounds):
        given = "not given: a round is not valid" if line["p50"] is None else f"p50 x{line['p50']}, p99 x{line['p99']}"
        console.print(f"{line['target']} / floor at {line['rate_per_s']}/s: {given}")
    console.print(f"highest rate with p99 under {results['limit_ms']} ms: {results['highest_rate_per_s']}")


def write(path: Path, results: Mapping[str, object]) -> None:
    """Write the results, stable to read in a diff."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _ms(value_ns: int | None) -> str:
    value = in_ms(value_ns)
    return "-" if value is None else f"{value:.2f}"


def _verdict(measured: Measured) -> str:
    if measured.saturated:
        return "[yellow]saturated[/yellow]"
    if not measured.clean:
        return f"[red]{sum(measured.errors.values())} errors[/red]"
    return "ok"
