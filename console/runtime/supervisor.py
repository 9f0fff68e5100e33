"""PostgreSQL, Valkey, signer, API and worker under one supervisor, from one data directory."""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from holdfast import strict_json
from holdfast.errors import MalformedJSON

from console.runtime import state
from console.runtime.children import Children, Command, run_once
from console.runtime.directory import DataDirectory, run_directory, write_private
from console.runtime.failure import CommandFailed
from console.runtime.policies import read_policies
from console.runtime.postgres import EmbeddedPostgres
from console.runtime.profile import SignerFiles
from console.runtime.valkey import EmbeddedValkey
from services.breaker import State
from services.notices.configuration import ConfigurationInvalid
from services.notifying import notifications_of
from services.outbound.signature import encode_private
from services.postgres.migrations import MigrationRefused, migrate

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from services.decision.policy import Policy

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8420
_BACKLOG: Final = 512
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where "everywhere" is reached from here


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `holdfast up` was asked for. Port 0 takes any free one. `say` prints a line for a person."""

    data: DataDirectory
    policies: Path
    notify: Path | None = None
    host: str
    port: int
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where this run's parts find each other."""

    options: Options
    base_url: str
    database_url: str
    broker_url: str
    signer_socket: Path

    def service(self, name: str, *arguments: str, fds: tuple[int, ...] = ()) -> Command:
        """Return a process of the service; it is told everything by its environment."""
        settings = {
            "HOLDFAST_DATABASE_URL": self.database_url,
            "HOLDFAST_BROKER_URL": self.broker_url,
            "HOLDFAST_SIGNER_SOCKET": str(self.signer_socket),
            "HOLDFAST_POLICIES": str(self.options.policies),
            "HOLDFAST_DATA_DIR": str(self.options.data.root),
            "HOLDFAST_ISSUER": self.base_url,
            "HOLDFAST_INSTANCE": name,
        }
        if self.options.notify is not None:
            settings["HOLDFAST_NOTIFY"] = str(self.options.notify)
        own = {"HOLDFAST_WEBHOOK_KEY": str(self.options.data.callbacks_key)}
        return self._holdfast(name, *arguments, environment={**own, **os.environ, **settings}, fds=fds)

    def signer(self) -> Command:
        """Return the signer, which learns neither the database nor the broker."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        files = SignerFiles(self.options.data.signer)
        settings = {
            "HOLDFAST_SIGNER_SOCKET": str(self.signer_socket),
            "HOLDFAST_SIGNER_KEY": str(files.key),
            "HOLDFAST_SIGNER_PASSPHRASE": str(files.passphrase),
            "HOLDFAST_SIGNER_PROFILE": str(files.profile),
        }
        return self._holdfast("signer", environment={**outside, **settings})

    def _holdfast(
        self, name: str, *arguments: str, environment: Mapping[str, str], fds: tuple[int, ...] = ()
    ) -> Command:
        return Command(
            name=name,
            # -P: nothing in the current directory shadows a package.
            argv=(sys.executable, "-P", "-m", "console.cli.main", name, *arguments),
            environment={**environment, "PYTHONUNBUFFERED": "1"},
            directory=self.options.data.root,
            inherited_fds=fds,
        )


class Supervisor:
    """One run of `holdfast up`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stopping = False
        self._children: Children | None = None

    async def run(self) -> int:
        """Serve until SIGINT, SIGTERM or SIGHUP; then stop every child and return 0. Raises: CommandFailed."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("the supervisor runs as a task")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Under nohup a hang-up is ignored, and stays so.
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._stop, task)
        try:
            await self._serve()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            task.uncancel()
            self._options.say("stopped")
        return 0

    def _stop(self, task: asyncio.Task[object]) -> None:
        """Stop on the first signal; give the children no more time on the second."""
        if not self._stopping:
            self._stopping = True
            self._options.say("stopping; once more to hurry")
            task.cancel()
        elif self._children is not None:
            self._children.hurry()

    async def _serve(self) -> None:
        options = self._options
        # 1. One supervisor per data directory.
        options.data.create()
        with options.data.held():
            state.forget(options.data)
            # 2. Without policies that compile, nothing starts and no port opens.
            policy = read_policies(options.policies)
            options.say(f"policies {policy.digest}")
            for warning in policy.warnings:
                options.say(f"warning: {warning}")
            _check_notify(options)
            # 3. The port is held by the supervisor, so that it is known and outlives a restart of the API.
            with listening(options.host, options.port) as listener, run_directory() as run:
                try:
                    await self._serve_from(policy, listener, run)
                finally:
                    options.data.runtime.unlink(missing_ok=True)

    async def _serve_from(self, policy: Policy, listener: socket.socket, run: Path) -> None:
        options, data = self._options, self._options.data
        postgres, valkey = EmbeddedPostgres(data, run), EmbeddedValkey(data, run)
        # A database or broker of the operator's own is used as it is.
        own_database = os.environ.get("HOLDFAST_DATABASE_URL")
        own_broker = os.environ.get("HOLDFAST_BROKER_URL")
        if own_database is None:
            await postgres.prepare()
        place = _Place(
            options=options,
            base_url=base_url(options.host, listener),
            database_url=own_database or postgres.database_url,
            broker_url=own_broker or valkey.broker_url,
            signer_socket=run / "own" / "signer.sock",
        )
        async with Children(logs=data.logs, say=options.say, changed=_recorder(place)) as children:
            self._children = children
            # 4. What holds state.
            if own_database is None:
                await children.start(postgres.command(), postgres.ready)
            if own_broker is None:
                await children.start(valkey.command(), valkey.ready)
            await _migrate(place)
            # 5. Who signs, and within which bounds.
            write_keys(data, policy, issuer=place.base_url)
            await children.start(place.signer(), _accepts(place.signer_socket))
            # 6. Who may call.
            await run_once(place.service("provision"), data.logs / "provision.log")
            # 7. Who answers.
            # The worker first: with a copy of its policies it starts while the database is away, too, which may be the
            # moment after the API said that it is ready.
            await children.start(place.service("worker"), _is_there(data.root / "policies-worker.bundle"))
            api = place.service("api", "--fd", str(listener.fileno()), fds=(listener.fileno(),))
            await children.start(api, _answers(f"{place.base_url}/livez"))
            health = _Health(f"{place.base_url}/readyz")
            await children.until(health.serves, api)
            if health.held_open:
                options.say(f"operators hold boundaries open: {', '.join(health.held_open)}; see `holdfast boundaries`")
            options.say(_welcome(place, policy))
            # 8. Until told to stop. However long an outage lasts, what is left answers with refusals, and comes back.
            children.never_give_up()
            raise CommandFailed(await children.lost())


def write_keys(data: DataDirectory, policy: Policy, *, issuer: str) -> None:
    """Write what the signer may sign, and whatever key there is not yet."""
    SignerFiles(data.signer).write(policy, issuer=issuer)
    if not data.callbacks_key.exists():
        write_private(data.callbacks_key, encode_private(Ed25519PrivateKey.generate()) + "\n")


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Hold a listening socket. Raises: CommandFailed if the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise CommandFailed(f"the host `{host}` is not known: {error}") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            # Two sockets may bind the same port until one listens, so this is what takes it.
            listener.listen(_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CommandFailed(
                    f"port {port} on {host} is already in use; choose another with --port, or --port 0 for any free one"
                ) from error
            raise CommandFailed(f"cannot listen on {host} port {port}: {error.strerror}") from error
        yield listener


def base_url(host: str, listener: socket.socket) -> str:
    """Return the URL under which this machine reaches the listener."""
    name = _EVERYWHERE.get(host, host)
    bracketed = f"[{name}]" if ":" in name else name
    return f"http://{bracketed}:{listener.getsockname()[1]}"


def _check_notify(options: Options) -> None:
    """Refuse a file of channels that the children would refuse. Raises: CommandFailed."""
    try:
        found = notifications_of(options.notify, options.data.root, source="holdfast")
    except ConfigurationInvalid as error:
        raise CommandFailed(str(error)) from error
    names = ", ".join(channel.name for channel in found.channels)
    options.say(f"notifications to {names}" if names else "notifications to nobody: no channel is configured")


async def _migrate(place: _Place) -> None:
    try:
        applied = await migrate(place.database_url)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, MigrationRefused) as error:
        raise CommandFailed(f"the database cannot be migrated: {error}") from error
    if applied:
        place.options.say(f"migrated the database: {', '.join(applied)}")


def _recorder(place: _Place) -> Callable[[Mapping[str, int]], None]:
    def record(pids: Mapping[str, int]) -> None:
        state.Runtime(
            pid=os.getpid(),
            database_url=place.database_url,
            broker_url=place.broker_url,
            signer_socket=str(place.signer_socket),
            base_url=place.base_url,
            children=dict(pids),
        ).write(place.options.data.runtime)

    return record


def _accepts(path: Path) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(path))
        except OSError:
            return False
        writer.close()
        return True

    return ready


def _answers(url: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        try:
            # The environment's proxies are for other hosts.
            async with httpx2.AsyncClient(trust_env=False, timeout=2) as client:
                return (await client.get(url)).status_code == httpx2.codes.OK
        except httpx2.TransportError:
            return False

    return ready


class _Health:
    """Whether the API is as ready as operators let it be. What they hold open only they can let go of, once it runs."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.held_open: tuple[str, ...] = ()

    async def serves(self) -> bool:
        """Return whether nothing is amiss but what operators hold open."""
        try:
            async with httpx2.AsyncClient(trust_env=False, timeout=2) as client:
                found = strict_json.loads((await client.get(self._url)).content)
        except (httpx2.TransportError, MalformedJSON):
            return False
        states = found.get("boundaries") if isinstance(found, dict) else None
        if not isinstance(found, dict) or not isinstance(states, dict) or not states or found.get("troubles") != []:
            return False
        self.held_open = tuple(sorted(name for name, state in states.items() if state == State.FORCED_OPEN))
        return all(state in {State.CLOSED, State.FORCED_OPEN} for state in states.values())


def _is_there(path: Path) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return path.exists()  # noqa: ASYNC240 - one look at a local file

    return ready


def _welcome(place: _Place, policy: Policy) -> str:
    bootstrap = place.options.data.bootstrap
    lines = [
        f"ready at {place.base_url}",
        f"  credentials  {bootstrap}",
        f"  logs         {place.options.data.logs}",
        f"  health       curl -s {place.base_url}/readyz",
    ]
    if policy.agents:
        pick = 'import json, sys; print(next(iter(json.load(open(sys.argv[1]))["agents"].values())))'
        intent = '{"action": "no.such.action", "resource": {"type": "any", "id": "1"}}'
        lines += [
            "  try          an action that no catalogue knows, and read why it is denied:",
            f"    KEY=$(python3 -c {shlex.quote(pick)} {shlex.quote(str(bootstrap))})",
            '    curl -s -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\',
            f"      -d {shlex.quote(intent)} {place.base_url}/v1/intents",
        ]
    return "\n".join(lines)
