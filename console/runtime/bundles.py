"""Policy bundles for commands: by directory, by digest, or the active one; and what must follow an activation."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import asyncpg
from holdfast import strict_json
from holdfast.errors import MalformedJSON

from console.runtime.directory import DataDirectory
from console.runtime.failure import CommandFailed
from console.runtime.profile import SignerFiles, signer_profile
from console.runtime.state import DEFAULT_DATA_DIRECTORY, Runtime, database
from services.decision.bundle import read_bundle
from services.decision.finding import BundleInvalid, Severity
from services.decision.policy import Policy
from services.policy_files import PolicyFilesUnreadable, read_directory
from services.policy_keys import SignaturesMalformed, TrustedKeys
from services.ports import StoreUnreachable
from services.postgres.bundles import PostgresBundles
from services.postgres.pool import ReadPool
from services.provision import open_publisher
from services.publishing import PublishingFailed, stored_files

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Coroutine, Mapping

    from services.decision.bundle import Bundle
    from services.publishing import Publisher

T = TypeVar("T")

ACTIVE: Final = "active"
_SHORTEST_PREFIX: Final = 6
_SCHEME: Final = "sha256:"
_SUBJECTS: Final = "SELECT kind, subject FROM credentials WHERE revoked_at IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A bundle that a command named. `name` is how it was named."""

    name: str
    files: Mapping[str, bytes]

    def read(self) -> Bundle:
        """Return what its files say. Raises: CommandFailed, with a line for each error."""
        try:
            return read_bundle(self.files)
        except BundleInvalid as error:
            raise CommandFailed(_findings(self.name, error)) from error

    def compiled(self) -> Policy:
        """Return its policy. Raises: CommandFailed, with a line for each error."""
        return Policy.compile(self.read())


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The store's side of a command. `publisher` is None for a command that only reads."""

    url: str
    pool: ReadPool
    bundles: PostgresBundles
    publisher: Publisher | None

    def writer(self) -> Publisher:
        """Return the publisher."""
        if self.publisher is None:
            raise RuntimeError("this command reads only")
        return self.publisher


