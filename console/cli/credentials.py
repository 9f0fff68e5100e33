"""`holdfast operators|agents|executors create`: new credentials, recorded like any other change and shown once.

Made in the database, which needs no operator: the first one is made like this, and one whom a lost token shut out. With
`--url` or `--token-file` the running service is asked instead, as an operator.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from console.cli import administer
from console.runtime.failure import CommandFailed
from console.runtime.state import DEFAULT_DATA_DIRECTORY, add_database_options, database
from services.credentials import Kind
from services.provision import ProvisionFailed, open_provisioner

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from holdfast.strict_json import JSON

    from console.cli.subparsers import Subparsers

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_ROLES: Final = ("viewer", "operator", "approver", "admin")


def register(subparsers: Subparsers) -> None:
    """Add the three commands."""
    for plural, kind in (("operators", Kind.OPERATOR), ("agents", Kind.AGENT), ("executors", Kind.EXECUTOR)):
        parser = subparsers.add_parser(
            plural, help=f"who they are, and their credentials: {plural}", allow_abbrev=False
        )
        commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
        create = commands.add_parser("create", help=f"make a credential for an {kind}", allow_abbrev=False)
        create.add_argument("name", metavar="NAME", type=_name)
        if kind is Kind.OPERATOR:
            create.add_argument("--role", choices=_ROLES, required=True)
        add_database_options(create)
        create.add_argument("--url", metavar="URL", help="ask this running service, as an operator")
        create.add_argument("--token-file", metavar="FILE", help="ask the running service; holds the operator's token")
        create.add_argument("--json", action="store_true", help="print JSON")
        create.set_defaults(run=run, kind=kind)
        administer.add_commands(commands, kind)


def run(arguments: argparse.Namespace) -> int:
    """Make, record and print one credential. Raises: CommandFailed."""
    asked = arguments.url is not None or arguments.token_file is not None
    if asked and arguments.database_url is not None:
        raise CommandFailed("either --database-url, or --url and --token-file")
    administer.show(administer.create(arguments) if asked else _guarded(_create(arguments)), as_json=arguments.json)
    return 0


def _guarded(work: Coroutine[None, None, dict[str, JSON]]) -> dict[str, JSON]:
    try:
        return asyncio.run(work)
    except ProvisionFailed as error:
        raise CommandFailed(str(error)) from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandFailed(f"the database cannot be used: {error}") from error


async def _create(arguments: argparse.Namespace) -> dict[str, JSON]:
    directory = Path(arguments.data_dir or os.environ.get("HOLDFAST_DATA_DIR", DEFAULT_DATA_DIRECTORY))
    async with database(arguments) as url, open_provisioner(url, directory) as provisioner:
        if arguments.kind is Kind.OPERATOR:
            secret = await provisioner.operator(arguments.name, arguments.role)
            return {"username": secret.username, "password": secret.password, "token": secret.token}
        token = await provisioner.caller(arguments.kind, arguments.name)
        return {"name": arguments.name, "token": token}


def _name(text: str) -> str:
    if _NAME.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"`{text}` is not a name: letters, digits and `_.@-`, at most 64")
    return text
