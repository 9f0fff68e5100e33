"""`holdfast provision`: the first credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.provision import main

if TYPE_CHECKING:
    from console.cli.subparsers import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `provision`."""
    parser = subparsers.add_parser(
        "provision", help="store the first credentials and write bootstrap.json", allow_abbrev=False
    )
    parser.set_defaults(run=main)
