"""The service's processes, each behind proxies of its own to everything it depends on; a process that tests control.

Run as `python -m chaos.rig DATA POLICIES PORT`, it is what `holdfast up` is, made of the same parts, and takes orders
on the socket `DATA/../rig.sock`: one JSON line asks for a fault, the answer says when it was in effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from chaos.matrix import CHILDREN, Dependency, Fault, Step
from chaos.proxy import Harm, Protocol, Proxy

from console.demo.processes import signal_tree, tree
from console.runtime import state
from console.runtime.children import Children, Command, run_once
from console.runtime.directory import DataDirectory, run_directory
from console.runtime.policies import read_policies
from console.runtime.postgres import EmbeddedPostgres
from console.runtime.supervisor import Options, _accepts, _answers, _Place, listening, write_keys
from console.runtime.supervisor import base_url as url_of
from console.runtime.valkey import EmbeddedValkey
from services.postgres.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: Longer than every deadline, so that late answers come, and come late.
_HOLD_S = 3.6
_TRIGGER_S = 20.0
_DISK_BYTES = 640 << 20
_LOCK = "LOCK policy_activations IN ACCESS EXCLUSIVE MODE"
_RENAME = "ALTER TABLE policy_activations RENAME TO policy_activations_away"
_RENAME_BACK = "ALTER TABLE policy_activations_away RENAME TO policy_activations"
_HELD = 'while [ -e "$0" ]; do sleep 0.05; done; exec "$@"'

_PROTOCOLS = {
    Dependency.POSTGRESQL: Protocol.POSTGRESQL,
    Dependency.VALKEY: Protocol.VALKEY,
    Dependency.SIGNER: Protocol.SIGNER,
    Dependency.CLASSIFIER: Protocol.HTTP,
}
#: Whose traffic shows that an intent that waited is at the step.
_WORKER_STEPS = {
    Step.CLASSIFY: Dependency.CLASSIFIER,
    Step.EVALUATE: Dependency.VALKEY,
    Step.RECORD: Dependency.POSTGRESQL,
    Step.RELEASE: Dependency.POSTGRESQL,
}


class Rig:
    """Everything that runs, and the means to break it."""

    def __init__(self, data: DataDirectory, run: Path, children: Children) -> None:
        self.data = data
        self._run = run
        self._children = children
        self._proxies: dict[tuple[str, Dependency], Proxy] = {}
        self._database_url = ""

    # --- parts ----------------------------------------------------------------------------------------------------

    async def start(self, options: Options, base_url: str, fd: int) -> None:
        """Start everything and return once it is ready."""
        data, run, children = self.data, self._run, self._children
        policy = read_policies(options.policies)
        postgres, valkey = EmbeddedPostgres(data, run), EmbeddedValkey(data, run)
        await postgres.prepare()
        self._database_url = postgres.database_url
        signer_socket = run / "own" / "signer.sock"
        direct = _Place(
            options=options,
            base_url=base_url,
            database_url=postgres.database_url,
            broker_url=valkey.broker_url,
            signer_socket=signer_socket,
        )
        self.recorder(direct)
        await children.start(self._holdable(postgres.command()), postgres.ready)
        await children.start(self._holdable(valkey.command()), valkey.ready)
        await migrate(postgres.database_url)
        write_keys(data, policy, issuer=base_url)
        await children.start(self._holdable(direct.signer()), _accepts(signer_socket))
        await run_once(direct.service("provision"), data.logs / "provision.log")
        classifier = Command(
            name="classifier",
            argv=(sys.executable, "-P", "-m", "console.gameday.classifier", str(options.policies), str(_free_port())),
            environment={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"},
            directory=data.root,
        )
        classifier_port = int(classifier.argv[-1])
        await children.start(self._holdable(classifier), _listens(classifier_port))
        for process in ("api", "worker"):
            place, environment = await self._behind_proxies(process, direct, classifier_port)
            arguments, fds = (("--fd", str(fd)), (fd,)) if process == "api" else ((), ())
            command = place.service(process, *arguments, fds=fds)
            command = replace(command, environment={**command.environment, **environment})
            if process == "worker":
                command = self._holdable(command)
            # Either has its policies then: without a copy of them none starts while the store is away.
            await children.start(command, _exists(data.root / f"policies-{process}.bundle"))
        await children.until(_answers(f"{base_url}/readyz"), command)

    def recorder(self, place: _Place) -> None:
        """Keep `runtime.json` as the commands that look at data expect it; the database without a proxy."""

        def record(pids: dict[str, int]) -> None:
            state.Runtime(
                pid=os.getpid(),
                database_url=place.database_url,
                broker_url=place.broker_url,
                signer_socket=str(place.signer_socket),
                base_url=place.base_url,
                children=pids,
            ).write(self.data.runtime)

        self._children._changed = record

    async def _behind_proxies(
        self, process: str, direct: _Place, classifier_port: int
    ) -> tuple[_Place, dict[str, str]]:
        home = self._run / "own" / process
        home.mkdir(mode=0o700)
        sockets: dict[Dependency, tuple[Any, Path | None]] = {
            Dependency.POSTGRESQL: (self._run / "pg" / ".s.PGSQL.5432", home / ".s.PGSQL.5432"),
            Dependency.VALKEY: (self._run / "own" / "valkey.sock", home / "valkey.sock"),
            Dependency.SIGNER: (direct.signer_socket, home / "signer.sock"),
            Dependency.CLASSIFIER: (("127.0.0.1", classifier_port), None),
        }
        port = 0
        for dependency, (upstream, place) in sockets.items():
            proxy = Proxy(_PROTOCOLS[dependency], upstream)
            port = await proxy.listen(place)
            self._proxies[process, dependency] = proxy
        place = replace(
            direct,
            database_url=direct.database_url.replace(_quoted(self._run / "pg"), _quoted(home)),
            broker_url=f"unix://{home / 'valkey.sock'}?db=0",
            signer_socket=home / "signer.sock",
        )
        return place, {"HOLDFAST_CLASSIFIER_URL": f"http://127.0.0.1:{port}/classify"}

    def _holdable(self, command: Command) -> Command:
        """Return the command so that it does not start while a file of its name exists."""
        return replace(command, argv=("/bin/sh", "-c", _HELD, str(self._hold(command.name)), *command.argv))

    def _hold(self, name: str) -> Path:
        return self._run / f"hold-{name}"

    # --- faults ---------------------------------------------------------------------------------------------------

    async def inflict(self, dependency: Dependency, fault: Fault, step: Step, lasts_s: float) -> dict[str, float]:
        """Wait until an intent is at the step, break the dependency there, mend it, and say when that was."""
        child = CHILDREN.get(dependency)
        harm = Harm(fault=fault, step=step, hold_s=_HOLD_S)
        proxies = self._harmed(dependency, fault)
        began: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        def begin() -> None:
            if child is not None:
                self._signal(child, fault)
            for proxy in proxies:
                proxy.harm(harm)
            began.set_result(time.time())

        old = self._children.pids()
        self._watched(dependency, step).watch(step, begin)
        async with asyncio.timeout(_TRIGGER_S):
            await began
        try:
            async with self._beside(dependency, fault):
                if child is not None and fault is Fault.KILLED:
                    await self._started_again(child, old[child])
                else:
                    await asyncio.sleep(lasts_s)
                ended = time.time()
        finally:
            for proxy in proxies:
                await proxy.heal()
            if child is not None:
                self._hold(child).unlink(missing_ok=True)
                if fault is Fault.STOPPED:
                    signal_tree(self._children.pids()[child], signal.SIGCONT)
        return {"began": began.result(), "ended": ended}

    def _harmed(self, dependency: Dependency, fault: Fault) -> list[Proxy]:
        """Return the proxies that do the harm."""
        if dependency is Dependency.DISK and fault is Fault.REFUSING:
            dependency = Dependency.POSTGRESQL  # away too, so that the journal is all there is
        return [proxy for (_, of), proxy in self._proxies.items() if of is dependency]

    def _watched(self, dependency: Dependency, step: Step) -> Proxy:
        """Return the proxy that sees the step's bytes pass."""
        if dependency is Dependency.WORKER:
            return self._proxies["worker", _WORKER_STEPS[step]]
        over_database = dependency in {Dependency.LEASE, Dependency.DISK}
        return self._proxies["api", Dependency.POSTGRESQL if over_database else dependency]

    async def _started_again(self, child: str, old: int) -> None:
        async with asyncio.timeout(_TRIGGER_S):
            while self._children.pids()[child] == old:  # noqa: ASYNC110 - the supervisor tells of it by its pids
                await asyncio.sleep(0.01)

    def _signal(self, child: str, fault: Fault) -> None:
        pid = self._children.pids()[child]
        if fault is Fault.STOPPED:
            signal_tree(pid, signal.SIGSTOP)
        elif fault in {Fault.KILLED, Fault.AWAY}:
            if fault is Fault.AWAY:
                self._hold(child).touch(mode=0o644)
            for member in tree(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)

    @contextlib.asynccontextmanager
    async def _beside(self, dependency: Dependency, fault: Fault) -> AsyncIterator[None]:
        """Do for the time of the block what no proxy and no signal can."""
        if dependency is Dependency.LEASE:
            async with self._silent_source(fault):
                yield
        elif dependency is Dependency.DISK and fault is Fault.FULL:
            filler = self.data.root / "filler"
            _fill(filler)
            try:
                yield
            finally:
                filler.unlink()
        elif dependency is Dependency.DISK:
            pids = [self._children.pids()[name] for name in ("api", "worker")]
            _limit_writes(pids, 0)
            try:
                yield
            finally:
                _limit_writes(pids, resource.RLIM_INFINITY)
        else:
            yield

    @contextlib.asynccontextmanager
    async def _silent_source(self, fault: Fault) -> AsyncIterator[None]:
        connection = await asyncpg.connect(self._database_url)
        try:
            if fault is Fault.STOPPED:
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute(_LOCK)
                yield
                await transaction.rollback()
            else:
                await connection.execute(_RENAME)
                try:
                    yield
                finally:
                    await connection.execute(_RENAME_BACK)
        finally:
            await connection.close()


