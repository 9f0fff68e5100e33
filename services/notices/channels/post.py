"""One bounded HTTP POST, and what each answer to it means.

    2xx                  taken
    410                  the receiver is gone
    408, 425, 429, 5xx   the receiver's weather: again soon, or when `Retry-After` says
    no answer            again soon. An answer is there with its status
    anything else        somebody has to change something: again, slowly. A redirect too: none is followed.

The addresses come from the operator's own file, so a private one is as good as any; nothing an agent says leads here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import httpx2

from services.notices.channel import Taken, Undelivered
from services.notices.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What one phase may take; the whole is bounded by whoever delivers.
_TIMEOUT_S: Final = 10.0
_CONNECTIONS: Final = 4
_ANSWER_BYTES: Final = 4096
_GONE: Final = 410
_WEATHER: Final = frozenset({408, 425, 429})
_LOWEST_SERVER_ERROR: Final = 500
_MAX_RETRY_AFTER_DIGITS: Final = 9
#: What the body of an answer may take once its status is known.
_BODY_S: Final = 1.0
_NO_ANSWER: Final = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError)
#: The first that fits.
_KINDS: Final[Mapping[type[BaseException], str]] = {
    socket.gaierror: "its name is not known",
    ConnectionRefusedError: "nobody listens there",
    ssl.SSLCertVerificationError: "its certificate is not trusted",
    ssl.SSLError: "it does not speak TLS",
}


class Post:
    """POSTs to one URL."""

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None) -> None:
        self._url = url
        self._client = httpx2.AsyncClient(
            headers={"user-agent": "holdfast", "content-type": "application/json", **(headers or {})},
            trust_env=False,
            follow_redirects=False,
            timeout=_TIMEOUT_S,
            limits=httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
        )

    async def send(self, body: bytes, *, headers: Mapping[str, str] | None = None) -> Taken:
        """Send the body and return when it was taken. Raises: Undelivered."""
        try:
            async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
                await _read_on(response)
        except _NO_ANSWER as error:
            raise Undelivered(f"no answer: {_kind(error)}", Retry.SOON) from error
        status = response.status_code
        if response.is_success:
            return Taken(answer=f"HTTP {status}")
        if status == _GONE:
            raise Undelivered(f"HTTP {status}: the receiver is gone", Retry.NEVER)
        if status in _WEATHER or status >= _LOWEST_SERVER_ERROR:
            asked_s = retry_after_s(response.headers.get("retry-after"), datetime.now(UTC))
            raise Undelivered(f"HTTP {status}", Retry.SOON, retry_after_s=asked_s)
        if response.is_redirect:
            raise Undelivered(f"HTTP {status}: a redirect is not followed", Retry.SLOWLY)
        raise Undelivered(f"HTTP {status}", Retry.SLOWLY)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def _read_on(response: httpx2.Response) -> None:
    """Read a short body, so that the connection can serve again. The status is the answer, whatever the body does."""
    read = 0
    with contextlib.suppress(*_NO_ANSWER):
        async with asyncio.timeout(_BODY_S):
            async for part in response.aiter_raw():
                read += len(part)
                if read > _ANSWER_BYTES:
                    return


def _kind(error: BaseException) -> str:
    """Return what went wrong, as far as it can be said without a message: that may quote the address."""
    cause: BaseException | None = error
    while cause is not None:
        for kind, words in _KINDS.items():
            if isinstance(cause, kind):
                return words
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Return the seconds that `Retry-After` asks for, None where it asks for nothing. Source: RFC 9110, 10.2.3."""
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        return float(header[:_MAX_RETRY_AFTER_DIGITS])
    try:
        until = parsedate_to_datetime(header)
    except (ValueError, TypeError):
        return None
    if until.utcoffset() is None:
        return None
    return max(0.0, (until - now).total_seconds())
