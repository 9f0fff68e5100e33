"""Server-sent events: an agent follows its intents, and goes on where it was after a break."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson
from holdfast.reasons import ReasonCode
from starlette.responses import Response
from starlette.routing import Route

from services.changes import OPEN, MalformedPosition, Page, Position
from services.credentials import Kind
from services.http.protocol import ABORT
from services.http.wire import Endpoint, left, path_id
from services.hub import Crowded, Ended
from services.ports import StoreUnreachable
from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from holdfast.strict_json import JSON
    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

    from services.changes import ChangeFeed
    from services.http.callers import Callers
    from services.hub import Hub, Stream
    from services.submissions import Submissions

HEARTBEAT_S: Final = 15.0
#: A reader that takes nothing for so long is dropped; it can resume.
SEND_TIMEOUT_S: Final = 20.0
#: After this a stream ends and is resumed, so that a credential that was withdrawn does not listen for ever.
LONGEST_S: Final = 900.0
_RETRY_MS: Final = 2_000
_RETRY_SPREAD_MS: Final = 6_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """Where a stream starts, its first bytes, and what was missed; no page where nothing can come any more.

    `version` is the intent's as shown in the first bytes: what is older is not shown after it.
    """

    seen: Position
    opening: bytes
    page: Page | None
    version: int = 0


class EventEndpoints:
    """`/v1/events` and `/v1/intents/{id}/events`."""

    def __init__(
        self,
        *,
        callers: Callers,
        submissions: Submissions,
        hub: Hub,
        feed: ChangeFeed,
        heartbeat_s: float = HEARTBEAT_S,
        send_timeout_s: float = SEND_TIMEOUT_S,
        longest_s: float = LONGEST_S,
    ) -> None:
        self._callers = callers
        self._submissions = submissions
        self._hub = hub
        self._feed = feed
        self._heartbeat_s = heartbeat_s
        self._send_timeout_s = send_timeout_s
        self._longest_s = longest_s

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/v1/events", Endpoint(self._of_agent), methods=["GET"]),
            Route("/v1/intents/{intent_id}/events", Endpoint(self._of_intent), methods=["GET"]),
        ]

    async def _of_agent(self, request: Request) -> Response:
        agent = await self._callers.require(request, Kind.AGENT)
        return await self._follow(agent, None, _last_event_id(request))

    async def _of_intent(self, request: Request) -> Response:
        agent = await self._callers.require(request, Kind.AGENT)
        intent_id, last_seen = path_id(request, "intent_id"), _last_event_id(request)
        # Also what tells whose it is: another agent's intent is 404.
        now = await self._submissions.get(agent, intent_id)
        if last_seen is not None and now.envelope["status"] not in OPEN:
            missed = await self._missed(agent, intent_id, last_seen)
            if missed is not None and not missed.settled:
                return Response(status_code=204)  # there will be no more, and a client must not come back
        return await self._follow(agent, intent_id, last_seen)

    async def _follow(self, agent: str, intent_id: str | None, last_seen: Position | None) -> Response:
        frames = self._frames(agent, intent_id, last_seen)
        # What is refused is refused before the first byte.
        return _EventStream(await anext(frames), frames, send_timeout_s=self._send_timeout_s)

    # --- what one reader is sent ----------------------------------------------------------------------------------

    async def _frames(
        self, agent: str, intent_id: str | None, last_seen: Position | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield one frame after another until the stream is over. Raises: Problem before the first one."""
        try:
            # Registered before anything is read, so that nothing falls between the two.
            with self._hub.streaming(agent, intent_id) as stream:
                async for frame in self._read(stream, agent, intent_id, last_seen):
                    yield frame
        except Crowded:
            raise _unavailable("too many streams are open already") from None
        except Ended:
            return

    async def _read(
        self, stream: Stream, agent: str, intent_id: str | None, last_seen: Position | None
    ) -> AsyncGenerator[bytes, None]:
        # 1. Where it starts: after what the reader saw last, or now.
        start = await self._start(stream, agent, intent_id, last_seen)
        yield start.opening
        seen, page = start.seen, start.page
        until = asyncio.get_running_loop().time() + self._longest_s
        while page is not None and asyncio.get_running_loop().time() < until:
            # 2. What was missed, a page at a time; then what comes.
            for change in page.settled:
                if change.position > seen and change.version > start.version:
                    seen = change.position
                    yield _frame(change.status, seen, change.envelope())
                    if intent_id is not None and change.status not in OPEN:
                        return
            if page.more:
                page = await self._missed(agent, intent_id, seen)  # removed meanwhile: told when it resumes
                continue
            changes = await stream.next(self._heartbeat_s)
            if not changes:
                # 3. Who hears nothing for a while hears that, and up to where it is true.
                seen = max(seen, stream.settled or seen)
                yield b": still here\nid: %s\n\n" % str(seen).encode("ascii")
            page = Page(settled=changes, early=(), next=seen)

    async def _start(self, stream: Stream, agent: str, intent_id: str | None, last_seen: Position | None) -> _Start:
        here = stream.settled
        if here is None:
            raise _unavailable("events cannot be read now")
        if last_seen is not None:
            missed = await self._missed(agent, intent_id, last_seen)
            if missed is not None:
                return _Start(seen=last_seen, opening=_opening(last_seen), page=missed)
        opening = _opening(here)
        if last_seen is not None:
            opening += _frame("reset", here, {"detail": "what came after that event is gone: look at the intents"})
        nothing = Page(settled=(), early=(), next=here)
        if intent_id is None:
            return _Start(seen=here, opening=opening, page=nothing)
        now = await self._submissions.get(agent, intent_id)
        status = str(now.envelope["status"])
        return _Start(
            seen=here,
            opening=opening + _frame(status, here, now.envelope),
            page=nothing if status in OPEN else None,
            version=now.version,
        )

    async def _missed(self, agent: str, intent_id: str | None, last_seen: Position) -> Page | None:
        try:
            return await self._feed.missed(last_seen, agent=agent, intent_id=intent_id)
        except StoreUnreachable:
            raise _unavailable("events cannot be read now") from None