def _fill(path: Path) -> None:
    """Write until the disk is full. Raises: OSError unless it is a disk made for this."""
    if not path.parent.is_mount():
        raise OSError("the data directory has no disk of its own")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for block in (bytes(1 << 20), bytes(1 << 12)):
            with contextlib.suppress(OSError):
                while os.write(descriptor, block) == len(block):
                    pass
    finally:
        os.close(descriptor)


def _limit_writes(pids: list[int], limit: int) -> None:
    """Let processes write to no file beyond `limit` bytes. Source: getrlimit(2), RLIMIT_FSIZE."""
    for pid in pids:
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, hard))


def _quoted(path: Path) -> str:
    return str(path).replace("/", "%2F")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _listens(port: int) -> Any:
    async def ready() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    return ready


def _exists(path: Path) -> Any:
    async def ready() -> bool:
        return path.exists()  # noqa: ASYNC240 - a look

    return ready


@contextlib.contextmanager
def own_disk(data: Path) -> Any:
    """Give the data directory a small disk of its own, where this user may mount one."""
    data.mkdir(mode=0o700, exist_ok=True)
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", f"size={_DISK_BYTES},mode=0700", "tmpfs", str(data)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        yield
        return
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(data)], check=False, capture_output=True)


async def main(data_dir: str, policies: str, port: int) -> None:
    """Serve until SIGTERM."""
    data = DataDirectory.at(data_dir)
    options = Options(data=data, policies=Path(policies), host="127.0.0.1", port=port, say=print)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with own_disk(data.root):
        data.create()
        with data.held(), listening(options.host, options.port) as listener, run_directory() as run:
            try:
                async with Children(logs=data.logs, say=print) as children:
                    rig = Rig(data, run, children)
                    await rig.start(options, url_of(options.host, listener), listener.fileno())
                    orders = await asyncio.start_unix_server(
                        lambda reader, writer: _take_orders(rig, reader, writer), str(data.root.parent / "rig.sock")
                    )
                    async with orders:
                        await stop.wait()
            finally:
                data.runtime.unlink(missing_ok=True)


async def _take_orders(rig: Rig, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer):
        asked = json.loads(await reader.readline())
        try:
            answer: dict[str, Any] = await rig.inflict(
                Dependency(asked["dependency"]), Fault(asked["fault"]), Step(asked["step"]), asked["lasts_s"]
            )
        except (TimeoutError, OSError, asyncpg.PostgresError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
