"""The first policies, and the first keys: one for every agent and executor of the bundle, and one for an operator.

Both are recorded in the log like any other configuration change. The keys are written once to `bootstrap.json` in the
data directory, readable by its owner alone. No default password exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast import strict_json
from holdfast.errors import MalformedJSON

from services.credentials import Kind, hash_password, key_hash, new_password, new_secret
from services.decision.bundle import read_bundle
from services.decision.finding import BundleInvalid
from services.decision.policy import Policy
from services.policy_files import PolicyFilesUnreadable, read_directory
from services.policy_keys import SignaturesMalformed, TrustedKeys, read_signature_file
from services.ports import Entry, PutCredential, PutOperator, RecordingFailed, StoreUnreachable
from services.postgres.bundles import PostgresBundles
from services.postgres.pool import ReadPool
from services.postgres.sink import PostgresSink
from services.process import configure_logging, read_settings, refuse, refuse_bundle
from services.publishing import Publisher, PublishingFailed
from services.recording.journal import Journal
from services.recording.lane import Lane, LaneSettings
from services.system import SystemClock, SystemIds

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from holdfast.strict_json import JSON

    from services.decision.bundle import Bundle
    from services.ports import Effect
    from services.settings import Settings

BOOTSTRAP: Final = "bootstrap.json"
_ACTOR: Final = "provision"
_OPERATOR: Final = "admin"


class ProvisionFailed(Exception):
    """Keys could not be made, recorded or written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSecret:
    """A new operator's secrets, shown once."""

    username: str
    password: str
    token: str

    def to_json(self) -> dict[str, JSON]:
        """Return what `--json` prints."""
        return {"username": self.username, "password": self.password, "token": self.token}


class Provisioner:
    """Makes credentials, each with its record."""

    def __init__(self, lane: Lane, clock: SystemClock) -> None:
        self._lane = lane
        self._clock = clock

    async def caller(self, kind: Kind, subject: str) -> str:
        """Return a fresh secret for an agent or executor, stored and recorded. Raises: ProvisionFailed."""
        secret = new_secret(kind)
        await self._store(f"{kind}.credential_created", {kind.value: subject}, self._credential(kind, subject, secret))
        return secret

    async def operator(self, username: str, role: str) -> OperatorSecret:
        """Return a fresh operator's secrets. Raises: ProvisionFailed if the name is taken."""
        made = OperatorSecret(username=username, password=new_password(), token=new_secret(Kind.OPERATOR))
        effect = PutOperator(
            username=username,
            password_hash=await asyncio.to_thread(hash_password, made.password),
            role=role,
            created_at=self._clock.now(),
        )
        await self._store("operator.created", {"operator": username, "role": role}, effect)
        await self._store(
            "operator.credential_created",
            {"operator": username},
            self._credential(Kind.OPERATOR, username, made.token),
        )
        return made

    def _credential(self, kind: Kind, subject: str, secret: str) -> PutCredential:
        return PutCredential(kind=kind.value, subject=subject, key_hash=key_hash(secret), created_at=self._clock.now())

    async def _store(self, kind: str, members: dict[str, JSON], effect: Effect) -> None:
        try:
            settled = await self._lane.append(
                Entry(kind=kind, at=self._clock.now(), members=members, effect=effect)
            ).settled()
        except RecordingFailed as error:
            raise ProvisionFailed(f"it could not be recorded: {error}") from error
        if not settled.applied:
            raise ProvisionFailed("the name is taken")


@contextlib.asynccontextmanager
async def open_provisioner(database_url: str, data_dir: Path) -> AsyncIterator[Provisioner]:
    """Lend a provisioner with a stream of its own."""
    async with open_lane(database_url, data_dir, name="provision") as lane:
        yield Provisioner(lane, SystemClock())


@contextlib.asynccontextmanager
async def open_publisher(database_url: str, data_dir: Path, keys: TrustedKeys) -> AsyncIterator[Publisher]:
    """Lend a publisher with a stream of its own."""
    pool = ReadPool(database_url, size=2)
    await pool.start()
    try:
        async with open_lane(database_url, data_dir, name="policy") as lane:
            yield Publisher(bundles=PostgresBundles(pool), recorder=lane, clock=SystemClock(), keys=keys)
    finally:
        await pool.close()


@contextlib.asynccontextmanager
async def open_lane(database_url: str, data_dir: Path, *, name: str) -> AsyncIterator[Lane]:
    """Lend a recorder for one command, with a stream of its own."""
    clock = SystemClock()
    instance = f"{name}-{os.getpid()}"
    lane = Lane(
        PostgresSink(database_url),
        Journal(data_dir / "journal" / instance),
        clock,
        SystemIds(),
        instance=instance,
        settings=LaneSettings(),
    )
    await lane.start()
    try:
        yield lane
    finally:
        await lane.stop()


