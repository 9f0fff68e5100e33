"""A real `holdfast up` in a process of its own, and what a client needs to talk to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
from e2e.bundle import write_bundle

from console.runtime import leash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PATIENCE_S = 90.0
_POLL_S = 0.05
_UP = (sys.executable, "-P", "-m", "console.cli.main", "up")
_HOLDFAST = (sys.executable, "-P", "-m", "console.cli.main")


class RunningService:
    """One supervisor on one data directory. It dies with the test run, and with it everything it started."""

    def __init__(
        self, directory: Path, *, max_per_agent: int = 40, environment: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.environment = dict(environment or {})
        self.data = directory / "data of ours"
        self.max_per_agent = max_per_agent
        self.policies = write_bundle(directory / "policies of ours", max_per_agent=max_per_agent)
        # The issuer is the base URL, so a second run on the same data takes the same port.
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx2.Client(trust_env=False, timeout=PATIENCE_S)

    # --- start and stop -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start, and return once it is ready."""
        arguments = ("--data-dir", str(self.data), "--policies", str(self.policies), "--port", str(self.port))
        with (self.directory / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", leash.__file__),
                    *(str(os.getpid()), str(int(signal.SIGTERM)), "-", "/"),
                    *_UP,
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**_environment(), **self.environment},
            )
        self.until(self._started, "the service is ready")

    def stop(self) -> int:
        """Ask it to stop and return its exit status."""
        if self.process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def kill(self) -> None:
        """End the supervisor as a power loss would, and wait until nothing of it is left."""
        if self.process is None:
            return
        left = tree(self.process.pid)
        self.process.kill()
        self.process.wait()
        until(lambda: not any(alive(pid) for pid in left), "no orphan is left")

    def close(self) -> None:
        """Stop, whatever state it is in."""
        self.client.close()
        if self.process is not None:
            for pid in tree(self.process.pid):
                send(pid, signal.SIGCONT)
            self.stop()

    # --- what it says of itself -----------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def bootstrap(self) -> dict[str, Any]:
        return json.loads((self.data / "bootstrap.json").read_text())

    @property
    def runtime(self) -> dict[str, Any]:
        return json.loads((self.data / "runtime.json").read_text())

    @property
    def database_url(self) -> str:
        return self.runtime["database_url"]

    def pid(self, child: str) -> int:
        return self.runtime["children"][child]

    def log(self, child: str) -> str:
        return (self.data / "log" / f"{child}.log").read_text(errors="replace")

    def faults(self) -> list[str]:
        """Return every fault of the API and the worker: an answer that nobody thought of."""
        lines = [*self.log("api").splitlines(), *self.log("worker").splitlines()]
        return [line for line in lines if "a fault while serving" in line or "the authorizer failed" in line]

    def ready(self) -> bool:
        try:
            return self.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    def troubles(self) -> list[str]:
        """Return what readiness complains of; nothing while nobody answers."""
        try:
            return self.get("/readyz").json()["troubles"]
        except httpx2.TransportError:
            return []

    def until(self, condition: Callable[[], bool], what: str) -> None:
        until(condition, what)

    def until_ready(self) -> None:
        until(self.ready, "the service is ready again")

    def _started(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError((self.directory / "up.log").read_text())
        return (self.data / "runtime.json").exists() and (self.data / "bootstrap.json").exists() and self.ready()

    # --- requests -------------------------------------------------------------------------------------------------

    def key(self, kind: str, name: str) -> str:
        """Return the bearer secret of an agent or an executor, or the operator's."""
        return self.bootstrap["operator"]["token"] if kind == "operator" else self.bootstrap[f"{kind}s"][name]

    def bearer(self, kind: str, name: str = "") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key(kind, name)}"}

    def request(self, method: str, path: str, **more: Any) -> httpx2.Response:
        return self.client.request(method, self.base_url + path, **more)

    def get(self, path: str, **more: Any) -> httpx2.Response:
        return self.request("GET", path, **more)

    def submit(self, intent: Any, *, agent: str = "alpha", key: str | None = None, **headers: str) -> httpx2.Response:
        """Submit a document, or raw bytes."""
        body = intent if isinstance(intent, bytes) else json.dumps(intent).encode()
        sent = {"Content-Type": "application/json", **self.bearer("agent", agent), **headers}
        if key is not None:
            sent["Idempotency-Key"] = key
        return self.request("POST", "/v1/intents", content=body, headers=sent)

    def grants(self, intent: Any, key: str, *, agent: str = "alpha") -> str | None:
        """Submit and return the token, None for every other answer and for none."""
        try:
            answer = self.submit(intent, agent=agent, key=key)
        except httpx2.TransportError:
            return None
        return answer.json()["token"] if answer.status_code == 200 else None

    def look(self, intent_id: str, *, agent: str = "alpha") -> httpx2.Response:
        return self.get(f"/v1/intents/{intent_id}", headers=self.bearer("agent", agent))

    def claim(self, intent_id: str, *, agent: str = "alpha") -> httpx2.Response:
        return self.request("POST", f"/v1/intents/{intent_id}/claim", headers=self.bearer("agent", agent))

    def cancel(self, intent_id: str, *, agent: str = "alpha") -> httpx2.Response:
        return self.request("DELETE", f"/v1/intents/{intent_id}", headers=self.bearer("agent", agent))

    def consume(self, token: object, intent: Mapping[str, Any], *, executor: str = "notes-api") -> httpx2.Response:
        body = {
            "token": token,
            **{name: intent[name] for name in ("action", "resource", "parameters") if name in intent},
        }
        return self.request("POST", "/v1/tokens/consume", json=body, headers=self.bearer("executor", executor))

    def report(self, jti: str, body: Any, *, executor: str = "notes-api") -> httpx2.Response:
        return self.request("POST", f"/v1/tokens/{jti}/outcome", json=body, headers=self.bearer("executor", executor))

    # --- faults ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def stopped(self, child: str) -> Iterator[None]:
        """Stop a child and everything below it for the time of the block, then wait until all is well."""
        members = tree(self.pid(child))
        for member in members:
            send(member, signal.SIGSTOP)
        try:
            yield
        finally:
            for member in members:
                send(member, signal.SIGCONT)
            self.until_ready()

    def verify(self, receipts: list[str]) -> subprocess.CompletedProcess[str]:
        """Run the auditor's command, with receipts that the log must hold."""
        command = [*_HOLDFAST, "audit", "verify", "--data-dir", str(self.data)]
        for receipt in receipts:
            command += ["--receipt", receipt]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=_environment(), cwd="/"
        )


def read_note(note: str = "n1", **more: Any) -> dict[str, Any]:
    """Return an intent that is allowed at once."""
    return {"action": "note.read", "resource": {"type": "note", "id": note}, **more}


def refund(cents: int = 4200, payment: str = "p1", **more: Any) -> dict[str, Any]:
    """Return an intent of high impact."""
    return {
        "action": "money.refund",
        "resource": {"type": "payment", "id": payment},
        "parameters": {"amount_cents": cents},
        **more,
    }


def held(payment: str = "p1") -> dict[str, Any]:
    """Return an intent that waits for a human."""
    return refund(60_000, payment)


def until(condition: Callable[[], bool], what: str) -> None:
    """Return once `condition` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(_POLL_S)


def alive(pid: int) -> bool:
    """Return whether a process runs; one that only waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def tree(pid: int) -> list[int]:
    """Return a process and everything below it, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for known in found:
        found.extend(children.get(known, []))
    return found


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to one process, which may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
