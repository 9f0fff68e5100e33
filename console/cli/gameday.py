"""`holdfast gameday`: every boundary of a throw-away twin tripped in turn. Exits 0 only if each stayed closed."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape

from console.gameday import source
from console.gameday.drills import DRILLS
from console.gameday.judging import Verdict
from console.gameday.junit import junit
from console.gameday.play import play
from console.gameday.samples import choose
from console.gameday.twin import open_twin
from console.runtime.failure import CommandFailed
from services.decision.bundle import read_bundle
from services.decision.finding import BundleInvalid
from services.decision.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from console.cli.subparsers import Subparsers
    from console.gameday.play import Result

#: What a shell says of a command that SIGTERM ended.
_TERMINATED: Final = 128 + signal.SIGTERM


def register(subparsers: Subparsers) -> None:
    """Add `gameday`."""
    parser = subparsers.add_parser(
        "gameday",
        help="trip every boundary of a throw-away twin, and check what it lets through",
        description=(
            "Start a twin with a deployment's policies in a temporary directory, break each of its dependencies in "
            "turn, and check that nothing leaves, everything is recorded and all is well again by itself. The "
            "deployment is only read. Exit 0 only if every boundary stayed closed."
        ),
        allow_abbrev=False,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data-dir", metavar="D", type=Path, help="play the active bundle of this data directory")
    where.add_argument("--policies", metavar="DIR", type=Path, help="play the bundle in this directory")
    parser.add_argument(
        "--only", metavar="NAME", action="append", choices=[drill.name for drill in DRILLS], help="play this drill only"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--junit", metavar="FILE", type=Path, help="write JUnit XML")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play and judge. Raises: CommandFailed."""
    console = Console(highlight=False, file=sys.stderr if arguments.json else sys.stdout)
    started = time.monotonic()
    if arguments.junit is not None and not arguments.junit.parent.is_dir():
        # Better before two minutes of play than after.
        raise CommandFailed(f"cannot write `{arguments.junit}`: there is no such directory")
    try:
        results, bundle = asyncio.run(_played(arguments, console))
    except asyncio.CancelledError:
        return _TERMINATED
    failed = [result for result in results if result.verdict is Verdict.FAIL]
    if arguments.junit is not None:
        try:
            arguments.junit.write_bytes(junit(results, bundle=bundle))
        except OSError as error:
            raise CommandFailed(f"cannot write `{arguments.junit}`: {error.strerror}") from error
    if arguments.json:
        print(json.dumps({"bundle": bundle, "held": not failed, "drills": [result.to_json() for result in results]}))
    else:
        for line in (line for result in results for line in _lines(result)):
            console.print(escape(line), soft_wrap=True)
        verdict = "A BOUNDARY DID NOT HOLD" if failed else "every boundary held"
        console.print(f"{verdict} ({time.monotonic() - started:.0f} s)")
    return 1 if failed or not results else 0


async def _played(arguments: argparse.Namespace, console: Console) -> tuple[list[Result], str]:
    """Play so that being told to end leaves as little behind as the end itself."""
    task = asyncio.ensure_future(_play(arguments, console))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


async def _play(arguments: argparse.Namespace, console: Console) -> tuple[list[Result], str]:
    files: Mapping[str, bytes]
    if arguments.policies is not None:
        files = await asyncio.to_thread(source.from_directory, arguments.policies)
    else:
        files = await source.from_deployment(arguments.data_dir)
    try:
        bundle = read_bundle(files)
        policy = Policy.compile(bundle)
    except BundleInvalid as error:
        raise CommandFailed(
            "the policies are not valid: " + "; ".join(str(found) for found in error.findings)
        ) from error
    samples = choose(bundle, policy, datetime.now(UTC))
    if not samples:
        raise CommandFailed("no agent of the bundle may do anything now, so nothing can be tried")
    for sample in samples:
        held = ", held for a human" if sample.held else ""
        line = f"{sample.impact}: {sample.intent.action} by {sample.agent}{held} (from {sample.origin})"
        console.print(escape(line), soft_wrap=True)
    drills = [drill for drill in DRILLS if not arguments.only or drill.name in arguments.only]
    with tempfile.TemporaryDirectory(prefix="holdfast-gameday-") as directory:
        policies = await asyncio.to_thread(source.write, files, Path(directory) / "policies")
        async with open_twin(Path(directory), policies) as twin:
            results = await play(
                twin, samples, drills, policy.settings.fail_modes, lambda line: console.print(escape(line))
            )
    return results, bundle.digest


def _lines(result: Result) -> list[str]:
    """Return what is printed of one drill: plain lines, for logs as narrow as they come."""
    timings = (
        (result.detected_s, "refused after"),
        (result.recovered_s, "ready after"),
        (result.decided_s, "decided after"),
    )
    told = [f"{what} {seconds:.1f} s" for seconds, what in timings if seconds is not None]
    shown = result.verdict.value.upper() if result.verdict is Verdict.FAIL else result.verdict.value
    first = f"{shown}: {result.name} ({result.fault}): " + ", ".join([f"{result.asked} asked", *told])
    return [first, *(f"    {why}" for why in result.why())]