async def ensure_policy(settings: Settings, bundle: Bundle, signatures: tuple[str, ...]) -> bool:
    """Make `bundle` the active one, and return whether it was not before. Raises: ProvisionFailed."""
    pool = ReadPool(settings.database_url, size=1)
    await pool.start()
    try:
        active = (await PostgresBundles(pool).standing()).active
        if active == bundle.digest:
            return False
        async with open_publisher(
            settings.database_url, settings.data_dir, TrustedKeys(settings.policy_keys)
        ) as publisher:
            await publisher.upload(bundle, by=_ACTOR, signatures=signatures)
            await publisher.activate(bundle.digest, by=_ACTOR, reason="applied at start", expect_active=active)
    except (StoreUnreachable, PublishingFailed) as error:
        raise ProvisionFailed(f"the policies could not be activated: {error}") from error
    finally:
        await pool.close()
    return True


async def ensure_bootstrap(settings: Settings, agents: frozenset[str], executors: frozenset[str]) -> Path:
    """Make the keys that are missing and write `bootstrap.json`. Raises: ProvisionFailed.

    On a later start only agents and executors that are new in the bundle get a key; the rest is left as it is.
    """
    path = settings.data_dir / BOOTSTRAP
    document = _read(path)
    known_agents, known_executors = _names(document, "agents"), _names(document, "executors")
    if set(known_agents) >= agents and set(known_executors) >= executors and document.get("operator"):
        if document.get("base_url") != settings.issuer:
            _write(path, {**document, "base_url": settings.issuer})
        return path
    async with open_provisioner(settings.database_url, settings.data_dir) as provisioner:
        operator = document.get("operator") or (await _first_operator(provisioner)).to_json()
        for name in sorted(agents - set(known_agents)):
            known_agents[name] = await provisioner.caller(Kind.AGENT, name)
        for name in sorted(executors - set(known_executors)):
            known_executors[name] = await provisioner.caller(Kind.EXECUTOR, name)
    _write(
        path,
        {
            "base_url": settings.issuer,
            "operator": operator,
            "agents": dict(known_agents),
            "executors": dict(known_executors),
        },
    )
    return path


def main(args: argparse.Namespace) -> int:  # noqa: ARG001 - every command takes its arguments
    """Activate the policies if they are not, and make the keys that are missing."""
    configure_logging()
    settings = read_settings(instance="provision")
    if settings is None:
        return 1
    if settings.policies is None:
        return refuse("HOLDFAST_POLICIES: names the directory of the policies, and is missing")
    try:
        bundle = read_bundle(read_directory(settings.policies))
        signatures = read_signature_file(settings.policies)
        policy = Policy.compile(bundle)
        asyncio.run(_provision(settings, bundle, signatures, policy))
    except BundleInvalid as error:
        return refuse_bundle(error)
    except (PolicyFilesUnreadable, SignaturesMalformed, ProvisionFailed) as error:
        return refuse(str(error))
    return 0


async def _provision(settings: Settings, bundle: Bundle, signatures: tuple[str, ...], policy: Policy) -> None:
    await ensure_policy(settings, bundle, signatures)
    await ensure_bootstrap(settings, policy.agents, frozenset(policy.executors))


async def _first_operator(provisioner: Provisioner) -> OperatorSecret:
    """Make the first administrator; a lost `bootstrap.json` gets another name, never the old one's secrets."""
    try:
        return await provisioner.operator(_OPERATOR, "admin")
    except ProvisionFailed:
        return await provisioner.operator(f"{_OPERATOR}-{secrets.token_hex(3)}", "admin")


def _read(path: Path) -> dict[str, JSON]:
    if not path.exists():
        return {}
    try:
        document = strict_json.loads(path.read_bytes())
    except (OSError, MalformedJSON) as error:
        raise ProvisionFailed(f"`{path.name}` cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ProvisionFailed(f"`{path.name}` is not an object")
    return document


def _names(document: dict[str, JSON], member: str) -> dict[str, JSON]:
    names = document.get(member, {})
    if not isinstance(names, dict):
        raise ProvisionFailed(f"`{member}` in `{BOOTSTRAP}` is not an object")
    return dict(names)


def _write(path: Path, document: dict[str, JSON]) -> None:
    """Replace the file in one step; mode 0600 from its first byte."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise ProvisionFailed(f"`{path.name}` could not be written: {error}") from error
