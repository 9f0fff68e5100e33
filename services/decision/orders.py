"""What operators ordered and what still stands: halts, suspensions, overrides, boundaries held open, break-glass.

    kind         scope                                             in force
    halt         all | agent:NAME | category:NAME | executor:NAME  at once, until two people agree that it may end
    suspension   NAME of an agent                                  at once, until ended
    override     low | medium                                      until it expires: there is none without an expiry
    force_open   NAME of a boundary                                at once, until reset
    break_glass  NAME of a policy in the bundle                    once enough people stand behind it, until it expires

Pure: time is an argument. Source: design 5, 6 and 9.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from holdfast.strict_json import JSON

    from services.decision.catalog import Impact

EVERYTHING: Final = "all"


class OrderKind(StrEnum):
    """What operators may order."""

    HALT = "halt"
    SUSPENSION = "suspension"
    OVERRIDE = "override"
    FORCE_OPEN = "force_open"
    BREAK_GLASS = "break_glass"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order. `people` is how many must stand behind it, the issuer among them; `in_force_at` is None until then."""

    order_id: str
    kind: OrderKind
    scope: str
    reason: str
    issued_at: datetime
    issued_by: str
    people: int = 1
    confirmed_by: tuple[str, ...] = ()
    in_force_at: datetime | None = None
    expires_at: datetime | None = None
    ended_at: datetime | None = None
    document: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an order that stands without its people, and an opening without an end."""
        if self.people < 1 or (self.in_force_at is not None and len(self.behind()) < self.people):
            raise ValueError("an order in force has its people behind it")
        if self.kind in {OrderKind.OVERRIDE, OrderKind.BREAK_GLASS} and self.expires_at is None:
            raise ValueError("what opens expires")

    def is_in_force(self, now: datetime) -> bool:
        """Return whether the order counts at `now`."""
        if self.in_force_at is None or self.ended_at is not None:
            return False
        return self.expires_at is None or now < self.expires_at

    def behind(self) -> frozenset[str]:
        """Return who stands behind it."""
        return frozenset({self.issued_by, *self.confirmed_by})


class Orders:
    """A picture of the orders. Never changes."""

    def __init__(self, orders: Iterable[Order] = ()) -> None:
        standing = [order for order in orders if order.ended_at is None]
        self._by_id = MappingProxyType({order.order_id: order for order in standing})
        # Halts, suspensions and forced boundaries have no expiry and one person behind them: what stands is in force.
        self._halts = {order.scope: order for order in standing if order.kind is OrderKind.HALT}
        self._suspensions = {order.scope: order for order in standing if order.kind is OrderKind.SUSPENSION}
        self._forced = {order.scope: order for order in standing if order.kind is OrderKind.FORCE_OPEN}

    def __iter__(self) -> Iterator[Order]:
        """Iterate over what stands."""
        return iter(self._by_id.values())

    def get(self, order_id: str) -> Order | None:
        """Return a standing order by its id."""
        return self._by_id.get(order_id)

    def of(self, kind: OrderKind) -> tuple[Order, ...]:
        """Return the standing orders of one kind, oldest first; some may wait for people, or have expired."""
        found = (order for order in self._by_id.values() if order.kind is kind)
        return tuple(sorted(found, key=lambda order: (order.issued_at, order.order_id)))

    def halt(self, *, agent: str, category: str | None = None, executor: str | None = None) -> Order | None:
        """Return the halt that stops this, the widest first."""
        if not self._halts:
            return None
        scopes = [EVERYTHING, f"agent:{agent}"]
        scopes += [f"category:{category}"] if category is not None else []
        scopes += [f"executor:{executor}"] if executor is not None else []
        return next((self._halts[scope] for scope in scopes if scope in self._halts), None)

    def standing(self, kind: OrderKind, scope: str) -> Order | None:
        """Return the halt, suspension or forced boundary of exactly this scope."""
        return {
            OrderKind.HALT: self._halts,
            OrderKind.SUSPENSION: self._suspensions,
            OrderKind.FORCE_OPEN: self._forced,
        }[kind].get(scope)

    def suspension(self, agent: str) -> Order | None:
        """Return what suspends the agent."""
        return self._suspensions.get(agent)

    def forced(self, boundary: str) -> Order | None:
        """Return what holds the boundary open."""
        return self._forced.get(boundary)

    def override(self, impact: Impact, now: datetime) -> Order | None:
        """Return the override of the fail mode that is in force for an impact tier."""
        return next(
            (order for order in self.of(OrderKind.OVERRIDE) if order.scope == impact and order.is_in_force(now)), None
        )

    def activations(self, now: datetime) -> tuple[Order, ...]:
        """Return the break-glass activations in force."""
        return tuple(order for order in self.of(OrderKind.BREAK_GLASS) if order.is_in_force(now))
