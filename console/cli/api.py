"""`holdfast api`: the HTTP service, as one process. See docs/operations.md for what it is told by its environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.api import main

if TYPE_CHECKING:
    from console.cli.subparsers import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `api`."""
    parser = subparsers.add_parser("api", help="run the HTTP service", allow_abbrev=False)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--fd", type=int, metavar="N", help="serve on a listening socket inherited as descriptor N")
    where.add_argument("--port", type=int, default=8420, help="the port to listen on (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.set_defaults(run=main)
