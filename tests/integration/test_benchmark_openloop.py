"""The load generator against a server on loopback: it sends in time, whatever comes back."""

import asyncio
import contextlib
import time

import pytest

from benchmarks.generator import Generator, Job
from benchmarks.traffic import Kind, Target

pytestmark = pytest.mark.integration

REQUESTS = 5
ANSWER = b'{"row": "row_%d"}'


class Held:
    """A server that answers nobody until it holds so many requests. A closed loop would wait for ever."""

    def __init__(self, *, until, answers=True):
        self.requests = 0
        self._until = until
        self._full = asyncio.Event()
        self._answers = answers

    async def serve(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"Content-Length" in line)
                await reader.readexactly(length)
                self.requests += 1
                if self.requests >= self._until:
                    self._full.set()
                await self._full.wait()
                if not self._answers:
                    break
                body = ANSWER % id(writer)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()


@contextlib.asynccontextmanager
async def listening(held):
    server = await asyncio.start_server(held.serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def job(port, *, connections, drain_s=30.0):
    return Job(
        target=Target(kind=Kind.FLOOR, base_url=f"http://127.0.0.1:{port}", agents=("hfa_x",), jwks=()),
        run="r",
        times_ns=tuple(1_000_000 * n for n in range(REQUESTS)),
        numbers=tuple(range(REQUESTS)),
        warm_up_s=0.0,
        seconds=1.0,
        drain_s=drain_s,
        connections=connections,
        verify_every=1,
    )


async def sent(plan):
    generator = Generator(plan)
    await generator.ready()
    await generator.run(time.monotonic_ns())
    return generator.tally(priority="ordinary")


async def test_the_next_request_leaves_although_no_answer_came():
    held = Held(until=REQUESTS)
    async with listening(held) as port:
        tally = await sent(job(port, connections=REQUESTS))

    assert tally.errors == {}
    assert len(tally.latencies_ns) == len(set(tally.ids)) == REQUESTS


async def test_a_stall_meets_every_request_that_was_due_meanwhile():
    """All are answered at one moment, so the one that was due first waited longest: by the schedule's gaps."""
    held = Held(until=REQUESTS)
    async with listening(held) as port:
        tally = await sent(job(port, connections=REQUESTS))

    assert tally.latencies_ns[0] >= 1_000_000 * (REQUESTS - 1)


async def test_a_request_that_waits_for_a_connection_is_counted_from_when_it_was_due():
    held = Held(until=1)
    async with listening(held) as port:
        tally = await sent(job(port, connections=1))

    assert held.requests == REQUESTS
    assert len(tally.latencies_ns) == REQUESTS
    # One connection gives one id: the same answer for all of them, which `merged` counts as an error.
    assert len(set(tally.ids)) == 1


async def test_what_is_never_answered_is_an_error_and_a_latency():
    held = Held(until=REQUESTS + 1)
    async with listening(held) as port:
        tally = await sent(job(port, connections=REQUESTS, drain_s=0.2))

    assert tally.errors == {"no answer": REQUESTS}
    assert len(tally.latencies_ns) == REQUESTS
    assert tally.ids == []


async def test_a_connection_that_is_closed_instead_of_an_answer_is_an_error():
    held = Held(until=REQUESTS, answers=False)
    async with listening(held) as port:
        tally = await sent(job(port, connections=REQUESTS))

    assert tally.errors == {"connection lost": REQUESTS}
