"""`holdfast policy shadow`: a candidate beside the active bundle, on live traffic."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from console.runtime.bundles import actor, guarded, is_stored, open_store, resolve
from console.runtime.failure import CommandFailed
from console.runtime.state import add_database_options
from services.decision.bundle import read_bundle
from services.policy_files import read_directory
from services.postgres.shadows import COUNTS, PostgresShadows

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from holdfast.strict_json import JSON

    from console.cli.subparsers import Subparsers


def register(commands: Subparsers) -> None:
    """Add `shadow` to `policy`."""
    shadow = commands.add_parser("shadow", help="evaluate a candidate beside the active bundle, without effect")
    actions = shadow.add_subparsers(title="commands", metavar="COMMAND", required=True)
    start = actions.add_parser("start", help="begin; the counts start at nothing")
    start.add_argument("candidate", metavar="CANDIDATE", help="a directory, which is uploaded, or a digest")
    start.set_defaults(run=run_start)
    stop = actions.add_parser("stop", help="end")
    stop.set_defaults(run=run_stop)
    report = actions.add_parser("report", help="what all processes counted, and the latest differences, looser first")
    report.set_defaults(run=run_report)
    for parser in (start, stop, report):
        add_database_options(parser)
        parser.add_argument("--json", action="store_true", help="print JSON")


def run_start(arguments: argparse.Namespace) -> int:
    """Begin a run. Raises: CommandFailed."""
    digest = guarded(_start(arguments))
    print(json.dumps({"candidate": digest}) if arguments.json else f"{digest} runs in the shadow")
    return 0


async def _start(arguments: argparse.Namespace) -> str:
    async with open_store(arguments, writing=True) as store:
        if is_stored(arguments.candidate):
            digest = await resolve(arguments.candidate, store.bundles)
        else:
            bundle = read_bundle(read_directory(arguments.candidate))
            await store.writer().upload(bundle, by=actor())
            digest = bundle.digest
        await store.writer().shadow(digest, by=actor())
        return digest


def run_stop(arguments: argparse.Namespace) -> int:
    """End the run. Raises: CommandFailed."""
    guarded(_stop(arguments))
    print(json.dumps({"candidate": None}) if arguments.json else "nothing runs in the shadow")
    return 0


async def _stop(arguments: argparse.Namespace) -> None:
    async with open_store(arguments, writing=True) as store:
        await store.writer().shadow(None, by=actor())


def run_report(arguments: argparse.Namespace) -> int:
    """Print the latest run. Raises: CommandFailed if there never was one."""
    report = guarded(_report(arguments))
    if report is None:
        raise CommandFailed("no candidate ever ran in the shadow: `holdfast policy shadow start CANDIDATE`")
    print(json.dumps(report, indent=2) if arguments.json else "\n".join(_lines(report)))
    return 0


async def _report(arguments: argparse.Namespace) -> dict[str, JSON] | None:
    async with open_store(arguments) as store:
        return await PostgresShadows(store.pool).report()


def _lines(report: dict[str, JSON]) -> Iterator[str]:
    state = "runs" if report["running"] else "ran"
    yield f"{report['candidate']} {state} in the shadow since {report['started_at']}, by {report['started_by']}"
    yield ", ".join(f"{report[name]} {name}" for name in COUNTS)
    differences = report["differences"]
    for found in differences if isinstance(differences, list) else []:
        match found:
            case {"old": {"decision": old}, "new": {"decision": new}, "change": change, "agent": agent, **rest}:
                mark = {"looser": "!", "stricter": "-"}.get(str(change), " ")
                yield f"{mark} {old} -> {new}  {rest['intent_id'] or rest['act_hash']}  {agent}: {rest['action']}"
            case _:
                continue