class _EventStream(Response):
    """A response that goes on until its source ends, its reader leaves, or takes nothing any more."""

    def __init__(self, first: bytes, frames: AsyncGenerator[bytes, None], *, send_timeout_s: float) -> None:
        super().__init__(headers={"content-type": "text/event-stream", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._frames = frames
        self._send_timeout_s = send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send every frame as it comes."""
        sending = asyncio.create_task(self._send(scope, send))
        leaving = asyncio.create_task(left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await self._frames.aclose()
        if not sending.cancelled() and (error := sending.exception()) is not None and not isinstance(error, Problem):
            raise error

    async def _send(self, scope: Scope, send: Send) -> None:
        try:
            await self._bounded(
                send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            await self._bounded(send, _body(self._first))
            async for frame in self._frames:
                await self._bounded(send, _body(frame))
            await self._bounded(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            # What the reader did not take lies in the transport, which a polite close would wait for.
            if (abort := scope.get(ABORT)) is not None:
                abort()

    async def _bounded(self, send: Send, message: Message) -> None:
        async with asyncio.timeout(self._send_timeout_s):
            await send(message)


def _body(frame: bytes) -> Message:
    return {"type": "http.response.body", "body": frame, "more_body": True}


def _opening(position: Position) -> bytes:
    retry_ms = _RETRY_MS + secrets.randbelow(_RETRY_SPREAD_MS)
    return b"retry: %d\nid: %s\n\n" % (retry_ms, str(position).encode("ascii"))


def _frame(event: str, position: Position, document: Mapping[str, JSON]) -> bytes:
    data = orjson.dumps(document)
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (str(position).encode("ascii"), event.encode("ascii"), data)


def _last_event_id(request: Request) -> Position | None:
    given = request.headers.getlist("last-event-id")
    if not given or given == [""]:
        return None
    try:
        if len(given) == 1:
            return Position.parse(given[0])
    except MalformedPosition:
        pass
    raise Problem(400, ReasonCode.REQUEST_MALFORMED, "`Last-Event-ID` is not the id of an event")


def _unavailable(detail: str) -> Problem:
    return Problem(503, ReasonCode.SERVICE_UNAVAILABLE, detail, retry_after_s=2)
