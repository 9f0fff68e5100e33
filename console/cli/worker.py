"""`holdfast worker`: what happens without a request, as one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.worker import main

if TYPE_CHECKING:
    from console.cli.subparsers import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `worker`."""
    parser = subparsers.add_parser("worker", help="run the queue's drain and the upkeep of the log", allow_abbrev=False)
    parser.set_defaults(run=main)
