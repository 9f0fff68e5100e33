"""The client and the guard's store over real sockets and between real processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from holdfast.client import AsyncClient, Client
from holdfast.errors import ServiceUnavailable
from holdfast.intent import Resource
from holdfast.submission import Patience

pytestmark = pytest.mark.integration

ASKED = {"action": "payments.refund.create", "resource": Resource(type="payment", id="p")}
IMPATIENT = Patience(timeout_s=0.3, attempts=1)


@pytest.fixture(params=["plain", "async"])
def submit(request):
    """Return a coroutine function that submits over a real connection, either way."""

    async def plain(base_url):
        def call():
            with Client(base_url, "hfa_x", patience=IMPATIENT) as client:
                return client.submit(**ASKED)

        return await asyncio.to_thread(call)

    async def asynchronous(base_url):
        async with AsyncClient(base_url, "hfa_x", patience=IMPATIENT) as client:
            return await client.submit(**ASKED)

    return plain if request.param == "plain" else asynchronous


@pytest.fixture
async def serve():
    """Return a function that starts a server which answers every connection with what `handle` writes."""
    servers = []

    async def start(handle) -> str:
        connections.clear()

        async def connected(reader, writer):
            connections.append(await reader.readuntil(b"\r\n\r\n"))
            try:
                await handle(writer)
                writer.close()
            except ConnectionError:
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    connections: list[bytes] = []
    start.connections = connections
    yield start
    for server in servers:
        server.close()


def answer(text: bytes):
    async def handle(writer):
        writer.write(text)
        await writer.drain()

    return handle


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Encoding: gzip\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["closed", "cut header", "cut body", "bad encoding", "two lengths", "noise", "bad chunk"],
)
async def test_a_broken_answer_is_unavailability(serve, submit, text):
    with pytest.raises(ServiceUnavailable):
        await submit(await serve(answer(text)))


async def test_a_service_that_hangs_is_unavailability(serve, submit):
    async def hang(_writer):
        await asyncio.Event().wait()

    with pytest.raises(ServiceUnavailable, match="in time"):
        await submit(await serve(hang))


async def test_a_service_that_drips_its_body_is_unavailability(serve, submit):
    """Every byte comes within a read's time-out; the whole never does."""

    async def drip(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    with pytest.raises(ServiceUnavailable, match=r"in time|too late"):
        await submit(await serve(drip))


async def test_nothing_listens(submit):
    with pytest.raises(ServiceUnavailable):
        await submit("http://127.0.0.1:1")


async def test_a_redirect_is_not_followed_and_the_credential_stays(serve, submit):
    elsewhere = await serve(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    redirect = f"HTTP/1.1 307 x\r\nLocation: {elsewhere}/\r\nContent-Length: 0\r\n\r\n".encode()

    with pytest.raises(ServiceUnavailable):
        await submit(await serve(answer(redirect)))
    assert len(serve.connections) == 1


async def test_a_proxy_of_the_environment_is_not_used(serve, submit, monkeypatch):
    """A credential goes to the service and to nobody else."""
    proxy = await serve(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)

    with pytest.raises(ServiceUnavailable):
        await submit("http://127.0.0.1:1")
    assert serve.connections == []


RACE = """
import sys
from holdfast.errors import TokenRejected
from holdfast.replay import ReplayStore
store = ReplayStore(sys.argv[1], "payments-api")
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
won = 0
for n in range(40):
    try:
        store.consume("https://holdfast.test", f"int_{n}", f"jti_{n}", 2**33)
        won += 1
    except TokenRejected as error:
        if error.code != "TOKEN_CONSUMED":
            raise
print(won)
"""


def test_of_racing_processes_each_token_is_consumed_by_one(tmp_path):
    path = tmp_path / "replay.sqlite"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [int(racer.communicate(timeout=60)[0]) for racer in racers]

    assert sum(won) == 40


KILLED = """
import os, sys
from holdfast.replay import ReplayStore
ReplayStore(sys.argv[1], "payments-api").consume("https://holdfast.test", "int_1", "jti_1", 2**33)
os.kill(os.getpid(), 9)
"""

AGAIN = """
import sys
from holdfast.errors import TokenRejected
from holdfast.replay import ReplayStore
try:
    ReplayStore(sys.argv[1], "payments-api").consume("https://holdfast.test", "int_1", "jti_1", 2**33)
except TokenRejected as error:
    print(error.code)
"""


def test_a_consumption_survives_the_death_of_its_process(tmp_path):
    path = str(tmp_path / "replay.sqlite")
    killed = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    again = subprocess.run([sys.executable, "-c", AGAIN, path], check=True, capture_output=True, text=True)

    assert (killed.returncode, again.stdout.strip()) == (-9, "TOKEN_CONSUMED")
