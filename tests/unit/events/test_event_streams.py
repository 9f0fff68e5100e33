"""A stream heartbeats, resumes, and never waits for a reader that takes nothing."""

from __future__ import annotations

import asyncio

import pytest
from fakes.changes import MemoryChanges

from services.changes import Position
from services.http.events import EventEndpoints
from services.http.protocol import ABORT
from services.hub import Hub
from services.submissions import Answer


class Callers:
    async def require(self, request, kind):
        return "bot"


class Submissions:
    def __init__(self) -> None:
        self.status = "held"
        self.version = 1

    async def get(self, agent, intent_id):
        return Answer(status=200, envelope={"intent_id": intent_id, "status": self.status}, version=self.version)


class Edge:
    """The endpoints, asked as an ASGI server asks them."""

    def __init__(self) -> None:
        self.feed = MemoryChanges()
        self.hub = Hub(self.feed, tick_s=0.001)
        self.submissions = Submissions()
        self.sent: asyncio.Queue = asyncio.Queue()
        self.gone = asyncio.Event()
        self.aborted = False
        self.longest_s = 60.0
        self.stuck = asyncio.Event()
        self.stuck.set()

    def ask(self, path="/v1/events", last_event_id=None):
        endpoints = EventEndpoints(
            callers=Callers(),
            submissions=self.submissions,
            hub=self.hub,
            feed=self.feed,
            heartbeat_s=0.02,
            send_timeout_s=0.05,
            longest_s=self.longest_s,
        )
        headers = [] if last_event_id is None else [(b"last-event-id", last_event_id.encode())]
        route = next(route for route in endpoints.routes() if ("intents" in route.path) == ("intents" in path))
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": headers,
            "query_string": b"",
            "path_params": {"intent_id": "int_1"},
            ABORT: self._abort,
        }
        return asyncio.create_task(route.app(scope, self._receive, self._send))

    def _abort(self) -> None:
        self.aborted = True

    async def _receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        await self.stuck.wait()
        await self.sent.put(message)

    async def body(self) -> bytes:
        async with asyncio.timeout(5):
            message = await self.sent.get()
            while message["type"] == "http.response.start":
                self.start = message
                message = await self.sent.get()
            return message["body"]


@pytest.fixture
async def edge():
    opened = Edge()
    running = asyncio.create_task(opened.hub.run())
    await asyncio.sleep(0.01)
    yield opened
    running.cancel()


async def test_who_hears_nothing_hears_that_and_up_to_where_it_is_true(edge):
    serving = edge.ask()
    await edge.body()
    edge.feed.move("cat", "int_9", "denied")
    await asyncio.sleep(0.01)
    beats = [await edge.body() for _ in range(3)]

    assert all(beat.startswith(b": still here\nid: ") for beat in beats)
    last = Position.parse(beats[-1].split(b"id: ")[1].decode().strip())
    assert last > edge.feed.changes[-1].position
    edge.gone.set()
    await serving


async def test_a_reader_that_leaves_leaves_nothing_behind(edge):
    serving = edge.ask()
    await edge.body()
    assert edge.hub.streams == 1
    edge.gone.set()
    await asyncio.wait_for(serving, 5)
    assert edge.hub.streams == 0


async def test_a_reader_that_takes_nothing_is_dropped_and_its_connection_aborted(edge):
    serving = edge.ask()
    await edge.body()
    edge.stuck.clear()
    await asyncio.wait_for(serving, 5)

    assert edge.aborted
    assert edge.hub.streams == 0


async def test_what_was_missed_comes_first_a_page_at_a_time_and_nothing_twice(edge):
    start = await edge.feed.head()
    for _ in range(3):
        edge.feed.commit(edge.feed.begin(), *(("bot", f"int_{n}", "denied") for n in range(900)))
    serving = edge.ask(last_event_id=str(start))
    await edge.body()
    edge.feed.move("bot", "int_last", "denied")

    ids = []
    while True:
        frame = await edge.body()
        if frame.startswith(b":"):
            continue
        ids.append(Position.parse(frame.split(b"\n")[0].removeprefix(b"id: ").decode()))
        if b"int_last" in frame:
            break

    assert len(ids) == 2_701
    assert ids == sorted(set(ids))
    edge.gone.set()
    await serving


async def test_a_stream_of_one_intent_never_shows_what_is_older_than_what_it_began_with(edge):
    """The hub may be a moment behind what the store says."""
    edge.submissions.status, edge.submissions.version = "claimable", 2
    serving = edge.ask("/v1/intents/int_1/events")
    assert b"event: claimable" in await edge.body()
    edge.feed.move("bot", "int_1", "held")  # version 1

    for _ in range(3):
        assert (await edge.body()).startswith(b": still here")
    edge.gone.set()
    await serving


async def test_events_that_are_gone_are_answered_with_a_reset_and_what_the_intent_is_now(edge):
    edge.feed.removed = Position(100, 7)
    serving = edge.ask("/v1/intents/int_1/events", last_event_id="100-6")
    body = await edge.body()

    assert b"event: reset" in body
    assert body.index(b"event: reset") < body.index(b"event: held")
    edge.gone.set()
    await serving


async def test_while_the_store_is_away_a_resumption_is_refused_and_not_begun_with_a_gap(edge):
    edge.feed.away = True
    await edge.ask(last_event_id="100-0")

    message = await edge.sent.get()
    assert message["status"] == 503
    assert edge.hub.streams == 0


async def test_the_end_of_the_process_ends_a_stream_as_http_ends_one(edge):
    serving = edge.ask()
    await edge.body()
    edge.hub.close()
    await asyncio.wait_for(serving, 5)

    while (message := edge.sent.get_nowait())["more_body"]:
        pass
    assert message["body"] == b""


async def test_a_stream_ends_after_a_while_so_that_a_withdrawn_credential_does_not_listen_for_ever(edge):
    edge.longest_s = 0.05
    serving = edge.ask()
    await asyncio.wait_for(serving, 5)
    edge.feed.move("bot", "int_1", "held")

    messages = [edge.sent.get_nowait() for _ in range(edge.sent.qsize())]
    assert messages[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    ids = [message["body"].split(b"id: ")[1].split(b"\n")[0].decode() for message in messages[1:-1]]
    edge.longest_s = 60.0
    serving = edge.ask(last_event_id=ids[-1])
    await edge.body()
    assert b"int_1" in await edge.body()
    edge.gone.set()
    await serving
