"""`holdfast signer`: the token signer, as one process that knows no database; and the files it is given."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from console.runtime.failure import CommandFailed
from console.runtime.policies import read_policies
from console.runtime.profile import SignerFiles
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
    """Add `signer` and `signer-setup`."""
    parser = subparsers.add_parser("signer", help="run the token signer", allow_abbrev=False)
    for option, variable, what in _FILES:
        value = os.environ.get(variable)
        parser.add_argument(
            option, metavar="FILE", type=Path, default=value, required=not value, help=f"{what} (default: {variable})"
        )
    parser.set_defaults(run=run)

    setup = subparsers.add_parser(
        "signer-setup", help="write the signer's profile from the policies, and its passphrase", allow_abbrev=False
    )
    setup.add_argument("directory", type=Path, metavar="DIR", help="where profile.json and passphrase go")
    for option, variable, what in (
        ("--policies", "HOLDFAST_POLICIES", "the policy bundle, whose executors may be signed for"),
        ("--issuer", "HOLDFAST_ISSUER", "the service's base URL, which tokens name as their issuer"),
    ):
        value = os.environ.get(variable)
        setup.add_argument(option, default=value, required=not value, help=f"{what} (default: {variable})")
    setup.set_defaults(run=run_setup)


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


def run_setup(arguments: argparse.Namespace) -> int:
    """Write the files and name them. Raises: CommandFailed."""
    policy = read_policies(Path(arguments.policies))
    files = SignerFiles(arguments.directory)
    files.write(policy, issuer=arguments.issuer)
    print(files.profile, files.passphrase, sep="\n")
    return 0
