"""What became of break-glass lately, as this process knows it: followed in the store, kept in a file for an outage.

A use counts once: as a row of the store, or as one that was taken here and is no row yet. The file is written before a
use at home is recorded, so that a process that is killed in an outage does not forget what it let pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import orjson
from holdfast.reasons import Mode

from services.decision.break_glass import LONGEST
from services.decision.review import ID_PREFIX, OpenReview, Use
from services.ports import StoreUnreachable
from services.postgres.order_rows import from_json, order_of, to_json, write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from services.decision.break_glass import Terms
    from services.decision.orders import Order
    from services.decision.policy import Request
    from services.ports import Clock
    from services.postgres.pool import ReadPool

_log = logging.getLogger(__name__)

_INTERVAL_S: Final = 0.5
#: After this no answer waits for a use any more: one that is no row by then, with nothing in the journal, was refused.
_SETTLED_AFTER_S: Final = 30.0
_MAX_REVIEWS: Final = 1_000

_STORED: Final = """
SELECT intent_id FROM opening_uses WHERE intent_id = ANY ($1::text[]) AND mode = 'break_glass'
"""
_RECENT: Final = """
SELECT o.order_id, o.kind, o.scope, o.reason, o.issued_at, o.issued_by, o.people, o.in_force_at, o.expires_at,
       o.ended_at, o.document::text AS document,
       ARRAY(SELECT confirmed_by FROM order_confirmations AS c WHERE c.order_id = o.order_id ORDER BY confirmed_at)
           AS confirmed_by,
       (SELECT count(*) FROM opening_uses AS u WHERE u.activation = o.order_id AND u.voided_at IS NULL) AS uses
  FROM orders AS o
 WHERE o.kind = 'break_glass' AND coalesce(o.ended_at, o.expires_at) > $1
 ORDER BY o.issued_at, o.order_id
"""
_REVIEWS: Final = """
SELECT review_id, activation, due_at FROM opening_uses
 WHERE mode = 'break_glass' AND closed_at IS NULL AND voided_at IS NULL
 ORDER BY due_at, review_id LIMIT $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """A use that was taken here and is no row of the store yet."""

    activation: str
    agent: str
    key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    activations: tuple[Order, ...]
    uses: dict[str, int]
    reviews: tuple[OpenReview, ...]


