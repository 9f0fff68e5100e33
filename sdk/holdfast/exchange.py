"""One request, one reply, and the doors through which both leave the process.

What agents and executors say to the service is written once, as coroutines over the port `Outside`. `AsyncOutside`
runs them on an event loop; `BlockingOutside` answers without ever suspending, so that `drive` can run the same
coroutine in a plain function.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, ParamSpec, Protocol, TypeAlias, TypeVar

import httpx2

MAX_ANSWER_BYTES: Final = 16 << 20
USER_AGENT: Final = "holdfast-sdk/0.1.0"

_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9_.~+/=-]{1,512}")

_T = TypeVar("_T")
_P = ParamSpec("_P")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked. `timeout_s` bounds the whole exchange; `credential` says whether ours goes along."""

    method: str
    path: str
    timeout_s: float
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    credential: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete HTTP answer, whatever it says."""

    status: int
    body: bytes = field(repr=False)
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """No complete answer came. Whether the request arrived is unknown."""

    why: str


Reply: TypeAlias = Answer | Lost


class Lock(AbstractAsyncContextManager[None], Protocol):
    """Mutual exclusion that can be asked whether it is held."""

    def locked(self) -> bool:
        """Return whether somebody holds it now."""
        ...


class Outside(Protocol):
    """Everything that is not computation: the wire, the clocks, chance."""

    async def exchange(self, request: Request) -> Reply:
        """Send once, follow nothing, and return within `timeout_s`. Every failure of the wire is a `Lost`."""
        ...

    async def pause(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...

    async def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run something that blocks."""
        ...

    def lock(self) -> Lock:
        """Return a new lock."""
        ...

    def now(self) -> float:
        """Return seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never move backwards."""
        ...

    def jitter(self) -> float:
        """Return a random number from 0 to 1."""
        ...


def drive(coroutine: Coroutine[object, None, _T]) -> _T:
    """Run a coroutine whose outside never suspends. Raises: RuntimeError if it does."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        result: _T = finished.value
        return result
    coroutine.close()
    raise RuntimeError("a blocking outside suspended")


def check_base_url(base_url: str, *, allow_plain_http: bool) -> str:
    """Return the URL without a trailing slash.

    Credentials, and the keys that tokens are trusted by, travel over it: plain HTTP is for loopback unless the caller
    says otherwise. Raises: ValueError.
    """
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL as error:
        raise ValueError("the base URL is not a URL") from error
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise ValueError("the base URL must be http(s) with a host, and without user, query or fragment")
    if url.scheme == "http" and not allow_plain_http and not _is_loopback(url.host):
        raise ValueError("plain http is for loopback; use https, or say allow_plain_http=True")
    return base_url.rstrip("/")


def check_credential(credential: str) -> None:
    """Refuse what cannot be a bearer credential. Raises: ValueError, which does not show it."""
    if _CREDENTIAL.fullmatch(credential) is None:
        raise ValueError("the credential is empty or has characters that no credential has")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Clocks:
    """The clocks and the chance of the machine."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never move backwards."""
        return time.monotonic()

    def jitter(self) -> float:
        """Return a random number from 0 to 1."""
        return secrets.randbelow(1001) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where the service is and how to get in. The credential shows in no repr and no error."""

    base_url: str
    credential: str = field(repr=False)
    transport: httpx2.BaseTransport | None = field(default=None, repr=False)
    async_transport: httpx2.AsyncBaseTransport | None = field(default=None, repr=False)

    def headers(self, request: Request) -> list[tuple[str, str]]:
        """Return the request's headers with the standing ones."""
        headers = [("User-Agent", USER_AGENT), ("Accept", "application/json, application/problem+json")]
        if self.credential and request.credential:
            headers.append(("Authorization", f"Bearer {self.credential}"))
        if request.body is not None:
            headers.append(("Content-Type", "application/json"))
        return [*headers, *request.headers]


class BlockingOutside(Clocks):
    """The outside for plain functions and threads.

    The time-out bounds every read and the whole body; a server that drips the header bytes one by one can stretch it.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._client = httpx2.Client(
            base_url=door.base_url, transport=door.transport, follow_redirects=False, trust_env=False
        )

    async def exchange(self, request: Request) -> Reply:
        """See `Outside.exchange`."""
        deadline = self.monotonic() + request.timeout_s
        try:
            with self._client.stream(
                request.method,
                request.path,
                content=request.body,
                headers=self._door.headers(request),
                timeout=request.timeout_s,
            ) as response:
                body = bytearray()
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        return Lost("the answer is too long")
                    if self.monotonic() > deadline:
                        return Lost("the answer came too late")
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError) as error:
            return Lost(_why(error))
        return _answer(response, body)

    async def pause(self, seconds: float) -> None:
        """See `Outside.pause`."""
        time.sleep(seconds)  # noqa: ASYNC251 - this outside blocks on purpose; no event loop runs it

    async def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """See `Outside.call`."""
        return function(*args, **kwargs)

    def lock(self) -> Lock:
        """See `Outside.lock`."""
        return _ThreadLock()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class AsyncOutside(Clocks):
    """The outside for one event loop."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._client = httpx2.AsyncClient(
            base_url=door.base_url, transport=door.async_transport, follow_redirects=False, trust_env=False
        )

    async def exchange(self, request: Request) -> Reply:
        """See `Outside.exchange`."""
        try:
            async with (
                asyncio.timeout(request.timeout_s),
                self._client.stream(
                    request.method,
                    request.path,
                    content=request.body,
                    headers=self._door.headers(request),
                    timeout=request.timeout_s,
                ) as response,
            ):
                body = bytearray()
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        return Lost("the answer is too long")
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError) as error:
            return Lost(_why(error))
        return _answer(response, body)

    async def pause(self, seconds: float) -> None:
        """See `Outside.pause`."""
        await asyncio.sleep(seconds)

    async def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """See `Outside.call`."""
        return await asyncio.to_thread(function, *args, **kwargs)

    def lock(self) -> Lock:
        """See `Outside.lock`."""
        return asyncio.Lock()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class _ThreadLock:
    def __init__(self) -> None:
        self._lock = threading.Lock()

    def locked(self) -> bool:
        return self._lock.locked()

    async def __aenter__(self) -> None:
        self._lock.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def _answer(response: httpx2.Response, body: bytearray) -> Answer:
    return Answer(status=response.status_code, body=bytes(body), retry_after=response.headers.get("retry-after"))


def _why(error: Exception) -> str:
    """Return the kind of failure; the text of a transport error may hold what must not be logged."""
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return "no answer in time"
    return f"the connection failed ({type(error).__name__})"
