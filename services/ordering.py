"""Takes the orders of operators: records each, then lets it count. Stopping is easy; starting again is not.

What only restricts (a halt, a suspension, a boundary held open) may rest on the journal, so that it works while
PostgreSQL is away. What permits (the end of these, an override) rests on a commit alone. Source: design 5, 6 and 9.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from holdfast.reasons import ReasonCode

from services.boundary import BoundaryUnavailable
from services.decision.catalog import Impact
from services.decision.fail_open import OVERRIDABLE
from services.decision.orders import EVERYTHING, Order, OrderKind
from services.notices.notice import ID_PREFIX, MAX_DETAIL, MAX_SUMMARY, Kind, Notice, Severity, printable
from services.order_effects import EndOrder, PutOrder
from services.ports import Entry
from services.settling import committed, kept
from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from holdfast.strict_json import JSON

    from services.boundary import Boundary
    from services.ports import Clock, Effect, Ids, OrderLedger, PolicySource, Recorder, Settled

MAX_OVERRIDE_S: Final = 24 * 3600
_GRAVE: Final = frozenset({Impact.HIGH, Impact.CRITICAL})
_KINDS: Final[Mapping[OrderKind, tuple[str, str]]] = {
    OrderKind.HALT: ("halt.set", "halt.resumed"),
    OrderKind.SUSPENSION: ("agent.suspended", "agent.resumed"),
    OrderKind.FORCE_OPEN: ("boundary.forced_open", "boundary.reset"),
    OrderKind.OVERRIDE: ("override.set", "override.ended"),
}


#: By kind of record: how it is told, and how grave it is. An ending is as grave as what it ends.
_TOLD: Final[Mapping[str, tuple[Kind, Severity, str]]] = {
    "halt.set": (Kind.HALT_SET, Severity.CRITICAL, "halted"),
    "halt.resumed": (Kind.HALT_RESUMED, Severity.CRITICAL, "the halt is over"),
    "override.set": (Kind.OVERRIDE_SET, Severity.WARNING, "an override fails open"),
    "override.ended": (Kind.OVERRIDE_EXPIRED, Severity.WARNING, "the override is over"),
    "override.expired": (Kind.OVERRIDE_EXPIRED, Severity.WARNING, "the override has run out"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An order as it stands. `new` is False when it stood before.

    One that is `in_journal` is known to this process alone until PostgreSQL is back.
    """

    order: Order
    new: bool
    in_journal: bool = False


