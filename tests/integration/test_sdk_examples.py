"""The examples run as they stand: an agent and an executor as processes, and a fake of the service on a socket."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "unit" / "sdk"))

from holdfast.reasons import ReasonCode  # noqa: E402 - after the path
from sdk_fake_service import AGENT_KEY, EXECUTOR_KEY, FakeService  # noqa: E402 - after the path

pytestmark = pytest.mark.integration


@pytest.fixture
def service():
    fake = FakeService()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            url = f"http://{self.headers['host']}{self.path}"
            answer = fake.handle(httpx2.Request(self.command, url, content=content, headers=dict(self.headers)))
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST  # noqa: N815 - the name that http.server calls

        def log_message(self, *_):
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def executor_url(service):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--factory", "--port", str(port), "--log-level", "warning", "executor:build"],
        cwd=ROOT / "examples",
        env=os.environ | {"HOLDFAST_URL": service.issuer, "HOLDFAST_EXECUTOR_KEY": EXECUTOR_KEY},
    )
    url = f"http://127.0.0.1:{port}"
    give_up_at = time.monotonic() + 30
    while time.monotonic() < give_up_at:
        try:
            httpx2.get(url)
        except httpx2.TransportError:
            time.sleep(0.05)
        else:
            break
    yield url
    process.terminate()
    process.wait(timeout=30)


def ask(service, executor_url):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "agent.py"), "pay_123", "4200"],
        env=os.environ
        | {"HOLDFAST_URL": service.issuer, "HOLDFAST_AGENT_KEY": AGENT_KEY, "EXECUTOR_URL": executor_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_agent_and_an_executor_refund_a_payment(service, executor_url):
    done = ask(service, executor_url)

    assert (done.returncode, '"refunded": "pay_123"' in done.stdout) == (0, True), done.stderr
    assert [outcome["status"] for outcome in service.outcomes] == ["succeeded"]


def test_without_permission_or_service_nothing_is_refunded(service, executor_url):
    service.verdict = ReasonCode.POLICY_DENIED
    denied = ask(service, executor_url)
    service.lie("/v1/intents", httpx2.Response(500))
    unclear = ask(service, executor_url)
    bare = httpx2.post(f"{executor_url}/refunds/pay_123", json={"amount_cents": 1})

    assert (denied.returncode, unclear.returncode, bare.status_code) == (1, 2, 401)
    assert service.consumed == set()
