"""How many recorded intents `holdfast policy simulate` replays in a second of one core, for each kind of change.

The intents are the cases of the bundle's own tests, over and over, each about a resource of its own and a second later
than the one before, so that no two are alike. Each is read from the row in which the service stores it, put to the old
and to the new bundle, and compared, as the command does; the database itself is left out. What counts is the processor
time of this one thread, not the time on the wall. Where other work shares the core's caches and threads, that time
grows, too: the fastest of many short rounds is the machine's own speed, the median is what was met.

`python -m benchmarks.simulate` prints the figures; with `--output FILE` it writes them, too.
"""

from __future__ import annotations

import argparse
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks import machine, report
from benchmarks.stage import shipped_policies
from services.decision.bundle import read_bundle
from services.decision.policy import Policy
from services.decision.simulation import Sameness, Simulation
from services.policy_files import read_directory
from services.postgres.decisions import recorded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg

    from services.decision.bundle import Bundle
    from services.decision.suite import Case

_INTENTS: Final = 20_000
#: The first round compiles the slices, and does not count.
_ROUNDS: Final = 20
_SCOPED: Final = b"""
@id("measured") @reason("measured")
forbid (principal, action in Action::"effect:external", resource) when { resource.id like "*7" };
"""
#: About every intent there is: nothing can be answered once for both bundles.
_UNSCOPED: Final = _SCOPED.replace(b' in Action::"effect:external"', b"").replace(b'"measured"', b'"everywhere"')


def measure_all(policies: Path) -> dict[str, object]:
    """Return the rates, for the bundle at `policies` against changes of it."""
    files = read_directory(policies)
    bundle = read_bundle(files)
    rows = _rows(bundle)
    return {
        "unit": "intents per second of one core's processor time",
        "intents": _INTENTS,
        "rounds": _ROUNDS,
        "changes": {
            name: _rate(bundle, read_bundle({**files, **change}), rows) for name, change in _changes(files).items()
        },
    }


def _changes(files: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Return the files that each kind of change replaces."""
    rules, agent = (min(path for path in files if path.startswith(folder)) for folder in ("rules/", "agents/"))
    catalog, resources, settings = "catalog.yaml", "resources.yaml", "holdfast.yaml"
    one = {
        "a rule about some actions": {rules: files[rules] + _SCOPED},
        "a rule about every action": {rules: files[rules] + _UNSCOPED},
        "a manifest": {agent: files[agent].replace(b"effect: allow", b"effect: deny", 1)},
        "the catalogue, one category": {catalog: files[catalog].replace(b"impact: medium", b"impact: high", 1)},
        "the catalogue, every category": {
            catalog: files[catalog].replace(b"    {description: ", b"    {description: A ")
        },
        "the resources": {resources: files[resources].replace(b"confidential", b"restricted")},
        "the settings: weights of the risk": {
            settings: files[settings] + b"risk: {weights: {production: 16, irreversible: 16}}\n"
        },
    }
    whole = {path: data for change in one.values() for path, data in change.items()}
    return {**one, "all of these at once": whole}


def _rows(bundle: Bundle) -> list[asyncpg.Record]:
    cases = [case for path in sorted(bundle.suites) for case in bundle.suites[path].cases]
    rows = [_row(cases, number) for number in range(_INTENTS)]
    return cast("list[asyncpg.Record]", rows)


def _row(cases: Sequence[Case], number: int) -> dict[str, object]:
    """Return an intent as `services.postgres.decisions` selects it."""
    case = cases[number % len(cases)]
    at = case.at() + timedelta(seconds=number % 3600)
    resource = {**case.intent["resource"], "id": f"{case.intent['resource']['id']}-{number}"}
    factors = [
        {"name": "impact", "points": 40, "why": "the category's impact is high"},
        {"name": "production", "points": 15, "why": "it is about production"},
        {"name": "irreversible", "points": 15, "why": "it cannot be undone"},
    ]
    envelope = {
        "decision": "deny",
        "reason_code": "NO_MATCHING_POLICY",
        "detail": "no policy permits it",
        "policy": {"bundle": "sha256:" + "0" * 64, "determining": []},
        "risk": {"score": 70, "tier": "high", "factors": factors},
    }
    return {
        "intent_id": f"int_{number:026}",
        "agent": case.agent,
        "submission": orjson.dumps({**case.intent, "resource": resource}),
        "created_at": at,
        "decided_at": at,
        "envelope": orjson.dumps(envelope),
        "body": orjson.dumps({"intent_id": f"int_{number:026}", "agent": case.agent, **envelope}),
    }


def _rate(old: Bundle, new: Bundle, rows: Sequence[asyncpg.Record]) -> dict[str, int]:
    """Return the rates, with the differences that were found, so that it is plain that something was compared."""
    simulation = Simulation(Policy.compile(old), Policy.compile(new), Sameness(old, new))
    size = len(rows) // _ROUNDS
    rates = []
    for start in range(0, len(rows), size):
        began_s = time.thread_time()
        for row in rows[start : start + size]:
            simulation.add(recorded(row))
        rates.append(size / (time.thread_time() - began_s))
    counted = sorted(rates[1:])
    return {
        "fastest_per_s": round(counted[-1]),
        "median_per_s": round(counted[len(counted) // 2]),
        "differences": simulation.looser + simulation.stricter + simulation.other,
    }


def table(figures: Mapping[str, object]) -> Table:
    """Return the figures as a table."""
    changes = figures["changes"]
    if not isinstance(changes, dict):
        raise TypeError("these are not the figures of `measure_all`")
    drawn = Table("changed", title="simulate, intents/s of one core", title_justify="left")
    for heading in ("fastest round", "median", "differences"):
        drawn.add_column(heading, justify="right")
    for name, rate in changes.items():
        drawn.add_row(name, *(f"{value:,}" for value in rate.values()))
    return drawn


def main() -> int:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description="How fast a simulation replays.", allow_abbrev=False)
    parser.add_argument("--policies", type=Path, default=shipped_policies(), metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    figures = measure_all(arguments.policies)
    Console(highlight=False).print(table(figures))
    if arguments.output is not None:
        report.write(arguments.output, {**machine.commit(), "machine": machine.describe(), "simulate": figures})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
