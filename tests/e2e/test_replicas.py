"""A second API process on the same PostgreSQL: what one replica is told, the other obeys."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import httpx2
import pytest
from e2e.envelope import envelope, problem
from e2e.running_service import PATIENCE_S, read_note, until

pytestmark = pytest.mark.integration
#: What the contract promises, and as much again for a busy machine.
WITHIN_S = 2.0


@pytest.fixture(scope="module")
def replica(service, tmp_path_factory):
    """Return a client of another `holdfast api`, with a data directory of its own."""
    directory = tmp_path_factory.mktemp("replica")
    runtime = service.runtime
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = os.environ | {
        "HOLDFAST_DATABASE_URL": runtime["database_url"],
        "HOLDFAST_BROKER_URL": runtime["broker_url"],
        "HOLDFAST_SIGNER_SOCKET": runtime["signer_socket"],
        "HOLDFAST_ISSUER": service.base_url,
        "HOLDFAST_DATA_DIR": str(directory),
        "HOLDFAST_INSTANCE": "replica-2",
    }
    command = [sys.executable, "-P", "-m", "console.cli.main", "api", "--host", "127.0.0.1", "--port", str(port)]
    with (directory / "api.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE_S) as client:
        try:
            until(lambda: _ready(client), "the replica is ready")
            yield client
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


def _ready(client: httpx2.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def submitted(service, replica, note: str):
    headers = service.bearer("agent", "gamma")
    return replica.post("/v1/intents", json=read_note(note), headers=headers)


def consumed(service, replica, token: str, note: str):
    body = {"token": token, **read_note(note)}
    return replica.post("/v1/tokens/consume", json=body, headers=service.bearer("executor", "notes-api"))


def test_a_halt_given_to_one_replica_stops_the_other_within_a_second(service, replica):
    tokens = [envelope(submitted(service, replica, "r1"), 200, "ALLOWED")["token"] for _ in range(20)]
    body = {"scope": "category", "subject": "note.read", "reason": "incident 7"}
    assert service.request("POST", "/v1/operator/halt", json=body, headers=service.bearer("operator")).is_success
    halted_at = time.monotonic()
    try:
        while consumed(service, replica, tokens.pop(), "r1").status_code == 200:
            assert time.monotonic() - halted_at < WITHIN_S
            time.sleep(WITHIN_S / len(tokens))
        problem(consumed(service, replica, tokens.pop(), "r1"), 403, "EMERGENCY_HALT")
        envelope(submitted(service, replica, "r2"), 403, "EMERGENCY_HALT")
    finally:
        body = {"scope": "category", "subject": "note.read", "note": "over"}
        assert service.request("POST", "/v1/operator/resume", json=body, headers=service.bearer("operator")).is_success
    until(lambda: submitted(service, replica, "r3").status_code == 200, "the replica hears of the end")


def test_a_boundary_held_open_on_one_replica_is_open_on_the_other(service, replica):
    path, body = "/v1/operator/boundaries/token", {"reason": "drill"}
    operator = service.bearer("operator")
    assert service.request("POST", f"{path}/force-open", json=body, headers=operator).is_success
    try:
        until(lambda: replica.get("/readyz").json()["boundaries"]["token"] == "forced_open", "the replica has heard")
    finally:
        assert service.request("POST", f"{path}/reset", json=body, headers=operator).is_success
    until(lambda: _ready(replica), "the replica probed and closed")
    service.until_ready()
