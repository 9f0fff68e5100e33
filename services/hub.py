"""One look at the feed of changes for everybody in this process who waits: long polls and event streams.

    1. look       one query brings what changed since the last one, whoever waits for it.
    2. wake       long polls get the change itself, so that waking five thousand costs no query more.
    3. publish    streams get what is settled, in order. Who does not keep up is dropped, and resumes where it was.

No change is missed between a read and the wait for the next: one registers first, then reads. While the store is away
nobody is woken; when it is back, everybody is looked at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, TypeVar

from services.changes import UNDECIDED
from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.changes import Change, ChangeFeed, Page, Position

_log = logging.getLogger(__name__)

TICK_S: Final = 0.25
MAX_WAITERS: Final = 10_000
MAX_WAITERS_PER_AGENT: Final = 5_000
MAX_STREAMS: Final = 1_000
MAX_STREAMS_PER_AGENT: Final = 10
#: Changes that a stream may lag behind. More than two pages, so that a page alone drops nobody who reads.
MAX_LAG: Final = 4_096
_CHUNK: Final = 1_000

_Key = TypeVar("_Key")
_Member = TypeVar("_Member")


class Crowded(Exception):
    """Too many wait already; come back later."""


class Ended(Exception):
    """The stream is over: its reader lagged behind, or the process stops."""


class Waiter:
    """One long poll, of one intent."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[Change | None] = asyncio.get_running_loop().create_future()

    async def changed(self, timeout_s: float) -> Change | None:
        """Return the change that ended the wait, or None after `timeout_s`, or when the process stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._future
        return None

    def wake(self, change: Change | None) -> None:
        """End the wait."""
        if not self._future.done():
            self._future.set_result(change)


class Stream:
    """One reader of changes: of an agent's, of one intent's, or, for operators, of all."""

    def __init__(self, *, agent: str | None, intent_id: str | None) -> None:
        self.agent = agent
        self.intent_id = intent_id
        self._waiting: deque[Change] = deque()
        self._told = asyncio.Event()
        self._ended = False
        self._settled: Position | None = None

    @property
    def settled(self) -> Position | None:
        """Up to where the reader knows everything once it has taken what waits; None before the first look."""
        return self._settled

    async def next(self, timeout_s: float) -> Sequence[Change]:
        """Return the next changes in order, nothing after `timeout_s`. Raises: Ended."""
        if not self._waiting and not self._ended:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._told.wait()
        self._told.clear()
        if self._ended:
            raise Ended
        changes = tuple(self._waiting)
        self._waiting.clear()
        return changes

    def publish(self, changes: Sequence[Change], settled: Position) -> None:
        """Take changes that are this reader's. Called by the hub."""
        self._settled = settled
        if len(self._waiting) + len(changes) > MAX_LAG:
            self.end()
        elif changes:
            self._waiting.extend(changes)
            self._told.set()

    def end(self) -> None:
        """Tell the reader that this stream is over."""
        self._waiting.clear()
        self._ended = True
        self._told.set()


class Hub:
    """Who waits, and for what. One of these in each API process, for one event loop."""

    def __init__(self, feed: ChangeFeed, *, tick_s: float = TICK_S) -> None:
        self._feed = feed
        self._tick_s = tick_s
        self._position: Position | None = None
        self._behind = True  # nobody looked for a while
        self._closed = False
        self._waiters: dict[str, set[Waiter]] = {}
        self._waiters_of: Counter[str] = Counter()
        self._streams: dict[tuple[str | None, str | None], set[Stream]] = {}
        self._streams_of: Counter[str | None] = Counter()

    # --- who waits ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def waiting(self, agent: str, intent_id: str) -> Iterator[Waiter]:
        """Register a long poll. Read the intent inside of the block, then wait. Raises: Crowded."""
        if self._waiters_of.total() >= MAX_WAITERS or self._waiters_of[agent] >= MAX_WAITERS_PER_AGENT:
            raise Crowded
        waiter = Waiter()
        if self._closed:
            waiter.wake(None)
        self._waiters.setdefault(intent_id, set()).add(waiter)
        self._waiters_of[agent] += 1
        try:
            yield waiter
        finally:
            _discard(self._waiters, intent_id, waiter)
            _less(self._waiters_of, agent)

    @contextlib.contextmanager
    def streaming(self, agent: str | None, intent_id: str | None = None) -> Iterator[Stream]:
        """Register a reader of changes; without `agent` it is given everybody's, for operators. Raises: Crowded."""
        if self._streams_of.total() >= MAX_STREAMS or self._streams_of[agent] >= MAX_STREAMS_PER_AGENT:
            raise Crowded
        stream = Stream(agent=agent, intent_id=intent_id)
        if self._position is not None:
            stream.publish((), self._position)
        if self._closed:
            stream.end()
        self._streams.setdefault((agent, intent_id), set()).add(stream)
        self._streams_of[agent] += 1
        try:
            yield stream
        finally:
            _discard(self._streams, (agent, intent_id), stream)
            _less(self._streams_of, agent)

    @property
    def waiters(self) -> int:
        """How many long polls wait."""
        return self._waiters_of.total()

    @property
    def streams(self) -> int:
        """How many streams are read."""
        return self._streams_of.total()

    def close(self) -> None:
        """End every wait and stream, and whatever comes later: the process stops."""
        self._closed = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.wake(None)
        for stream in self._all_streams():
            stream.end()

    # --- the one look ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at the feed until cancelled."""
        while True:
            more = False
            try:
                more = await self.look()
            except StoreUnreachable as error:
                if not self._behind:
                    _log.warning("changes of intents cannot be read now: %s", error)
                self._behind = True
            await asyncio.sleep(0 if more else self._tick_s)

    async def look(self) -> bool:
        """Look once, and tell who is concerned. Return whether there is more already. Raises: StoreUnreachable."""
        if self._position is None:
            self._position = await self._feed.head()
        if self._behind:
            await self._look_at_all()
        page = await self._feed.after(self._position)
        self._position, self._behind = page.next, False
        self._publish(page)
        return page.more

    async def _look_at_all(self) -> None:
        """Wake whoever waits for what was decided while nobody looked."""
        names = list(self._waiters)
        for start in range(0, len(names), _CHUNK):
            for change in await self._feed.decided(names[start : start + _CHUNK]):
                self._wake(change)

    def _publish(self, page: Page) -> None:
        for change in (*page.settled, *page.early):
            self._wake(change)
        by_reader: dict[tuple[str | None, str | None], list[Change]] = {}
        if self._streams:
            for change in page.settled:
                readers: tuple[tuple[str | None, str | None], ...] = (
                    (None, None),
                    (change.agent, None),
                    (change.agent, change.intent_id),
                )
                for key in readers:
                    if key in self._streams:
                        by_reader.setdefault(key, []).append(change)
        for key, streams in self._streams.items():
            for stream in streams:
                stream.publish(by_reader.get(key, ()), page.next)

    def _wake(self, change: Change) -> None:
        if change.status in UNDECIDED:
            return
        for waiter in self._waiters.get(change.intent_id, ()):
            waiter.wake(change)

    def _all_streams(self) -> Iterator[Stream]:
        for streams in self._streams.values():
            yield from streams


def _discard(table: dict[_Key, set[_Member]], key: _Key, member: _Member) -> None:
    members = table[key]
    members.discard(member)
    if not members:
        del table[key]


def _less(counts: Counter[_Key], key: _Key) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
