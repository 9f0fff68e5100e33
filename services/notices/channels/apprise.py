"""E-mail and the rest, through apprise: an extra that is imported only where a channel asks for it."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Final, Protocol, cast

from services.notices.channel import Taken, Undelivered
from services.notices.retry import Retry

if TYPE_CHECKING:
    from datetime import datetime

    from services.notices.notice import Notice, Severity

_TYPES: Final = {"info": "info", "warning": "warning", "error": "failure", "critical": "failure"}


class AppriseMissing(Exception):
    """The extra is not installed."""


class AddressRefused(Exception):
    """Apprise knows no such address."""


class _Apprise(Protocol):
    def add(self, url: str, /) -> object: ...
    def notify(self, *, body: str, title: str, notify_type: str, body_format: str) -> object: ...


class Apprise:
    """The Receiver port for whatever apprise speaks. It blocks, so it gets a thread; one message at a time."""

    def __init__(self, url: str) -> None:
        try:
            module = importlib.import_module("apprise")
        except ImportError as error:
            raise AppriseMissing("install the extra: pip install 'holdfast-service[apprise]'") from error
        self._apprise = cast("_Apprise", module.Apprise())
        if not self._apprise.add(url):
            raise AddressRefused("apprise knows no such address")
        self._turn = asyncio.Lock()

    async def send(self, notice: Notice, now: datetime) -> Taken:  # noqa: ARG002 - a message says when it happened
        """Send the notice. Raises: Undelivered."""
        if self._turn.locked():
            # A thread cannot be interrupted: while one message hangs, no second thread is given away.
            raise Undelivered("the message before this one has not returned", Retry.SOON)
        # The lock is released when the thread ends, not when the caller gives up.
        await self._turn.acquire()
        call = asyncio.ensure_future(asyncio.to_thread(self._notify, notice))
        call.add_done_callback(self._done)
        if not await asyncio.shield(call):
            raise Undelivered("apprise could not hand the message over", Retry.SOON)
        return Taken(answer="handed over by apprise")

    async def close(self) -> None:
        """Nothing is open between messages."""

    def _done(self, call: asyncio.Future[bool]) -> None:
        self._turn.release()
        if not call.cancelled():
            call.exception()  # marks it as seen: the caller may have given up

    def _notify(self, notice: Notice) -> bool:
        lines = [f"{notice.kind} at {notice.document()['at']}"]
        lines += [f"{name}: {value}" for name, value in sorted(notice.details.items())]
        answer = self._apprise.notify(
            title=notice.summary, body="\n".join([*lines, notice.notice_id]), notify_type=_type(notice.severity),
            body_format="text",
        )  # fmt: skip
        return bool(answer)


def _type(severity: Severity) -> str:
    return _TYPES[severity.value]
