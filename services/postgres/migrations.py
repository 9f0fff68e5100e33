"""Brings a database to this version's schema, once, whoever starts first."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOCK: Final = 0x484F_4C44_4641_5354  # "HOLDFAST"
_HERE: Final = Path(__file__).resolve()

_LEDGER: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name       text PRIMARY KEY,
    sha256     bytea       NOT NULL CHECK (octet_length(sha256) = 32),
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class MigrationRefused(Exception):
    """The database was migrated by other files than these. Nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file, applied whole or not at all."""

    name: str
    sql: str

    @property
    def sha256(self) -> bytes:
        """The digest under which it is remembered."""
        return hashlib.sha256(self.sql.encode("utf-8")).digest()


def shipped() -> tuple[Migration, ...]:
    """Return the migrations of this version in order, from the wheel or from the checkout.

    Raises: MigrationRefused if there are none: an installation without its schema is broken.
    """
    for directory in (_HERE.parent / "migrations", _HERE.parents[2] / "infra" / "migrations"):
        if files := sorted(directory.glob("[0-9][0-9][0-9][0-9]_*.sql")):
            return tuple(Migration(name=file.name, sql=file.read_text(encoding="utf-8")) for file in files)
    raise MigrationRefused("this installation holds no migrations")


async def migrate(database_url: str, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing, in order, and return the names applied.

    Runs under an advisory lock, each file in a transaction of its own.

    Raises: MigrationRefused when an applied file reads differently now; asyncpg and OS errors as they come.
    """
    wanted = shipped() if migrations is None else migrations
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        await connection.execute(_LEDGER)
        rows = await connection.fetch("SELECT name, sha256 FROM schema_migrations")
        applied = {row["name"]: bytes(row["sha256"]) for row in rows}
        for migration in wanted:
            if migration.name in applied and applied[migration.name] != migration.sha256:
                raise MigrationRefused(f"`{migration.name}` was changed after it was applied")
        missing = [migration for migration in wanted if migration.name not in applied]
        for migration in missing:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO schema_migrations (name, sha256) VALUES ($1, $2)", migration.name, migration.sha256
                )
        return [migration.name for migration in missing]
    finally:
        await connection.close(timeout=5)
