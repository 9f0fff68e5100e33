"""Break-glass, as people handle it: activate, confirm, revoke.

All three are recorded first and count then; each may rest on the journal, for break-glass is made for an outage. While
PostgreSQL is away, an activation is known where it was taken in, its home, and nowhere else. Source: design 9,
docs/break-glass.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from holdfast.reasons import ReasonCode

from services.boundary import BoundaryUnavailable
from services.decision import break_glass
from services.decision.orders import Order, OrderKind
from services.notices.notice import ID_PREFIX, Kind
from services.opening_notices import of_activation
from services.order_effects import ConfirmOrder, EndOrder, PutOrder
from services.ports import Entry, StoreUnreachable
from services.settling import kept
from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from holdfast.strict_json import JSON

    from services.activations import BreakGlassLedger
    from services.boundary import Boundary
    from services.decision.review import OpenReview
    from services.decision.settings import BreakGlass as Rule
    from services.ports import Clock, Effect, Ids, OrderLedger, PolicySource, Recorder, Settled


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """An activation after a change. `in_journal`: the other replicas hear of it when PostgreSQL is back."""

    activation: Order
    in_journal: bool


class BreakGlass:
    """What people may do with break-glass. Names of operators are checked by the caller."""

    def __init__(
        self,
        *,
        orders: OrderLedger,
        ledger: BreakGlassLedger,
        policies: PolicySource,
        recorder: Recorder,
        audit: Boundary,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._orders = orders
        self._ledger = ledger
        self._policies = policies
        self._recorder = recorder
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._changing = asyncio.Lock()  # one at a time: each looks at what the one before left

    # --- looking --------------------------------------------------------------------------------------------------

    def activations(self) -> Sequence[Order]:
        """Return the activations of the last day, oldest first."""
        found = {order.order_id: order for order in self._ledger.recent()}
        for order in self._orders.current().of(OrderKind.BREAK_GLASS):
            known = found.get(order.order_id)
            if known is None or known.ended_at is None:  # an end is an end, whoever heard of it
                found[order.order_id] = order
        return sorted(found.values(), key=lambda order: (order.issued_at, order.order_id))

    def activation(self, activation_id: str) -> Order:
        """Return one of them. Raises: Problem 404."""
        found = next((order for order in self.activations() if order.order_id == activation_id), None)
        if found is None:
            raise Problem(404, ReasonCode.NOT_FOUND, "no such activation is known here")
        return found

    async def hear_of(self, activation_id: str) -> None:
        """Look at the store for an activation that is unknown here: another replica may have taken it in just now."""
        if all(order.order_id != activation_id for order in self.activations()):
            with contextlib.suppress(StoreUnreachable):
                await self._ledger.look()

    # --- activating -----------------------------------------------------------------------------------------------

    async def activate(self, name: str, *, by: str, reason: str, incident: str, minutes: int) -> Changed:
        """Activate a policy of the bundle, at once or once enough people confirmed it.

        Raises: Problem 400, 403 while a review is overdue, 404, 503.
        """
        rule = self._rule(name)
        if not 1 <= minutes <= rule.max_minutes:
            detail = f"the policy allows 1 to {rule.max_minutes} minutes"
            raise Problem(400, ReasonCode.REQUEST_MALFORMED, detail)
        async with self._changing:
            now = self._clock.now()
            await self._nothing_overdue(now)
            earlier = break_glass.people_before(self.activations(), rule, now=now)
            # Whoever renews needs somebody who was not behind it before, where the policy asks for one person, too.
            people = max(rule.people, 2 if by in earlier else 1)
            alone = people == 1
            order = Order(
                order_id=self._ids.new(break_glass.ID_PREFIX),
                kind=OrderKind.BREAK_GLASS,
                scope=name,
                reason=reason,
                issued_at=now,
                issued_by=by,
                people=people,
                in_force_at=now if alone else None,
                expires_at=now + (timedelta(minutes=minutes) if alone else break_glass.PENDING),
                document=break_glass.document(
                    rule,
                    bundle=self._policies.current().digest,
                    home=self._ledger.instance,
                    incident=incident,
                    minutes=minutes,
                    earlier=earlier,
                ),
            )
            kind = "break_glass.activated" if alone else "break_glass.requested"
            told = Kind.BREAK_GLASS_ACTIVATED if alone else None
            settled = await self._record(kind, order, PutOrder.of(order), by=by, reason=reason, told=told)
            if not settled.applied:
                raise Problem(409, ReasonCode.CONFLICT, "the activation was stored before")
            return await self._count(order, settled)

    async def confirm(self, activation_id: str, *, by: str) -> Changed:
        """Stand behind an activation as one more person; the last one puts it in force.

        Raises: Problem 403 for who asked for it, 404, 409, 503.
        """
        async with self._changing:
            now = self._clock.now()
            await self._nothing_overdue(now)
            await self.hear_of(activation_id)
            order = self._pending(activation_id, now)
            if by == order.issued_by:
                raise Problem(403, ReasonCode.FORBIDDEN, "somebody else than who asked for it must confirm it")
            if by in order.confirmed_by:
                raise Problem(409, ReasonCode.CONFLICT, "you confirmed it before")
            if not break_glass.may_confirm(order, by):
                detail = "this renews an earlier activation: somebody who was not behind that one must confirm it first"
                raise Problem(403, ReasonCode.FORBIDDEN, detail)
            expires_at = now + timedelta(minutes=break_glass.minutes_of(order))
            confirmed_by = (*order.confirmed_by, by)
            in_force = 1 + len(confirmed_by) >= order.people
            confirmed = replace(
                order,
                confirmed_by=confirmed_by,
                in_force_at=now if in_force else None,
                expires_at=expires_at if in_force else order.expires_at,
            )
            effect = ConfirmOrder(order_id=order.order_id, confirmed_by=by, confirmed_at=now, expires_at=expires_at)
            kind = "break_glass.activated" if in_force else "break_glass.confirmed"
            told = Kind.BREAK_GLASS_ACTIVATED if in_force else None
            settled = await self._record(kind, confirmed, effect, by=by, reason=order.reason, told=told)
            if not settled.applied:
                raise Problem(409, ReasonCode.CONFLICT, "it was confirmed, ended, or lapsed meanwhile")
            return await self._count(confirmed, settled)

    async def revoke(self, activation_id: str, *, by: str, note: str) -> Changed:
        """End an activation, or one that waits for people, at once. Raises: Problem 404, 409, 503."""
        await self.hear_of(activation_id)
        # It counts no more here, even before that is recorded: an end that waits for a slow log is no end.
        await self._end_here(self._standing(activation_id), recorded=False)
        try:
            async with self._changing:
                # Whatever it has become while we waited for our turn, it ends.
                ended = await self._end_here(self.activation(activation_id), recorded=False)
                effect = EndOrder(order_id=activation_id, ended_at=self._clock.now(), ended_by=by, note=note)
                # Who was told of nothing is not told of its end.
                told = None if ended.in_force_at is None else Kind.BREAK_GLASS_REVOKED
                settled = await self._record("break_glass.revoked", ended, effect, by=by, reason=note, told=told)
        finally:
            await self._end_here(self.activation(activation_id), recorded=True)
        return Changed(activation=ended, in_journal=settled.in_journal)

    async def _end_here(self, order: Order, *, recorded: bool) -> Order:
        ended = order if order.ended_at is not None else replace(order, ended_at=self._clock.now())
        await self._orders.note(ended, recorded=recorded)
        await self._ledger.note(ended)
        return ended

    async def _count(self, order: Order, settled: Settled) -> Changed:
        """Let an activation count as it is now, unless it was revoked while it was recorded."""
        known = next((other for other in self._ledger.recent() if other.order_id == order.order_id), None)
        if known is not None and known.ended_at is not None:
            order = replace(order, ended_at=known.ended_at)
        await self._ledger.note(order)
        await self._orders.note(order, recorded=True)
        return Changed(activation=order, in_journal=settled.in_journal)

    # --- details --------------------------------------------------------------------------------------------------

    def _rule(self, name: str) -> Rule:
        rule = break_glass.rule_named(self._policies.current(), name)
        if rule is None:
            raise Problem(404, ReasonCode.NOT_FOUND, "the active policies have no break-glass of this name")
        return rule

    async def _nothing_overdue(self, now: datetime) -> None:
        if not self._ledger.are_known():
            detail = "it is not known whether reviews are overdue; ask a replica that knows"
            raise Problem(503, ReasonCode.SERVICE_UNAVAILABLE, detail, retry_after_s=2)
        if self._overdue(now):
            with contextlib.suppress(StoreUnreachable):
                await self._ledger.look()  # somebody may have closed it a moment ago
        overdue = self._overdue(now)
        if overdue:
            detail = f"{len(overdue)} reviews of earlier uses are overdue, the first is {overdue[0].review_id}"
            raise Problem(403, ReasonCode.FORBIDDEN, f"{detail}; they must be closed first")

    def _overdue(self, now: datetime) -> list[OpenReview]:
        return [review for review in self._ledger.open_reviews() if review.is_overdue(now)]

    def _standing(self, activation_id: str) -> Order:
        order = self.activation(activation_id)
        expires_at = order.expires_at
        if order.ended_at is not None or (expires_at is not None and expires_at <= self._clock.now()):
            raise Problem(409, ReasonCode.CONFLICT, "it is over already")
        return order

    def _pending(self, activation_id: str, now: datetime) -> Order:
        order = self.activation(activation_id)
        if order.in_force_at is not None and order.ended_at is None:
            raise Problem(409, ReasonCode.CONFLICT, "it is in force already")
        if order.ended_at is not None or order.expires_at is None or order.expires_at <= now:
            raise Problem(409, ReasonCode.CONFLICT, "it has lapsed, or was revoked; activate again")
        return order

    async def _record(
        self, kind: str, order: Order, effect: Effect, *, by: str, reason: str, told: Kind | None
    ) -> Settled:
        """Record a change, on a commit or on the journal. Raises: Problem 503."""
        behind: list[JSON] = [f"operator:{name}" for name in sorted(order.behind())]
        members: dict[str, JSON] = {
            "activation": order.order_id,
            "policy": order.scope,
            "by": f"operator:{by}",
            "reason": reason,
            "behind": behind,
            "people": order.people,
            "elevated": True,
            "terms": dict(order.document),
        }
        at = self._clock.now()
        notice_id = self._ids.new(ID_PREFIX)
        notices = (
            ()
            if told is None
            else (
                of_activation(told, notice_id=notice_id, at=at, activation=order.order_id, policy=order.scope, by=by),
            )
        )
        entry = Entry(kind=kind, at=at, members=members, effect=effect, journal_may_release=True, notices=notices)

        try:
            return await kept(self._recorder, self._audit, entry)
        except BoundaryUnavailable as error:
            detail = "it could not be recorded"
            raise Problem(503, ReasonCode.AUDIT_UNAVAILABLE, detail, retry_after_s=2) from error
