"""`holdfast signer`: the token signer, as one process that knows no database."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from console.runtime.failure import CommandFailed
from signer import server

if TYPE_CHECKING:
    from console.cli.subparsers import Subparsers

_FILES = (
    ("--socket", "HOLDFAST_SIGNER_SOCKET", "the socket to listen on"),
    ("--key", "HOLDFAST_SIGNER_KEY", "the key file, made if there is none"),
    ("--passphrase", "HOLDFAST_SIGNER_PASSPHRASE", "the file with the key's passphrase, mode 0600"),
    ("--profile", "HOLDFAST_SIGNER_PROFILE", "the file that says what may be signed"),
)


def register(subparsers: Subparsers) -> None:
    """Add `signer`."""
    parser = subparsers.add_parser("signer", help="run the token signer", allow_abbrev=False)
    for option, variable, what in _FILES:
        value = os.environ.get(variable)
        parser.add_argument(
            option, metavar="FILE", type=Path, default=value, required=not value, help=f"{what} (default: {variable})"
        )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Sign until stopped. Raises: CommandFailed for a path that cannot work."""
    try:
        settings = server.SignerSettings(
            socket_path=arguments.socket,
            key_path=arguments.key,
            passphrase_path=arguments.passphrase,
            profile_path=arguments.profile,
        )
    except ValueError as error:
        raise CommandFailed(str(error)) from error
    return server.run(settings)