class BreakGlassBook:
    """The BreakGlassUses and BreakGlassLedger ports. `in_journal`: what was recorded here has not reached the store."""

    def __init__(
        self,
        pool: ReadPool,
        file: Path,
        *,
        instance: str,
        clock: Clock,
        in_journal: Callable[[], bool],
    ) -> None:
        self._pool = pool
        self._file = file
        self._instance = instance
        self._clock = clock
        self._in_journal = in_journal
        self._stored: _Picture | None = None
        self._local: dict[str, tuple[Order, float]] = {}
        self._taken: dict[str, tuple[_Taken, float]] = {}
        self._writing = asyncio.Lock()
        self._looking = asyncio.Lock()  # of two looks that overlap, the older would have the last word

    # --- the ledger -----------------------------------------------------------------------------------------------

    @property
    def instance(self) -> str:
        """The name of this replica."""
        return self._instance

    def are_known(self) -> bool:
        """Return whether there is a picture."""
        return self._stored is not None

    def recent(self) -> Sequence[Order]:
        """Return the activations of the last day."""
        stored = () if self._stored is None else self._stored.activations
        found = {order.order_id: order for order in stored} | {key: order for key, (order, _) in self._local.items()}
        return sorted(found.values(), key=lambda order: (order.issued_at, order.order_id))

    def used(self, activation: str) -> int:
        """Return how often an activation was used."""
        stored = 0 if self._stored is None else self._stored.uses.get(activation, 0)
        return stored + sum(taken.activation == activation for taken, _ in self._taken.values())

    def open_reviews(self) -> Sequence[OpenReview]:
        """Return the reviews that are open."""
        return () if self._stored is None else self._stored.reviews

    async def note(self, activation: Order) -> None:
        """Take an activation in its newest state."""
        self._local[activation.order_id] = (activation, self._clock.monotonic())
        await self._keep()

    # --- uses -----------------------------------------------------------------------------------------------------

    async def take(
        self, activation: Order, terms: Terms, request: Request, *, idempotency_key: str | None
    ) -> Use | None:
        """Count one use."""
        at_home = activation.document.get("home") == self._instance
        if self._stored is None or (self._in_journal() and not at_home):
            return None
        if self.used(activation.order_id) >= terms.max_uses or self._repeats(request.agent, idempotency_key):
            return None
        taken = _Taken(activation=activation.order_id, agent=request.agent, key=idempotency_key)
        # Before anything awaits: the next one counts this.
        self._taken[request.intent_id] = (taken, self._clock.monotonic())
        if at_home and not await self._keep():
            del self._taken[request.intent_id]
            return None
        return Use(
            mode=Mode.BREAK_GLASS,
            activation=activation.order_id,
            review_id=ID_PREFIX + request.intent_id.removeprefix("int_"),
            instance=self._instance,
            category=request.classified.category,
            environment=request.classified.environment,
            max_uses=terms.max_uses,
            review_due_at=request.now + timedelta(hours=terms.review_hours),
            at_home=at_home,
        )

    def _repeats(self, agent: str, key: str | None) -> bool:
        """Return whether this agent's key let something pass that no store knows yet: a restart forgets its answer."""
        return key is not None and any((taken.agent, taken.key) == (agent, key) for taken, _ in self._taken.values())

    async def give_back(self, intent_id: str) -> None:
        """Count a use no more."""
        if self._taken.pop(intent_id, None) is not None:
            await self._keep()

    # --- following ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what is known, from the store and, for what it may not know yet, from the file."""
        if self._in_journal():
            await asyncio.to_thread(self._read)
        try:
            await self.look()
        except StoreUnreachable as error:
            if self._stored is None:
                await asyncio.to_thread(self._read)
            _log.warning("break-glass is known from the local file: %s, %s", self._stored is not None, error)

    async def run(self) -> None:
        """Follow the store until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            with contextlib.suppress(StoreUnreachable):  # the heartbeat tells of it
                await self.look()

    async def look(self) -> None:
        """Hear of the store what it says now. Raises: StoreUnreachable."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        asked_at, complete = self._clock.monotonic(), not self._in_journal()
        async with self._pool.connection() as connection:
            # First which of ours are rows, then how many rows there are: one that comes between counts twice for a
            # moment, never not at all.
            rows = await connection.fetch(_STORED, list(self._taken)) if self._taken else []
            recent = await connection.fetch(_RECENT, self._clock.now() - LONGEST)
            reviews = await connection.fetch(_REVIEWS, _MAX_REVIEWS)
        picture = _Picture(
            activations=tuple(order_of(row) for row in recent),
            uses={row["order_id"]: row["uses"] for row in recent},
            reviews=tuple(
                OpenReview(review_id=row["review_id"], activation=row["activation"], due_at=row["due_at"])
                for row in reviews
            ),
        )
        known, before = {row["intent_id"] for row in rows}, (self._stored, len(self._taken), len(self._local))
        self._taken = {
            key: (taken, at)
            for key, (taken, at) in self._taken.items()
            if key not in known and not (complete and asked_at - at > _SETTLED_AFTER_S)
        }
        if complete:
            self._local = {key: (order, at) for key, (order, at) in self._local.items() if at >= asked_at}
        self._stored = picture
        if before != (self._stored, len(self._taken), len(self._local)):
            await self._keep()

    # --- the file -------------------------------------------------------------------------------------------------

    async def _keep(self) -> bool:
        """Write the file, and return whether it holds all that is known now."""
        async with self._writing:
            try:
                await asyncio.to_thread(write_file, self._file, self._document())
            except OSError as error:
                _log.warning("the file of break-glass could not be written: %s", error)
                return False
        return True

    def _document(self) -> dict[str, object]:
        stored = self._stored
        return {
            "known": stored is not None,
            "activations": [to_json(order) for order in self.recent()],
            "uses": {} if stored is None else dict(stored.uses),
            "reviews": [asdict(review) for review in self.open_reviews()],
            "taken": {key: asdict(taken) for key, (taken, _) in self._taken.items()},
        }

    def _read(self) -> None:
        try:
            document = orjson.loads(self._file.read_bytes())
            activations = tuple(from_json(entry) for entry in document["activations"])
            taken = {key: _Taken(**entry) for key, entry in document["taken"].items()}
            picture = _Picture(
                activations=activations,
                uses={str(key): int(count) for key, count in document["uses"].items()},
                reviews=tuple(
                    OpenReview(**{**entry, "due_at": datetime.fromisoformat(entry["due_at"])})
                    for entry in document["reviews"]
                ),
            )
            known = document["known"] is True
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            _log.warning("there is no usable file of break-glass: %s", error)
            return
        now = self._clock.monotonic()
        self._stored = picture if known else None
        self._local = {order.order_id: (order, now) for order in activations}
        self._taken = {key: (entry, now) for key, entry in taken.items()}
