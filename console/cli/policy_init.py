"""`holdfast policy init`: a starter bundle that lints, with its tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from console.cli.bundle_files import write_bundle
from console.policy_templates import TEMPLATES, template

if TYPE_CHECKING:
    import argparse

    from console.cli.subparsers import Subparsers

USAGE: Final = 2


def add(commands: Subparsers) -> None:
    """Add `policy init`."""
    parser = commands.add_parser("init", help="write a starter bundle")
    listed = "; ".join(f"{name}: {summary}" for name, summary in TEMPLATES.items())
    parser.add_argument("--template", required=True, choices=tuple(TEMPLATES), help=listed)
    parser.add_argument(
        "directory", type=Path, nargs="?", default=Path("policies"), metavar="DIR", help="a new folder (policies)"
    )
    parser.set_defaults(run=run_init)


def run_init(arguments: argparse.Namespace) -> int:
    """Write the template. Returns 2 when the folder is not new or empty."""
    files = template(arguments.template)
    if not write_bundle(arguments.directory, files):
        print(f"holdfast: `{arguments.directory}` exists and is not an empty folder", file=sys.stderr)
        return USAGE
    for path in sorted(files):
        print(arguments.directory / path)
    return 0
