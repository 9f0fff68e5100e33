"""A throw-away twin of a deployment: its policies, on embedded servers in a temporary directory, on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import asyncpg
import httpx2
from holdfast import strict_json
from redis.asyncio import Redis
from redis.exceptions import RedisError

from console.demo.processes import Running, signal_tree, started
from console.demo.service import is_ready, tail, until_readiness_is, until_started, up_command
from console.runtime.failure import CommandFailed
from console.runtime.state import Runtime
from services.breaker import State
from services.provision import open_provisioner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from holdfast.intent import Intent
    from holdfast.strict_json import JSON

    from console.gameday.samples import Sample

#: Settings of the deployment that its twin takes over: they change how boundaries answer, and name nobody.
KEPT_SETTINGS: Final = ("HOLDFAST_COMMIT_HEDGE_MS", "HOLDFAST_CLASSIFIER_MIN_CONFIDENCE")
#: The smallest journal there may be: it is to be filled.
_JOURNAL_BYTES: Final = 1 << 20
_REQUEST_S: Final = 20.0
_RECOVER_S: Final = 60.0
_LOOK_S: Final = 0.1
_COUNTERS_S: Final = 0.5
_LOCK_LOG: Final = "LOCK audit_records IN ACCESS EXCLUSIVE MODE"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the twin."""

    http_status: int
    body: Mapping[str, JSON]