class Ordering:
    """What operators may order, and end. Names of operators are checked by the caller."""

    def __init__(
        self,
        *,
        orders: OrderLedger,
        policies: PolicySource,
        recorder: Recorder,
        audit: Boundary,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._orders = orders
        self._policies = policies
        self._recorder = recorder
        self._audit = audit
        self._clock = clock
        self._ids = ids

    # --- stopping -------------------------------------------------------------------------------------------------

    async def halt(self, scope: str, *, by: str, reason: str) -> Taken:
        """Halt `all`, `agent:NAME`, `category:NAME` or `executor:NAME`, at once. Raises: Problem 400, 503."""
        self._known_scope(scope)
        return await self._stop(OrderKind.HALT, scope, by=by, reason=reason)

    async def suspend(self, agent: str, *, by: str, reason: str) -> Taken:
        """Suspend an agent. Raises: Problem 404, 503."""
        self._known_agent(agent)
        return await self._stop(OrderKind.SUSPENSION, agent, by=by, reason=reason)

    async def force_open(self, boundary: str, *, by: str, reason: str) -> Taken:
        """Hold a boundary open on every replica. Raises: Problem 503."""
        return await self._stop(OrderKind.FORCE_OPEN, boundary, by=by, reason=reason)

    async def _stop(self, kind: OrderKind, scope: str, *, by: str, reason: str) -> Taken:
        standing = self._orders.current().standing(kind, scope)
        if standing is not None:
            return Taken(order=standing, new=False)
        now = self._clock.now()
        order = Order(
            order_id=self._ids.new("ord_"),
            kind=kind,
            scope=scope,
            reason=reason,
            issued_at=now,
            issued_by=by,
            in_force_at=now,
        )
        # In force here even before it is recorded: a stop that waits for a slow log is no stop.
        await self._orders.note(order, recorded=False)
        stands = False
        try:
            settled = await self._record(_KINDS[kind][0], order, PutOrder.of(order), restricts=True)
            stands = True
        finally:
            await self._orders.note(order if stands else replace(order, ended_at=self._clock.now()), recorded=True)
        return Taken(order=order, new=settled.applied, in_journal=settled.in_journal)

    # --- starting again -------------------------------------------------------------------------------------------

    async def resume(self, scope: str, *, by: str, note: str) -> Order:
        """End a halt. Where it stops grave things, somebody else than who ordered it must say so.

        Raises: Problem 403, 404, 409, 503.
        """
        order = self._standing(OrderKind.HALT, scope)
        if by == order.issued_by and self._is_grave(scope):
            raise Problem(403, ReasonCode.FORBIDDEN, "somebody else than who ordered this halt must end it")
        return await self._end(order, by=by, note=note)

    async def reinstate(self, agent: str, *, by: str, note: str) -> Order:
        """End an agent's suspension. Raises: Problem 404, 409, 503."""
        return await self._end(self._standing(OrderKind.SUSPENSION, agent), by=by, note=note)

    async def release(self, boundary: str, *, by: str, note: str) -> Order:
        """Let go of a boundary that is held open: it is probed, and closes by correct canaries. Raises: Problem."""
        return await self._end(self._standing(OrderKind.FORCE_OPEN, boundary), by=by, note=note)

    async def _end(self, order: Order, *, by: str, note: str) -> Order:
        ended = replace(order, ended_at=self._clock.now())
        effect = EndOrder(order_id=order.order_id, ended_at=self._clock.now(), ended_by=by, note=note)
        # Who holds the audit boundary open must be able to let go of it, and that goes through this very boundary.
        held_open = order.kind is OrderKind.FORCE_OPEN
        kind = _KINDS[order.kind][1]
        settled = await self._record(kind, order, effect, restricts=False, though_open=held_open, by=by, note=note)
        if not settled.applied:
            raise Problem(409, ReasonCode.CONFLICT, "it was ended by somebody else meanwhile")
        await self._orders.note(ended, recorded=True)
        return ended

    # --- overriding -----------------------------------------------------------------------------------------------

    async def override(
        self, tier: str, *, by: str, reason: str, expires_in_s: int | None, max_per_minute: int
    ) -> Order:
        """Let reads of an impact tier pass while they cannot be evaluated, until it expires.

        Raises: Problem 400 without an expiry or above medium, 409 if one is in force, 503.
        """
        if tier not in OVERRIDABLE:
            raise _malformed("only the tiers low and medium may be overridden; high and critical never fail open")
        if expires_in_s is None or not 0 < expires_in_s <= MAX_OVERRIDE_S:
            raise _malformed(f"an override expires: within 1 to {MAX_OVERRIDE_S} seconds")
        now = self._clock.now()
        if self._orders.current().override(Impact(tier), now) is not None:
            raise Problem(409, ReasonCode.CONFLICT, f"an override of the tier {tier} is in force; end it first")
        order = Order(
            order_id=self._ids.new("ord_"),
            kind=OrderKind.OVERRIDE,
            scope=tier,
            reason=reason,
            issued_at=now,
            issued_by=by,
            in_force_at=now,
            expires_at=now + timedelta(seconds=expires_in_s),
            document={"max_per_minute": max_per_minute},
        )
        settled = await self._record(_KINDS[OrderKind.OVERRIDE][0], order, PutOrder.of(order), restricts=False)
        if not settled.applied:
            raise Problem(409, ReasonCode.CONFLICT, "the order was stored before")
        await self._orders.note(order, recorded=True)
        return order

    async def end_override(self, order_id: str, *, by: str, note: str) -> Order:
        """End an override before it expires: at once, since it closes. Raises: Problem 404, 409, 503."""
        order = self._orders.current().get(order_id)
        if order is None or order.kind is not OrderKind.OVERRIDE:
            raise Problem(404, ReasonCode.NOT_FOUND, "there is no such override")
        return await self._end(order, by=by, note=note)

    # --- details --------------------------------------------------------------------------------------------------

    def _standing(self, kind: OrderKind, scope: str) -> Order:
        order = self._orders.current().standing(kind, scope)
        if order is None:
            raise Problem(404, ReasonCode.NOT_FOUND, "nothing of the kind is in force")
        return order

    def _known_scope(self, scope: str) -> None:
        kind, _, name = scope.partition(":")
        policy = self._policies.current()
        known = {
            EVERYTHING: not name and scope == EVERYTHING,
            "agent": name in policy.agents,
            "category": policy.has_category(name),
            "executor": name in policy.executors,
        }
        if not known.get(kind, False):
            raise _malformed("a halt is of `all`, or of an agent, category or executor of the active policies")

    def _known_agent(self, agent: str) -> None:
        if agent not in self._policies.current().agents:
            raise Problem(404, ReasonCode.NOT_FOUND, "the active policies have no such agent")

    def _is_grave(self, scope: str) -> bool:
        """Return whether ending this halt lets actions of high or critical impact run again. In doubt it does."""
        kind, _, name = scope.partition(":")
        policy = self._policies.current()
        if kind == "category":
            impact = policy.impact_of(name)
            return impact is None or impact in _GRAVE
        return True

    async def _record(
        self,
        kind: str,
        order: Order,
        effect: Effect,
        *,
        restricts: bool,
        though_open: bool = False,
        by: str | None = None,
        note: str | None = None,
    ) -> Settled:
        """Return where the record stands, and whether its effect was applied. Raises: Problem 503.

        What restricts may rest on the journal, and passes an audit boundary that is open; so does what must be recorded
        `though_open`, on a commit alone.
        """
        members: dict[str, JSON] = {
            "order_id": order.order_id,
            "scope": order.scope,
            "by": f"operator:{order.issued_by if by is None else by}",
            "reason": order.reason if note is None else note,
        }
        if order.expires_at is not None and note is None:
            members["expires_in_s"] = int((order.expires_at - order.issued_at).total_seconds())
        now, who = self._clock.now(), order.issued_by if by is None else by
        told = order_notice(kind, order, notice_id=self._ids.new(ID_PREFIX), at=now, by=who)
        entry = Entry(
            kind=kind,
            at=now,
            members=members,
            effect=effect,
            journal_may_release=restricts,
            notices=() if told is None else (told,),
        )
        try:
            if restricts:
                return await kept(self._recorder, self._audit, entry)
            return await committed(self._recorder, self._audit, entry, though_open=though_open)
        except BoundaryUnavailable as error:
            detail = "the order could not be recorded"
            raise Problem(503, ReasonCode.AUDIT_UNAVAILABLE, detail, retry_after_s=2) from error


def order_notice(kind: str, order: Order, *, notice_id: str, at: datetime, by: str) -> Notice | None:
    """Return what others are told of a halt or an override; the words of people stay in the log."""
    if kind not in _TOLD:
        return None
    word, severity, what = _TOLD[kind]
    return Notice(
        notice_id=notice_id,
        kind=word,
        severity=severity,
        dedupe_key=f"order:{order.order_id}",
        summary=printable(f"{what}: {order.scope}, by {by}", limit=MAX_SUMMARY),
        at=at,
        details={
            "order_id": order.order_id,
            "scope": printable(order.scope, limit=MAX_DETAIL),
            "by": printable(by, limit=MAX_DETAIL),
        },
    )


def _malformed(detail: str) -> Problem:
    return Problem(400, ReasonCode.REQUEST_MALFORMED, detail)
