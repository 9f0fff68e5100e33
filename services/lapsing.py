"""Ends overrides that ran out, on one worker at a time: who was told of the beginning is told of the end.

Nothing is permitted by an override from its expiry on, whoever notices when. Each end is one record with its effect,
and the effect is refused where an operator or another worker was first: it is told once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from services.notices.notice import ID_PREFIX
from services.order_effects import EndOrder
from services.ordering import order_notice
from services.ports import Entry, RecordingFailed, StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.aftermath import Leadership
    from services.decision.orders import Order
    from services.ports import Clock, Ids, Recorder

_log = logging.getLogger(__name__)

_INTERVAL_S: Final = 1.0
#: Who ended it. No operator's name looks like this.
NOBODY: Final = "(expired)"


class Lapsed(Protocol):
    """Where overrides are found."""

    async def lapsed(self, now: datetime) -> Sequence[Order]:
        """Return overrides that expired and that nobody ended, a bounded part of them. Raises: StoreUnreachable."""
        ...


class Lapsing:
    """The clock of overrides."""

    def __init__(self, *, orders: Lapsed, recorder: Recorder, clock: Clock, ids: Ids) -> None:
        self._orders = orders
        self._recorder = recorder
        self._clock = clock
        self._ids = ids

    async def run(self, leadership: Leadership) -> None:
        """End what is over, where this process leads, until cancelled."""
        while True:
            if await leadership.leads():
                await self.tick()
            await asyncio.sleep(_INTERVAL_S)

    async def tick(self) -> None:
        """End what is over now. What cannot be recorded now is over all the same, and told later."""
        now = self._clock.now()
        try:
            for order in await self._orders.lapsed(now):
                await self._end(order, now)
        except (StoreUnreachable, RecordingFailed) as error:
            _log.info("the end of an override is told later: %s", error)

    async def _end(self, order: Order, now: datetime) -> None:
        told = order_notice("override.expired", order, notice_id=self._ids.new(ID_PREFIX), at=now, by=NOBODY)
        entry = Entry(
            kind="override.expired",
            at=now,
            members={"order_id": order.order_id, "scope": order.scope},
            effect=EndOrder(
                order_id=order.order_id, ended_at=order.expires_at or now, ended_by=NOBODY, note="it expired"
            ),
            notices=() if told is None else (told,),
        )
        await self._recorder.append(entry).settled()
