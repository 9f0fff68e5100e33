"""Where the twin's policies come from: a directory, or a deployment's data directory, which is only read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from console.runtime.directory import DataDirectory
from console.runtime.failure import CommandFailed
from console.runtime.state import Runtime
from services.decision.archive import ArchiveDamaged, unpack
from services.policy_files import PolicyFilesUnreadable, read_directory
from services.ports import StoreUnreachable
from services.postgres.bundles import PostgresBundles
from services.postgres.pool import ReadPool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: The copy that every API keeps of the policies that it uses.
_COPY: Final = "policies-api.bundle"


def from_directory(directory: Path) -> Mapping[str, bytes]:
    """Return the files of a bundle. Raises: CommandFailed."""
    try:
        return read_directory(directory)
    except PolicyFilesUnreadable as error:
        raise CommandFailed(f"there are no policies in `{directory}`: {error}") from error


async def from_deployment(data_dir: Path) -> Mapping[str, bytes]:
    """Return the files of the active bundle: from the store while it runs, else from the API's own copy.

    Nothing is started and nothing is written there. Raises: CommandFailed.
    """
    data = DataDirectory.at(data_dir)
    if data.runtime.exists():
        digest, archive = await _stored(Runtime.read(data.runtime).database_url)
    else:
        digest, archive = _copied(data.root / _COPY)
    try:
        return unpack(archive, digest)
    except ArchiveDamaged as error:
        raise CommandFailed(f"the active bundle of `{data_dir}` is damaged: {error}") from error


async def _stored(database_url: str) -> tuple[str, bytes]:
    pool = ReadPool(database_url, size=1)
    await pool.start()
    try:
        bundles = PostgresBundles(pool)
        active = (await bundles.standing()).active
        archive = None if active is None else await bundles.archive(active)
    except StoreUnreachable as error:
        raise CommandFailed(f"the deployment's store cannot be read: {error}") from error
    finally:
        await pool.close()
    if active is None or archive is None:
        raise CommandFailed("the deployment has no active bundle")
    return active, archive


def _copied(path: Path) -> tuple[str, bytes]:
    try:
        digest, _, archive = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise CommandFailed(f"cannot read `{path}`: {error.strerror}; is this a data directory?") from error
    return digest.decode("ascii", "replace"), archive


def write(files: Mapping[str, bytes], directory: Path) -> Path:
    """Write a bundle's files into a new directory and return it."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory
