"""`holdfast demo`: the outage story, end to end, on real parts. Exits 0 only if every claim held."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from console.demo.story import play
from console.runtime.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import TaskID

    from console.cli.subparsers import Subparsers
    from console.demo.story import Claim

_SHIPPED: Final = Path(__file__).resolve().parents[2] / "policies"


def register(subparsers: Subparsers) -> None:
    """Add `demo`."""
    parser = subparsers.add_parser(
        "demo",
        help="play the outage story end to end",
        description="Exit 0 only if every claim of the story held.",
        allow_abbrev=False,
    )
    parser.add_argument("--policies", metavar="DIR", type=Path, default=_SHIPPED, help="the bundle (default: shipped)")
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help="play in this new directory and keep its data, ledger and logs"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play and judge. Raises: CommandFailed."""
    if not arguments.policies.is_dir():
        raise CommandFailed(f"there are no policies in `{arguments.policies}`")
    if arguments.keep is not None:
        try:
            arguments.keep.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise CommandFailed(f"cannot make the directory `{arguments.keep}`: {error.strerror}") from error
        return _play(arguments.keep.absolute(), arguments.policies)
    with tempfile.TemporaryDirectory(prefix="holdfast-demo-") as directory:
        return _play(Path(directory), arguments.policies)


def _play(directory: Path, policies: Path) -> int:
    console = Console(highlight=False)
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        claims = asyncio.run(play(directory, policies, _Told(console, progress)))
    console.print(_table(claims))
    held = bool(claims) and all(claim.held for claim in claims)
    verdict = "every claim held" if held else "A CLAIM DID NOT HOLD"
    console.print(f"{verdict} ({time.monotonic() - started:.0f} s)")
    return 0 if held else 1


class _Told:
    """The Display on a terminal, or in a log."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def say(self, line: str) -> None:
        """Tell what happens."""
        self._console.print(escape(line))

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far something is."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done)


def _table(claims: Sequence[Claim]) -> Table:
    table = Table(title="What was claimed, and what was seen", title_justify="left")
    table.add_column("held")
    table.add_column("claim")
    table.add_column("seen")
    for claim in claims:
        table.add_row("yes" if claim.held else "NO", escape(claim.text), escape(claim.seen))
    return table
