"""`holdfast policy sign`: vouch for a bundle with the publisher's own key."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from console.runtime.bundles import Chosen
from console.runtime.failure import CommandFailed
from services.policy_files import PolicyFilesUnreadable, read_directory
from services.policy_keys import SIGNATURES, SignaturesMalformed, read_signature_file, sign

if TYPE_CHECKING:
    import argparse

    from console.cli.subparsers import Subparsers


def register(commands: Subparsers) -> None:
    """Add `sign` to `policy`."""
    parser = commands.add_parser("sign", help="sign a bundle, for services that trust some publishers only")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="an Ed25519 private key in PEM")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Add the signature to the file beside the bundle. Raises: CommandFailed."""
    directory: Path = arguments.directory
    try:
        bundle = Chosen(name=str(directory), files=read_directory(directory)).read()
        known = read_signature_file(directory)
    except (PolicyFilesUnreadable, SignaturesMalformed) as error:
        raise CommandFailed(str(error)) from error
    line = sign(_private_key(arguments.key), bundle.digest)
    key_id = line.partition(":")[0]
    # An older line of this key is about what the bundle was before.
    lines = [*(one for one in known if not one.startswith(f"{key_id}:")), line]
    try:
        (directory / SIGNATURES).write_text("\n".join(lines) + "\n", encoding="ascii")
    except OSError as error:
        raise CommandFailed(f"cannot write `{directory / SIGNATURES}`: {error.strerror}") from error
    print(f"{bundle.digest} is signed by {key_id}")
    return 0


def _private_key(path: Path) -> Ed25519PrivateKey:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CommandFailed(f"cannot read `{path}`: {error.strerror}") from error
    passphrase = getpass.getpass(f"Passphrase of {path}: ").encode() if b"ENCRYPTED" in data else None
    try:
        key = load_pem_private_key(data, password=passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CommandFailed(f"`{path}` is not a private key in PEM, or the passphrase is wrong") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CommandFailed(f"`{path}` is not an Ed25519 key: `openssl genpkey -algorithm ed25519` makes one")
    return key
