"""The data directory: one place for everything that must survive, one supervisor at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from console.runtime.failure import CommandFailed

RUN_PREFIX: Final = "holdfast-"
# Socket paths become parts of URLs, which not every client decodes.
_PLAIN: Final = re.compile(r"/[A-Za-z0-9/_.+-]*")
# sun_path holds 108 bytes with its terminator; the longest name below a run directory is `pg/.s.PGSQL.5432.lock`.
_LONGEST_RUN_DIRECTORY: Final = 107 - len("/pg/.s.PGSQL.5432.lock")


class DirectoryInUse(CommandFailed):
    """Another process runs from this data directory."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Where each thing lies. `root` is absolute."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held with flock by whoever runs servers in here."""
        return self.root / "holdfast.lock"

    @property
    def runtime(self) -> Path:
        """What runs now: see `state`."""
        return self.root / "runtime.json"

    @property
    def bootstrap(self) -> Path:
        """The first credentials, as JSON."""
        return self.root / "bootstrap.json"

    @property
    def logs(self) -> Path:
        """One file per child."""
        return self.root / "log"

    @property
    def postgres(self) -> Path:
        """The embedded PostgreSQL cluster."""
        return self.root / "postgres"

    @property
    def postgres_password(self) -> Path:
        """The password of the embedded PostgreSQL's one role."""
        return self.root / "postgres.password"

    @property
    def valkey(self) -> Path:
        """The embedded Valkey's append-only files."""
        return self.root / "valkey"

    @property
    def signer(self) -> Path:
        """The signing key, its passphrase and its profile."""
        return self.root / "signer"

    @property
    def callbacks_key(self) -> Path:
        """The key that webhooks of agents are signed with: its messages must not pass for notices to operators."""
        return self.root / "callbacks.key"

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> DataDirectory:
        """Name a directory without touching it."""
        return cls(Path(os.path.abspath(path)))  # noqa: PTH100 - `resolve` would follow a symbolic link the user chose

    def create(self) -> None:
        """Make it and what lies in it, private to this user. Raises: CommandFailed.

        A directory that already holds other things keeps its mode; what Holdfast puts in it is private by itself.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.lock.exists() or next(self.root.iterdir(), None) is None:
                self.root.chmod(0o700)
            for directory in (self.logs, self.signer, self.valkey):
                directory.mkdir(mode=0o700, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise CommandFailed(f"the data directory `{self.root}` is not a directory") from error
        except OSError as error:
            raise CommandFailed(f"cannot use the data directory `{self.root}`: {error.strerror}") from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory's lock. Raises: DirectoryInUse if another process does."""
        with self._lock_file() as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise DirectoryInUse(
                    f"the data directory `{self.root}` is in use by another holdfast (pid {holder}); "
                    "stop that one, or choose another --data-dir"
                ) from error
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
            yield

    @contextmanager
    def _lock_file(self) -> Iterator[int]:
        try:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CommandFailed(f"cannot open `{self.lock}`: {error.strerror}") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)


@contextmanager
def run_directory() -> Iterator[Path]:
    """Make a directory for sockets, whose path is short enough for them, and remove it at the end.

    `own` in it is for this user alone. Others may pass through the directory itself, never list it: the database runs
    under another account when Holdfast runs as root.
    """
    path = Path(tempfile.mkdtemp(prefix=RUN_PREFIX, dir=_short_place()))
    try:
        path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        (path / "own").mkdir(mode=0o700)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_abandoned(path: Path) -> None:
    """Remove the run directory of a supervisor that was killed, and nothing that could be anything else."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        if path.name.startswith(RUN_PREFIX) and stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            shutil.rmtree(path, ignore_errors=True)


def write_private(path: Path, content: str) -> None:
    """Write a file of mode 0600, whole or not at all, durably."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def secret_file(path: Path) -> str:
    """Return the secret in a file of mode 0600, made at random the first time."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32))
    return path.read_text(encoding="utf-8").strip()


def _short_place() -> str:
    for place in (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):  # noqa: S108 - mkdtemp follows
        if len(place) + len(f"/{RUN_PREFIX}12345678") <= _LONGEST_RUN_DIRECTORY and _PLAIN.fullmatch(place):
            return place
    raise CommandFailed("no directory for sockets has a short, plain path; set TMPDIR to one")
