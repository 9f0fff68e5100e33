"""What the delivery of notices needs from the database that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from services.notices.notice import Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """How a notice starts on one channel. `attempts` were made before it was stored."""

    channel: str
    attempts: int = 0
    delivered: bool = False


#: Says where a notice goes, given the addresses of closed channels by name; None leaves it for later.
Route: TypeAlias = "Callable[[Notice, Mapping[str, str]], tuple[Placed, ...] | None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One notice on its way to one channel. `attempts` counts this one, `age_s` is since it was fanned out."""

    notice: Notice
    channel: str
    attempts: int
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one channel is doing: what is under way, the age of the oldest of it, what was given up within a day."""

    due: int
    oldest_s: float
    dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unresolved:
    """An incident that was told and whose end was not."""

    dedupe_key: str
    boundary: str


class Outbox(Protocol):
    """Stored notices and deliveries. Every method raises StoreUnreachable."""

    async def fan_out(self, origin: str, route: Route) -> tuple[str, ...]:
        """Give new notices their deliveries, and return the ids of those.

        A notice belongs to the instance it comes from; to everybody when it comes from none, or that instance has left
        it for half a minute.
        """
        ...

    async def lease(self, channel: str, *, limit: int, lease_s: float) -> tuple[Delivery, ...]:
        """Take due deliveries of a channel. Of one dedupe key only the first that is not settled: order is kept."""
        ...

    async def delivered(self, delivery: Delivery) -> None:
        """Settle a delivery that was taken."""
        ...

    async def postpone(self, delivery: Delivery, *, pause_s: float, why: str) -> None:
        """Have a delivery tried again later."""
        ...

    async def give_up(self, delivery: Delivery, *, why: str) -> None:
        """Settle a delivery that will not be tried again."""
        ...

    async def close_channel(self, channel: str, *, address: str, why: str) -> None:
        """Send nothing more to this address, and give up what was on its way."""
        ...

    async def unresolved(self, origin: str) -> tuple[Unresolved, ...]:
        """Return the incidents of this instance that stand open."""
        ...

    async def standings(self) -> dict[str, Standing]:
        """Return how each channel is doing."""
        ...

    async def prune(self) -> None:
        """Forget settled notices that are older than a month."""
        ...