@dataclass(slots=True, kw_only=True)
class Twin:
    """The running twin. `receipts` collects every receipt that anybody was given."""

    data_dir: Path
    base_url: str
    bootstrap: Mapping[str, Mapping[str, str]]
    approver: str
    classifier: Running
    http: httpx2.AsyncClient
    receipts: dict[str, None] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    # --- what agents, executors and operators do ------------------------------------------------------------------

    async def submit(self, sample: Sample, *, key: str | None = None, intent: Intent | None = None) -> Answer:
        """Submit a sample as its agent, with a fresh idempotency key unless one is given."""
        headers = {"Idempotency-Key": key or self.fresh_key()}
        document = (intent or sample.intent).to_json()
        return await self._ask("POST", "/v1/intents", self.bootstrap["agents"][sample.agent], document, headers)

    async def look(self, sample: Sample, intent_id: str) -> Answer:
        """Look at an intent as its agent."""
        return await self._ask("GET", f"/v1/intents/{intent_id}", self.bootstrap["agents"][sample.agent])

    async def claim(self, sample: Sample, intent_id: str) -> Answer:
        """Claim a late allow."""
        return await self._ask("POST", f"/v1/intents/{intent_id}/claim", self.bootstrap["agents"][sample.agent])

    async def cancel(self, sample: Sample, intent_id: str) -> Answer:
        """End an intent that waits, as its agent."""
        return await self._ask("DELETE", f"/v1/intents/{intent_id}", self.bootstrap["agents"][sample.agent])

    async def consume(self, sample: Sample, token: JSON) -> Answer:
        """Present a token as its executor: what comes before every execution."""
        document = sample.intent.to_json()
        body = {"token": token, **{name: document[name] for name in ("action", "resource", "parameters")}}
        return await self._ask("POST", "/v1/tokens/consume", self.bootstrap["executors"][sample.executor], body)

    async def order(self, path: str, body: Mapping[str, JSON], *, as_second: bool = False) -> None:
        """Give an operator's order. Raises: CommandFailed if it is refused."""
        token = self.approver if as_second else self.bootstrap["operator"]["token"]
        answer = await self._ask("POST", f"/v1/operator/{path}", token, body)
        if answer.http_status not in {httpx2.codes.OK, httpx2.codes.CREATED}:
            raise CommandFailed(f"the order `{path}` was refused: {answer.body.get('detail')}")

    def fresh_key(self) -> str:
        """Return an idempotency key that was not used before."""
        return f"gameday-{next(self._numbers)}"

    async def _ask(
        self,
        method: str,
        path: str,
        credential: str,
        body: Mapping[str, JSON] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = {"Authorization": f"Bearer {credential}", **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        content = None if body is None else json.dumps(body).encode("ascii")
        try:
            response = await self.http.request(method, f"{self.base_url}{path}", content=content, headers=sent)
            document = strict_json.loads(response.content)
        except httpx2.HTTPError as error:
            raise CommandFailed(f"the twin did not answer {method} {path}: {type(error).__name__}") from error
        if not isinstance(document, dict):
            raise CommandFailed(f"the twin did not answer {method} {path} with an object")
        receipt = document.get("receipt")
        if isinstance(receipt, dict):
            self.receipts[f"{receipt['stream']}:{receipt['seq']}:{receipt['hash']}"] = None
        return Answer(response.status_code, document)

    async def forget_limits(self) -> None:
        """Let the agents' limits start anew, where the counters can be reached."""
        redis = Redis.from_url(
            self._runtime().broker_url, socket_timeout=_COUNTERS_S, socket_connect_timeout=_COUNTERS_S
        )
        with contextlib.suppress(RedisError, OSError):
            async with redis:
                for kind in ("calls", "tokens:*", "charged:*"):
                    found = [key async for key in redis.scan_iter(f"holdfast:{{*}}:{kind}")]
                    if found:
                        await redis.delete(*found)

    async def verify(self, receipts: Sequence[str]) -> str | None:
        """Let the auditor's command verify the log, and that it holds these receipts; return what it found wrong."""
        command = [sys.executable, "-P", "-m", "console.cli.main", "audit", "verify", "--data-dir", str(self.data_dir)]
        for receipt in receipts:
            command += ["--receipt", receipt]
        verify = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")},
        )
        said, _ = await verify.communicate()
        lines = said.decode("utf-8", "replace").strip().splitlines()
        return None if verify.returncode == 0 else "; ".join(lines[-3:]) or "`audit verify` failed"

    # --- what is done to it ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def stopped(self, child: str) -> Iterator[None]:
        """Stop a process and everything below it for the time of the block."""
        pid = self.classifier.process.pid if child == "classifier" else self._runtime().children[child]
        signal_tree(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            signal_tree(pid, signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def locked_log(self) -> AsyncIterator[None]:
        """Let every commit of a record hang, and nothing else of the database."""
        connection = await asyncpg.connect(self._runtime().database_url)
        try:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(_LOCK_LOG)
            yield
            await transaction.rollback()
        finally:
            await connection.close()

    async def ready(self) -> bool:
        """Return whether it may be sent traffic."""
        return await is_ready(self.http, self.base_url)

    async def until_ready(self, *, ready: bool = True) -> None:
        """Wait for readiness, or for its end. Raises: CommandFailed."""
        await until_readiness_is(self.http, self.base_url, ready=ready, limit_s=_RECOVER_S)

    async def until_open(self, boundary: str) -> None:
        """Wait until a boundary admits nothing more. Raises: CommandFailed."""
        deadline = time.monotonic() + _RECOVER_S
        while await self._is_closed(boundary):
            if time.monotonic() > deadline:
                raise CommandFailed(f"the {boundary} boundary did not open within {_RECOVER_S:.0f} s")
            await asyncio.sleep(_LOOK_S)

    async def _is_closed(self, boundary: str) -> bool:
        try:
            document = strict_json.loads((await self.http.get(f"{self.base_url}/readyz")).content)
        except httpx2.HTTPError as error:
            raise CommandFailed(f"the twin did not answer /readyz: {type(error).__name__}") from error
        match document:
            case {"boundaries": {**states}} if boundary in states:
                return states[boundary] == State.CLOSED
            case _:
                raise CommandFailed(f"the twin's /readyz does not name the {boundary} boundary")

    def _runtime(self) -> Runtime:
        return Runtime.read(self.data_dir / "runtime.json")


@contextlib.asynccontextmanager
async def open_twin(directory: Path, policies: Path) -> AsyncIterator[Twin]:
    """Start a twin in `directory` and stop it again. Raises: CommandFailed."""
    data_dir, logs = directory / "data", directory / "log"
    logs.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=_REQUEST_S, trust_env=False))
        log = logs / "classifier.log"
        command = [sys.executable, "-P", "-m", "console.gameday.classifier", str(policies)]
        classifier = await stack.enter_async_context(started("classifier", command, environment={}, log=log, read=True))
        line = await classifier.process.stdout.readline() if classifier.process.stdout is not None else b""
        if not line.strip().isdigit():
            raise CommandFailed(f"the stand-in for the classifier did not start: {tail(log)}")
        environment = {
            **{name: os.environ[name] for name in KEPT_SETTINGS if name in os.environ},
            "HOLDFAST_JOURNAL_MAX_BYTES": str(_JOURNAL_BYTES),
            "HOLDFAST_CLASSIFIER_URL": f"http://127.0.0.1:{int(line)}/classify",
        }
        log = logs / "up.log"
        service = await stack.enter_async_context(
            started("up", up_command(data_dir, policies), environment=environment, log=log)
        )
        base_url, bootstrap = await until_started(http, data_dir, service, log)
        # Whoever halts does not resume: that takes a second person.
        url = Runtime.read(data_dir / "runtime.json").database_url
        async with open_provisioner(url, data_dir) as provisioner:
            second = await provisioner.operator("gameday", "approver")
        yield Twin(
            data_dir=data_dir,
            base_url=base_url,
            bootstrap=bootstrap,
            approver=second.token,
            classifier=classifier,
            http=http,
        )