def guarded(work: Coroutine[object, object, T]) -> T:
    """Run a command's work, with every expected trouble as CommandFailed."""
    try:
        return asyncio.run(work)
    except BundleInvalid as error:
        raise CommandFailed(_findings("", error)) from error
    except (PublishingFailed, PolicyFilesUnreadable, SignaturesMalformed) as error:
        raise CommandFailed(str(error)) from error
    except (StoreUnreachable, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandFailed(f"the database cannot be used: {error}") from error


@contextlib.asynccontextmanager
async def open_store(arguments: argparse.Namespace, *, writing: bool = False) -> AsyncIterator[Store]:
    """Lend the store that the options name; an embedded one that is stopped runs meanwhile."""
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(database(arguments))
        pool = ReadPool(url, size=2)
        await pool.start()
        stack.push_async_callback(pool.close)
        publisher = await stack.enter_async_context(_publisher(url, arguments)) if writing else None
        yield Store(url=url, pool=pool, bundles=PostgresBundles(pool), publisher=publisher)


def _publisher(url: str, arguments: argparse.Namespace) -> contextlib.AbstractAsyncContextManager[Publisher]:
    keys = os.environ.get("HOLDFAST_POLICY_KEYS")
    return open_publisher(url, data_root(arguments), TrustedKeys(None if keys is None else Path(keys)))


def data_root(arguments: argparse.Namespace) -> Path:
    """Return the data directory, named or by default."""
    return Path(arguments.data_dir or os.environ.get("HOLDFAST_DATA_DIR", DEFAULT_DATA_DIRECTORY)).absolute()


def actor() -> str:
    """Return who runs the command, as the log has it."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):
        return f"cli:uid-{os.getuid()}"


def is_stored(reference: str) -> bool:
    """Return whether a reference speaks of the store: `active`, or a digest (or its beginning); else a directory."""
    digits = reference.removeprefix(_SCHEME)
    named = reference == ACTIVE or reference.startswith(_SCHEME)
    return named or (
        len(digits) >= _SHORTEST_PREFIX and set(digits) <= set("0123456789abcdef") and not Path(reference).exists()
    )


async def choose(reference: str, bundles: PostgresBundles | None) -> Chosen:
    """Return the bundle that `reference` names. Raises: CommandFailed, and what `guarded` knows."""
    if not is_stored(reference):
        files = await asyncio.to_thread(read_directory, Path(reference))
        return Chosen(name=reference, files=files)
    if bundles is None:
        raise RuntimeError("a stored bundle is read from the store")
    digest = await resolve(reference, bundles)
    return Chosen(name=digest, files=await stored_files(bundles, digest))


async def resolve(reference: str, bundles: PostgresBundles) -> str:
    """Return the whole digest of `active` or of a beginning. Raises: CommandFailed if it is none or not only one."""
    if reference == ACTIVE:
        active = (await bundles.standing()).active
        if active is None:
            raise CommandFailed("no bundle is active: `holdfast policy apply DIR` makes one so")
        return active
    found = await bundles.matching(_SCHEME + reference.removeprefix(_SCHEME))
    if not found:
        raise CommandFailed(f"no bundle `{reference}` is stored; `holdfast policy list` names those that are")
    if len(found) > 1:
        raise CommandFailed(f"`{reference}` is the beginning of several digests: give more of it")
    return found[0]


async def without_keys(store: Store, policy: Policy) -> tuple[list[str], list[str]]:
    """Return the agents and the executors of a policy that have no credential yet."""
    async with store.pool.connection() as connection:
        rows = await connection.fetch(_SUBJECTS)
    known = {(row["kind"], row["subject"]) for row in rows}
    agents = sorted(name for name in policy.agents if ("agent", name) not in known)
    return agents, sorted(name for name in policy.executors if ("executor", name) not in known)


def follow_with_signer(arguments: argparse.Namespace, policy: Policy) -> str:
    """Let the signer of an embedded data directory sign for this policy's executors; return what was done.

    The service cannot do it, and must not: the signer does not trust the service.
    """
    data = DataDirectory.at(data_root(arguments))
    files = SignerFiles(data.signer)
    if arguments.database_url or not files.profile.exists():
        return "the signer is elsewhere: write its profile with `holdfast signer-setup`, and send it SIGHUP"
    issuer = _issuer(files.profile)
    changed = _read(files.profile) != signer_profile(policy, issuer=issuer)
    if changed:
        files.write(policy, issuer=issuer)
    said = "the signer's profile is written" if changed else "the signer's profile stays as it is"
    signer_pid = Runtime.read(data.runtime).children.get("signer") if data.runtime.exists() else None
    if signer_pid is None:
        return said
    try:
        os.kill(signer_pid, signal.SIGHUP)
    except OSError as error:
        raise CommandFailed(f"the signer could not be told of its new profile: {error.strerror}") from error
    return f"{said}, and the signer reads it again"


def _issuer(profile: Path) -> str:
    document = _read(profile)
    issuer = document.get("issuer") if isinstance(document, dict) else None
    if not isinstance(issuer, str):
        raise CommandFailed(f"`{profile}` names no issuer: write it with `holdfast signer-setup`")
    return issuer


def _read(profile: Path) -> strict_json.JSON:
    try:
        return strict_json.loads(profile.read_bytes())
    except (OSError, MalformedJSON) as error:
        raise CommandFailed(f"`{profile}` cannot be read: {error}") from error


def _findings(name: str, error: BundleInvalid) -> str:
    where = f"{name.rstrip('/')}/" if name and not name.startswith(_SCHEME) else ""
    lines = [f"{where}{found}" for found in error.findings if found.severity is Severity.ERROR]
    return "\n".join(["the policies are not valid", *lines])
