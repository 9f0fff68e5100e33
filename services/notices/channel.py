"""What a receiver is, to whoever delivers: who wants which notice, and what each way of not taking one means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from services.notices.notice import Kind

if TYPE_CHECKING:
    from datetime import datetime

    from services.notices.notice import Notice, Severity
    from services.notices.retry import Retry


class Undelivered(Exception):
    """The receiver did not take the notice. `why` quotes neither the address nor what was sent."""

    def __init__(self, why: str, retry: Retry, *, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.retry = retry
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Proof that a receiver took a notice: what it answered."""

    answer: str


class Receiver(Protocol):
    """One address, and the language that is spoken there."""

    async def send(self, notice: Notice, now: datetime) -> Taken:
        """Hand the notice over, and return what the receiver answered. The caller bounds the time.

        The same notice may be sent again: whoever receives it knows it by its id. Raises: Undelivered.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A receiver with a name, and what it wants to hear. `address` is the SHA-256 of where it is, in hexadecimal."""

    name: str
    address: str
    receiver: Receiver
    min_severity: Severity
    kinds: frozenset[Kind] | None = None  # None: every kind

    def wants(self, notice: Notice) -> bool:
        """Return whether the notice goes here. A test goes everywhere; of its own death a receiver is not told."""
        if notice.kind is Kind.TEST:
            return True
        if notice.kind is Kind.RECEIVER_DEAD and notice.details.get("channel") == self.name:
            return False
        return notice.severity.reaches(self.min_severity) and (self.kinds is None or notice.kind in self.kinds)
