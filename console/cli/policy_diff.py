"""`holdfast policy diff`: what changes from one bundle to another, looser changes first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from console.runtime.bundles import choose, guarded, is_stored, open_store
from console.runtime.state import add_database_options
from services.decision.diff import Direction, diff, shown

if TYPE_CHECKING:
    import argparse

    from holdfast.strict_json import JSON

    from console.cli.subparsers import Subparsers
    from services.decision.bundle import Bundle

_MARKS: Final = {Direction.LOOSER: "!", Direction.EITHER: "?", Direction.STRICTER: "-", Direction.NEUTRAL: " "}


def register(commands: Subparsers) -> None:
    """Add `diff` to `policy`."""
    parser = commands.add_parser(
        "diff",
        help="compare two bundles by meaning: ! looser, ? either, - stricter",
        description="A and B are directories, digests, or `active`.",
    )
    parser.add_argument("old", metavar="A")
    parser.add_argument("new", metavar="B")
    add_database_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the changes. Raises: CommandFailed."""
    old, new = guarded(_both(arguments))
    changes = diff(old, new)
    counts = {direction: sum(change.direction is direction for change in changes) for direction in Direction}
    if arguments.json:
        document: dict[str, JSON] = {
            "old": old.digest,
            "new": new.digest,
            **{direction.value: count for direction, count in counts.items()},
            "changes": [change.to_json() for change in changes],
        }
        print(json.dumps(document, indent=2))
        return 0
    for change in changes:
        print(f"{_MARKS[change.direction]} {change.where}: {shown(change.before)} -> {shown(change.after)}")
    print(", ".join(f"{count} {direction}" for direction, count in counts.items()))
    return 0


async def _both(arguments: argparse.Namespace) -> tuple[Bundle, Bundle]:
    if not is_stored(arguments.old) and not is_stored(arguments.new):
        old, new = await choose(arguments.old, None), await choose(arguments.new, None)
    else:
        async with open_store(arguments) as store:
            old, new = await choose(arguments.old, store.bundles), await choose(arguments.new, store.bundles)
    return old.read(), new.read()
