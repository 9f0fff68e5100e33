"""The operators' orders as this process knows them: followed in the store, kept in a file for a start in an outage.

An order given here counts here at once. One given elsewhere counts here within `interval_s` and the time of one query.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from services.decision.orders import Orders
from services.ports import StoreUnreachable
from services.postgres.order_rows import from_json, order_of, to_json, write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from services.decision.orders import Order
    from services.ports import Clock
    from services.postgres.pool import ReadPool

_log = logging.getLogger(__name__)

#: How old a picture may be and still be allowed by. A halt is heard within a second or nothing is allowed.
LEASE_S: Final = 2.0
_INTERVAL_S: Final = 0.25

_STANDING: Final = """
SELECT o.order_id, o.kind, o.scope, o.reason, o.issued_at, o.issued_by, o.people, o.in_force_at, o.expires_at,
       o.ended_at, o.document::text AS document,
       ARRAY(SELECT confirmed_by FROM order_confirmations AS c WHERE c.order_id = o.order_id ORDER BY confirmed_at)
           AS confirmed_by
  FROM orders AS o
 WHERE o.ended_at IS NULL AND (o.expires_at IS NULL OR o.expires_at > $1)
 ORDER BY o.issued_at, o.order_id
"""


@dataclass(frozen=True, slots=True)
class _Local:
    order: Order
    recorded_at: float | None


class OrderBook:
    """The StandingOrders port. `in_journal` says whether what was recorded here has not reached the store yet."""

    def __init__(
        self,
        pool: ReadPool,
        snapshot: Path,
        *,
        clock: Clock,
        in_journal: Callable[[], bool],
        on_change: Callable[[Orders], None] = lambda _: None,
    ) -> None:
        self._pool = pool
        self._snapshot = snapshot
        self._clock = clock
        self._in_journal = in_journal
        self._on_change = on_change
        self._stored: tuple[Order, ...] | None = None
        self._local: dict[str, _Local] = {}
        self._current = Orders()
        self._heard_at: float | None = None
        self._writing = asyncio.Lock()

    # --- the port -------------------------------------------------------------------------------------------------

    def current(self) -> Orders:
        """Return what stands."""
        return self._current

    def check(self) -> None:
        """Return while the picture is fresh. Raises: StoreUnreachable."""
        if self._heard_at is None or self._clock.monotonic() - self._heard_at > LEASE_S:
            raise StoreUnreachable("the operators' orders have not been heard lately")

    def are_known(self) -> bool:
        """Return whether there is a picture."""
        return self._stored is not None

    # --- following ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what stands, from the store or else from the file.

        What was ordered here before, and still waits in the journal, is in the file alone: it counts until the store
        has it.
        """
        if self._in_journal():
            found = await asyncio.to_thread(self._read_snapshot)
            now = self._clock.monotonic()
            self._local = {order.order_id: _Local(order, now) for order in found or ()}
        try:
            await self.look()
        except StoreUnreachable as error:
            self._stored = await asyncio.to_thread(self._read_snapshot)
            self._rebuild()
            known = "unknown" if self._stored is None else f"{len(self._stored)} of them"
            _log.warning("the operators' orders come from the local file, %s: %s", known, error)

    async def run(self) -> None:
        """Follow the store until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            with contextlib.suppress(StoreUnreachable):  # the heartbeat tells of it, and `check` refuses
                await self.look()

    async def look(self) -> None:
        """Look at the store once. Raises: StoreUnreachable."""
        asked_at, complete = self._clock.monotonic(), not self._in_journal()
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_STANDING, self._clock.now())
        stored = tuple(order_of(row) for row in rows)
        if complete:
            # What was recorded here before the question was asked is in the answer, or was refused.
            self._local = {
                key: local
                for key, local in self._local.items()
                if local.recorded_at is None or local.recorded_at >= asked_at
            }
        changed = stored != self._stored
        self._stored, self._heard_at = stored, asked_at
        if changed or not self._is_shown():
            self._rebuild()
            await self._keep()

    async def note(self, order: Order, *, recorded: bool) -> None:
        """Take an order that was given here, in its newest state. In the file when this returns, if it can be."""
        self._local[order.order_id] = _Local(order, self._clock.monotonic() if recorded else None)
        self._rebuild()
        await self._keep()

    def _is_shown(self) -> bool:
        return {order.order_id: order for order in self._current} == self._merged()

    def _merged(self) -> dict[str, Order]:
        merged = {order.order_id: order for order in self._stored or ()}
        merged.update({key: local.order for key, local in self._local.items()})
        return {key: order for key, order in merged.items() if order.ended_at is None}

    def _rebuild(self) -> None:
        self._current = Orders(self._merged().values())
        self._on_change(self._current)

    # --- the file -------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        async with self._writing:
            # The end of an order that the store may not know yet is kept as well: a restart must not undo it.
            ended = [local.order for local in self._local.values() if local.order.ended_at is not None]
            await asyncio.to_thread(self._write_snapshot, (*self._current, *ended))

    def _read_snapshot(self) -> tuple[Order, ...] | None:
        try:
            return tuple(from_json(entry) for entry in orjson.loads(self._snapshot.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("there is no usable file of the operators' orders: %s", error)
            return None

    def _write_snapshot(self, orders: Iterable[Order]) -> None:
        try:
            write_file(self._snapshot, [to_json(order) for order in orders])
        except OSError as error:
            _log.warning("the file of the operators' orders could not be written: %s", error)
