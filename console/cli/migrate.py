"""`holdfast migrate`: bring a database to this version's schema."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import TYPE_CHECKING

import asyncpg

from console.runtime.failure import CommandFailed
from services.postgres.migrations import MigrationRefused, migrate

if TYPE_CHECKING:
    from console.cli.subparsers import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `migrate`."""
    parser = subparsers.add_parser("migrate", help="bring the database to this version's schema", allow_abbrev=False)
    parser.add_argument("--database-url", metavar="URL", help="the database (default: HOLDFAST_DATABASE_URL)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Migrate, and name what was applied. Raises: CommandFailed."""
    url = arguments.database_url or os.environ.get("HOLDFAST_DATABASE_URL")
    if not url:
        raise CommandFailed("no database: give --database-url, or set HOLDFAST_DATABASE_URL")
    try:
        applied = asyncio.run(migrate(url))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, MigrationRefused) as error:
        raise CommandFailed(f"the database cannot be migrated: {error}") from error
    for name in applied:
        print(f"applied {name}")
    if not applied:
        print("the schema is up to date")
    return 0
