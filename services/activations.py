"""Activations of break-glass, as others ask about them: may this be a use, and what became of them lately."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.decision.break_glass import Terms
    from services.decision.orders import Order
    from services.decision.policy import Request
    from services.decision.review import OpenReview, Use


class BreakGlassUses(Protocol):
    """Counts the uses of activations. While the store is away, a use counts on its activation's home alone."""

    @property
    def instance(self) -> str:
        """The name of this replica: the home of what is activated here."""
        ...

    async def take(
        self, activation: Order, terms: Terms, request: Request, *, idempotency_key: str | None
    ) -> Use | None:
        """Count one use and return it; None at the cap, away from home in an outage, or for a key used before.

        At home it survives this process when this returns, even while the store is away.
        """
        ...

    async def give_back(self, intent_id: str) -> None:
        """Count a use no more: its token was thrown away."""
        ...


class BreakGlassLedger(BreakGlassUses, Protocol):
    """What became of activations lately, as whoever activates sees it."""

    def are_known(self) -> bool:
        """Return whether there is a picture at all, if only from before an outage."""
        ...

    def recent(self) -> Sequence[Order]:
        """Return the activations of the last day, ended ones included, oldest first."""
        ...

    def used(self, activation: str) -> int:
        """Return how often an activation was used, as far as is known here."""
        ...

    def open_reviews(self) -> Sequence[OpenReview]:
        """Return the reviews that are open, the first due first, as last heard."""
        ...

    async def look(self) -> None:
        """Hear of the store what it says now. Raises: StoreUnreachable."""
        ...

    async def note(self, activation: Order) -> None:
        """Take an activation in its newest state. In the file when this returns, if it can be."""
        ...
