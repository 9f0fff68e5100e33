"""What runs from a data directory now, for the commands that look at its data."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from holdfast import strict_json
from holdfast.errors import MalformedJSON

from console.runtime.children import Children
from console.runtime.directory import DataDirectory, DirectoryInUse, remove_abandoned, run_directory, write_private
from console.runtime.failure import CommandFailed
from console.runtime.postgres import EmbeddedPostgres

DEFAULT_DATA_DIRECTORY: Final = "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The contents of `runtime.json`. `children` maps names to process ids; the URLs hold secrets."""

    pid: int
    database_url: str
    broker_url: str
    signer_socket: str
    base_url: str
    children: Mapping[str, int]

    def write(self, path: Path) -> None:
        """Replace the file, mode 0600."""
        write_private(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Runtime:
        """Read the file strictly. Raises: CommandFailed if it is missing or not what `write` writes."""
        try:
            document = strict_json.loads(path.read_bytes())
        except OSError as error:
            raise CommandFailed(f"cannot read `{path}`: {error.strerror}") from error
        except MalformedJSON as error:
            raise CommandFailed(f"`{path}` is not what holdfast wrote: {error}") from error
        if not isinstance(document, dict) or document.keys() != {field.name for field in fields(cls)}:
            raise CommandFailed(f"`{path}` is not what holdfast wrote: its members are wrong")
        texts = {name: document[name] for name in ("database_url", "broker_url", "signer_socket", "base_url")}
        if not all(isinstance(text, str) for text in texts.values()):
            raise CommandFailed(f"`{path}` is not what holdfast wrote: a URL or path is no text")
        children = document["children"]
        if not isinstance(children, dict):
            raise CommandFailed(f"`{path}` is not what holdfast wrote: `children` is no object")
        return cls(
            pid=_pid(document["pid"], path),
            database_url=str(texts["database_url"]),
            broker_url=str(texts["broker_url"]),
            signer_socket=str(texts["signer_socket"]),
            base_url=str(texts["base_url"]),
            children={name: _pid(pid, path) for name, pid in children.items()},
        )


def add_database_options(parser: argparse.ArgumentParser) -> None:
    """Let a command say where the data is; `database` reads it."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--data-dir",
        metavar="D",
        help=f"a data directory of `holdfast up`, running or stopped (default: {DEFAULT_DATA_DIRECTORY})",
    )
    where.add_argument(
        "--database-url", metavar="URL", help="a PostgreSQL of your own (default: HOLDFAST_DATABASE_URL, if set)"
    )


@asynccontextmanager
async def database(arguments: argparse.Namespace) -> AsyncIterator[str]:
    """Yield the URL of the database the options name; an embedded one that is stopped runs meanwhile.

    Raises: CommandFailed.
    """
    url = arguments.database_url
    if url is None and arguments.data_dir is None:
        url = os.environ.get("HOLDFAST_DATABASE_URL")
    if url:
        yield url
        return
    data = DataDirectory.at(arguments.data_dir or os.environ.get("HOLDFAST_DATA_DIR", DEFAULT_DATA_DIRECTORY))
    if not data.lock.exists():
        raise CommandFailed(f"`{data.root}` is not a Holdfast data directory: it holds no `{data.lock.name}`")
    with ExitStack() as stack:
        try:
            stack.enter_context(data.held())
        except DirectoryInUse:
            yield _running(data).database_url
            return
        forget(data)
        if not data.postgres.exists():
            raise CommandFailed(f"`{data.root}` holds no embedded PostgreSQL; give --database-url")
        run = stack.enter_context(run_directory())
        postgres = EmbeddedPostgres(data, run)
        async with Children(logs=data.logs, say=lambda _: None) as children:
            await postgres.prepare()
            await children.start(postgres.command(), postgres.ready)
            yield postgres.database_url


def forget(data: DataDirectory) -> None:
    """Remove what a supervisor that was killed left behind. The caller holds the directory's lock."""
    if not data.runtime.exists():
        return
    try:
        left = Runtime.read(data.runtime)
    except CommandFailed:
        data.runtime.unlink()
        return
    remove_abandoned(Path(left.signer_socket).parent.parent)
    data.runtime.unlink()


def _running(data: DataDirectory) -> Runtime:
    if not data.runtime.exists():
        raise CommandFailed(f"another command is starting or using `{data.root}`; try again when it is done")
    return Runtime.read(data.runtime)


def _pid(value: strict_json.JSON, path: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CommandFailed(f"`{path}` is not what holdfast wrote: a process id is no number")
    return value
