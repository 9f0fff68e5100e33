"""What becomes of operators' orders: given, confirmed, ended. Each rides with its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from typing import Self

    from holdfast.strict_json import JSON

    from services.decision.orders import Order


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOrder:
    """Effect: store an operator's order. In force at once when `people` is 1; refused if stored.

    Of halts, suspensions and forced boundaries one stands for each scope: a second one is refused.
    """

    order_id: str
    kind: str
    scope: str
    document: Mapping[str, JSON]
    reason: str
    issued_at: datetime
    issued_by: str
    people: int
    expires_at: datetime | None

    @classmethod
    def of(cls, order: Order) -> Self:
        """Return the effect that stores this order."""
        return cls(
            order_id=order.order_id,
            kind=order.kind.value,
            scope=order.scope,
            document=order.document,
            reason=order.reason,
            issued_at=order.issued_at,
            issued_by=order.issued_by,
            people=order.people,
            expires_at=order.expires_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmOrder:
    """Effect: one more person behind an order; the last one that it needs puts it in force, until `expires_at`.

    Refused for its issuer, for who confirmed it before, and for an order in force, ended, expired or unknown.
    """

    order_id: str
    confirmed_by: str
    confirmed_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOrder:
    """Effect: end a standing order. Refused if it ended before."""

    order_id: str
    ended_at: datetime
    ended_by: str
    note: str


OrderEffect: TypeAlias = PutOrder | ConfirmOrder | EndOrder
