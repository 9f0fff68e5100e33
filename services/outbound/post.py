"""One POST to a receiver that the guard has let pass, over a connection to an address that was checked.

The name is resolved once, by the guard. The connection is opened to what it found and to nothing else, while the header
`Host`, the server name of TLS and the check of the certificate go by the name. No redirect is followed, no proxy of the
environment is used, nothing that answers is read for long.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import httpcore2

from services.outbound.guard import Unresolved

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from httpcore2 import AsyncNetworkStream

    from services.outbound.guard import Address, Guard, Resolver, Target

TIMEOUT_S: Final = 10.0
RESOLVE_TIMEOUT_S: Final = 3.0
CONNECT_TIMEOUT_S: Final = 3.0
MAX_ANSWER_BYTES: Final = 64 * 1024
#: More than one agent has under way: names that hang must not hold up those of others.
_LOOKUPS: Final = 16
_FAILURES: Final = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    httpcore2.UnsupportedProtocol,
    OSError,
)
_SECONDS: Final = re.compile(r"[0-9]{1,9}")


class Undelivered(Exception):
    """No answer came. The text names the kind of failure alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the receiver answered: its status, and for how many seconds it asks to be left alone."""

    status: int
    retry_after_s: int | None = None


class SystemResolver:
    """Names by the system's resolver, in threads of its own: a name server that hangs must hold up nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=_LOOKUPS, thread_name_prefix="resolver")
        self._free = asyncio.Semaphore(_LOOKUPS)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return every address of a name. Raises: Unresolved when there is none in time."""
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S), self._free:
                found = await asyncio.get_running_loop().run_in_executor(self._threads, _lookup, host, port)
        except (TimeoutError, OSError, UnicodeError):
            raise Unresolved("the host's name cannot be resolved") from None
        return found

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Poster:
    """Posts to receivers. `authorities` is a file of certificates to trust beside the system's."""

    def __init__(
        self,
        guard: Guard,
        resolver: Resolver,
        *,
        authorities: Path | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._guard = guard
        self._resolver = resolver
        self._timeout_s = timeout_s
        self._tls = ssl.create_default_context()
        if authorities is not None:
            self._tls.load_verify_locations(authorities)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Send once. Raises: Refused by the guard, Undelivered."""
        try:
            async with asyncio.timeout(self._timeout_s):
                target, addresses = await self._guard.locate(url, self._resolver)
                return await self._post(target, addresses, headers, body)
        except TimeoutError:
            raise Undelivered("no answer in time") from None
        except _FAILURES as error:
            # The kind alone: a message may quote what was sent.
            raise Undelivered(type(error).__name__) from None

    async def _post(
        self, target: Target, addresses: Sequence[Address], headers: Mapping[str, str], body: bytes
    ) -> Receipt:
        sent = [("Host", target.authority), ("Content-Length", str(len(body))), ("Accept-Encoding", "identity")]
        sent += [("Connection", "close"), *headers.items()]
        limits = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout_s)
        async with httpcore2.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=_Pinned(addresses),
        ) as pool:
            url = httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
            async with pool.stream(
                "POST",
                url,
                headers=[(name.encode("ascii"), value.encode("ascii")) for name, value in sent],
                content=body,
                extensions={"timeout": limits},
            ) as response:
                size = 0
                async for part in response.aiter_stream():
                    size += len(part)
                    if size > MAX_ANSWER_BYTES:
                        break  # the status is all that matters
                return Receipt(status=response.status, retry_after_s=_retry_after(response.headers))


class _Pinned(httpcore2.AsyncNetworkBackend):
    """Connects to the given addresses, one after another, whatever name it is asked for."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses
        self._backend: httpcore2.AsyncNetworkBackend = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - it was resolved and checked already; resolving it again would undo that
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - the interface's; ours is for each address
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Open a connection."""
        failed: Exception = OSError("there is no address")
        for address in self._addresses:
            try:
                return await self._backend.connect_tcp(
                    str(address), port, CONNECT_TIMEOUT_S, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        await self._backend.sleep(seconds)


def _lookup(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))


def _retry_after(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    values = [value.decode("ascii", "replace") for name, value in headers if name.lower() == b"retry-after"]
    return int(values[0]) if len(values) == 1 and _SECONDS.fullmatch(values[0]) else None
