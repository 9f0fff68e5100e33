"""`holdfast policy simulate`: what a candidate would have answered to what was asked."""

from __future__ import annotations

import argparse
import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast import strict_json
from holdfast.errors import InvalidIntent, MalformedJSON
from holdfast.intent import Intent
from holdfast.reasons import Decision
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from console.runtime.bundles import ACTIVE, choose, guarded, is_stored, open_store
from console.runtime.failure import CommandFailed
from console.runtime.state import add_database_options
from services.decision.policy import Policy
from services.decision.replay import Recorded
from services.decision.simulation import Sameness, Simulation, change_name
from services.decision.suite import DEFAULT_NOW, read_time
from services.postgres.decisions import open_window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from console.cli.subparsers import Subparsers
    from console.runtime.bundles import Chosen, Store
    from services.decision.replay import Difference

#: The exit status of `--fail-on-looser`.
LOOSER: Final = 3
_WINDOW: Final = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SHOWN: Final = 50
_BATCH: Final = 250


def register(commands: Subparsers) -> None:
    """Add `simulate` to `policy`."""
    parser = commands.add_parser(
        "simulate", help="replay recorded intents against a candidate, and list looser answers first"
    )
    parser.add_argument("candidate", metavar="CANDIDATE", help="a directory, a digest, or `active`")
    parser.add_argument("--against", metavar="BUNDLE", default=ACTIVE, help="what to compare with (default: active)")
    parser.add_argument(
        "--window", type=_window, default=timedelta(days=1), metavar="24h", help="how far back (default: 24h)"
    )
    parser.add_argument("--sample", type=_count, metavar="N", help="replay about N intents, spread over the window")
    parser.add_argument("--file", type=Path, metavar="JSONL", help="replay these intents instead of recorded ones")
    parser.add_argument("--limit", type=_count, default=_SHOWN, metavar="N", help="print N differences (default: 50)")
    parser.add_argument("--fail-on-looser", action="store_true", help="exit 3 if any answer is looser")
    add_database_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Simulate and report. Raises: CommandFailed."""
    began = time.perf_counter()
    simulation = guarded(_simulate(arguments))
    seconds = time.perf_counter() - began
    if arguments.json:
        print(json.dumps(simulation.to_json(limit=arguments.limit) | {"seconds": round(seconds, 3)}, indent=2))
    else:
        print("\n".join(_report(simulation, arguments.limit, seconds)))
    return LOOSER if arguments.fail_on_looser and simulation.looser else 0


# --- replaying --------------------------------------------------------------------------------------------------------


async def _simulate(arguments: argparse.Namespace) -> Simulation:
    if arguments.file is not None and not is_stored(arguments.candidate) and not is_stored(arguments.against):
        new, old = await choose(arguments.candidate, None), await choose(arguments.against, None)
        return _from_file(arguments, old, new)
    async with open_store(arguments) as store:
        new, old = await choose(arguments.candidate, store.bundles), await choose(arguments.against, store.bundles)
        if arguments.file is not None:
            return _from_file(arguments, old, new)
        return await _from_store(arguments, store, old, new)


async def _from_store(arguments: argparse.Namespace, store: Store, old: Chosen, new: Chosen) -> Simulation:
    simulation = _simulation(old, new)
    async with open_window(store.url, datetime.now(UTC) - arguments.window) as window:
        total = window.total if arguments.sample is None else min(window.total, arguments.sample)
        with _progress(arguments) as progress:
            task = progress.add_task("replaying", total=total)
            async for recorded in window.read(sample=arguments.sample):
                simulation.add(recorded)
                if (simulation.replayed + simulation.unreadable) % _BATCH == 0:
                    progress.update(task, completed=simulation.replayed + simulation.unreadable)
            done = simulation.replayed + simulation.unreadable
            progress.update(task, completed=done, total=done)
    return simulation


def _from_file(arguments: argparse.Namespace, old: Chosen, new: Chosen) -> Simulation:
    simulation = _simulation(old, new)
    try:
        lines = [line for line in arguments.file.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise CommandFailed(f"cannot read `{arguments.file}`: {error.strerror}") from error
    with _progress(arguments) as progress:
        for number, line in enumerate(progress.track(lines[: arguments.sample], description="replaying"), 1):
            try:
                simulation.add(_line(number, line))
            except (MalformedJSON, InvalidIntent, ValueError) as error:
                raise CommandFailed(f"{arguments.file}:{number}: not an intent to replay: {error}") from error
    return simulation


def _simulation(old: Chosen, new: Chosen) -> Simulation:
    before, after = old.read(), new.read()
    return Simulation(Policy.compile(before), Policy.compile(after), Sameness(before, after))


def _line(number: int, line: bytes) -> Recorded:
    """Return `{"agent": …, "intent": {…}, "at": …, "intent_id": …}`; the last two may be left out."""
    match strict_json.loads(line):
        case {"agent": str(agent), "intent": dict(intent), **rest} if not rest.keys() - {"at", "intent_id"}:
            at, intent_id = rest.get("at"), rest.get("intent_id", f"line {number}")
            if not isinstance(intent_id, str) or not isinstance(at, (str, type(None))):
                raise InvalidIntent("`at` and `intent_id` are texts")
            moment = DEFAULT_NOW if at is None else read_time(at)
            return Recorded(
                intent_id=intent_id,
                agent=agent,
                intent=Intent.from_json(intent),
                received_at=moment,
                at=moment,
                drained=False,
                bundle=None,
                decision="",
                reason_code="",
                detail="",
                determining=(),
                risk=None,
            )
        case _:
            raise ValueError('a line is `{"agent": …, "intent": {…}, "at": …, "intent_id": …}`')


def _progress(arguments: argparse.Namespace) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=arguments.json,
        transient=True,
    )


# --- reporting --------------------------------------------------------------------------------------------------------


def _report(simulation: Simulation, limit: int, seconds: float) -> Iterator[str]:
    yield f"old {simulation.old.digest}"
    yield f"new {simulation.new.digest}"
    rate = simulation.replayed / seconds if seconds > 0 else 0
    yield f"{simulation.replayed} intents replayed in {seconds:.1f} s ({rate:,.0f}/s)"
    if simulation.unreadable:
        yield f"{simulation.unreadable} stored intents could not be read"
    decisions = (Decision.DENY, Decision.HOLD, Decision.ALLOW)
    yield f"{'old / new':<10}" + "".join(f"{new:>10}" for new in decisions)
    for old in decisions:
        yield f"{old:<10}" + "".join(f"{simulation.matrix[old, new]:>10}" for new in decisions)
    yield f"{simulation.looser} looser, {simulation.stricter} stricter, {simulation.other} with another reason"
    differences = simulation.differences()
    for difference in differences[:limit]:
        yield _difference(difference)
    if len(differences) > limit:
        yield f"… and more; --limit {len(differences)} prints all that are kept"


def _difference(difference: Difference) -> str:
    old, new = difference.old, difference.new
    mark = {"looser": "!", "stricter": "-", "other": " "}[change_name(difference.looseness)]
    rules = f"{', '.join(old.determining) or old.reason_code} -> {', '.join(new.determining) or new.reason_code}"
    what = f"{difference.agent}: {difference.action}"
    return f"{mark} {old.decision} -> {new.decision}  {difference.intent_id}  {what}  ({rules})"


def _window(text: str) -> timedelta:
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"`{text}` is not a time such as 24h, 90m or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not a number from 1")
    return int(text)
