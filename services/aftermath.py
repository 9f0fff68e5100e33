"""What follows a use of break-glass, on one worker at a time: reminders, what policy would have said, the sum.

Each step is one record with its effect, and the effect is refused where another worker was first: two leaders for a
moment do nothing twice. Source: design 9, docs/break-glass.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from services.break_glass_notices import of_review
from services.decision.finding import BundleInvalid
from services.decision.replay import answer, question, signals_of
from services.decision.review import ReconcileUse, RemindReview, SumUpActivation, reminder
from services.notices.notice import ID_PREFIX, Kind
from services.outcome import rfc3339
from services.ports import Entry, RecordingFailed, StoreUnreachable
from services.postgres.decisions import DecisionDamaged
from services.publishing import PublishingFailed, compiled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from holdfast.strict_json import JSON

    from services.decision.policy import Policy
    from services.decision.replay import Recorded
    from services.notices.notice import Notice
    from services.ports import Clock, Ids, PolicySource, Recorder
    from services.postgres.bundles import PostgresBundles
    from services.postgres.decisions import PostgresDecisions
    from services.postgres.reviews import PostgresReviews, Sum, UseRow

_log = logging.getLogger(__name__)

_INTERVAL_S: Final = 1.0
_AT_ONCE: Final = 100
_MAX_OPEN: Final = 10_000
_BUNDLES_KEPT: Final = 4
_MAX_WHY: Final = 200
#: An activation is summed up this long after its end: what passed at the last moment is on its way to the store.
_SETTLES: Final = timedelta(seconds=30)


class Leadership(Protocol):
    """Says whether this process is the one."""

    async def leads(self) -> bool:
        """Return whether it leads now; False for any doubt."""
        ...


class Aftermath:
    """The clock of reviews."""

    def __init__(
        self,
        *,
        reviews: PostgresReviews,
        decisions: PostgresDecisions,
        bundles: PostgresBundles,
        policies: PolicySource,
        recorder: Recorder,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._reviews = reviews
        self._decisions = decisions
        self._bundles = bundles
        self._policies = policies
        self._recorder = recorder
        self._clock = clock
        self._ids = ids
        self._compiled: OrderedDict[str, Policy] = OrderedDict()

    async def run(self, leadership: Leadership) -> None:
        """Do what is due, where this process leads, until cancelled."""
        while True:
            if await leadership.leads():
                await self.tick()
            await asyncio.sleep(_INTERVAL_S)

    async def tick(self) -> None:
        """Do what is due now, a bounded part of it. What cannot be done now stays due."""
        try:
            await self._remind()
            await self._reconcile()
            await self._sum_up()
        except (StoreUnreachable, RecordingFailed) as error:
            _log.info("what follows break-glass waits: %s", error)

    # --- reminders ------------------------------------------------------------------------------------------------

    async def _remind(self) -> None:
        now = self._clock.now()
        found = [
            (use, due)
            for use in await self._reviews.open(limit=_MAX_OPEN)
            if (due := reminder(used_at=use.used_at, due_at=use.due_at, reminded_at=use.reminded_at, now=now))
        ]
        for use, due in found[:_AT_ONCE]:
            members: dict[str, JSON] = {
                **_named(use),
                "since": rfc3339(due.since),
                "due_at": rfc3339(use.due_at),
                "overdue": due.overdue,
            }
            effect = RemindReview(review_id=use.review_id, reminded_at=now, expected=use.reminded_at)
            told = Kind.BREAK_GLASS_REVIEW_OVERDUE if due.overdue else Kind.BREAK_GLASS_REVIEW_DUE
            notices = (self._notice(told, use, now),)
            await self._record(Entry(kind="review.reminded", at=now, members=members, effect=effect, notices=notices))

    # --- what policy would have said ------------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        for use in await self._reviews.unreconciled(limit=_AT_ONCE):
            would = await self._would(use)
            # Whatever either bundle would not have allowed is for a human to look at, and so is what nobody can tell.
            flagged = any(_decision(would, when) != "allow" for when in ("then", "now"))
            now = self._clock.now()
            members: dict[str, JSON] = {**_named(use), "would": would, "flagged": flagged}
            effect = ReconcileUse(review_id=use.review_id, reconciled_at=now, would=would, flagged=flagged)
            notices = (self._notice(Kind.BREAK_GLASS_FLAGGED, use, now),) if flagged else ()
            await self._record(
                Entry(kind="break_glass.reconciled", at=now, members=members, effect=effect, notices=notices)
            )

    async def _would(self, use: UseRow) -> dict[str, JSON]:
        """Return what the bundle of then and the one of now say, both as of the time of use."""
        current = self._policies.current()
        try:
            recorded = await self._decisions.get(use.intent_id)
        except DecisionDamaged as error:
            return {"then": _error(str(error)), "now": _error(str(error), bundle=current.digest)}
        if recorded is None or recorded.bundle is None:
            missing = "its intent is not stored"
            return {"then": _error(missing), "now": _error(missing, bundle=current.digest)}
        try:
            policy = await self._policy(recorded.bundle)
        except (PublishingFailed, BundleInvalid) as error:
            why = f"its bundle cannot be read: {error}"
            return {"then": _error(why, bundle=recorded.bundle), "now": _said(current, recorded, by=current)}
        return {"then": _said(policy, recorded, by=policy), "now": _said(current, recorded, by=policy)}

    async def _policy(self, digest: str) -> Policy:
        found = self._compiled.pop(digest, None)
        if found is None:
            current = self._policies.current()
            found = current if current.digest == digest else await compiled(self._bundles, digest)
        self._compiled[digest] = found
        while len(self._compiled) > _BUNDLES_KEPT:
            self._compiled.popitem(last=False)
        return found

    # --- the sum --------------------------------------------------------------------------------------------------

    async def _sum_up(self) -> None:
        now = self._clock.now()
        for found in await self._reviews.to_sum(now - _SETTLES, limit=_AT_ONCE):
            document = _summed(found)
            members: dict[str, JSON] = {
                "activation": found.activation.order_id,
                "policy": found.activation.scope,
                **document,
            }
            effect = SumUpActivation(
                activation=found.activation.order_id, summed_at=now, uses=found.uses, document=document
            )
            await self._record(Entry(kind="break_glass.reconciliation", at=now, members=members, effect=effect))

    def _notice(self, kind: Kind, use: UseRow, now: datetime) -> Notice:
        details = {
            "activation": use.activation,
            "intent_id": use.intent_id,
            "agent": use.agent,
            "category": use.category,
            "due_at": rfc3339(use.due_at),
        }
        notice_id = self._ids.new(ID_PREFIX)
        return of_review(kind, notice_id=notice_id, at=now, review=use.review_id, details=details)

    async def _record(self, entry: Entry) -> None:
        """Record on a commit; refused means that somebody else was first. Raises: RecordingFailed."""
        settled = await self._recorder.append(entry).settled()
        if not settled.applied:
            _log.info("%s was done by somebody else meanwhile", entry.kind)


def _named(use: UseRow) -> dict[str, JSON]:
    return {
        "review_id": use.review_id,
        "activation": use.activation,
        "intent_id": use.intent_id,
        "agent": use.agent,
        "category": use.category,
    }


def _said(policy: Policy, recorded: Recorded, *, by: Policy) -> dict[str, JSON]:
    """Return what a policy answers to a recorded intent; `by` is the one that assessed its risk then."""
    found = answer(policy, question(policy, recorded, signals_of(recorded.risk, by)))
    # Could not decide, even with all the time in the world: an error of the rules.
    decision = "error" if found.reason_code == "EVALUATION_UNAVAILABLE" else found.decision.value
    return {
        "decision": decision,
        "reason_code": found.reason_code.value,
        "determining": [*found.determining],
        "bundle": policy.digest,
    }


def _error(why: str, *, bundle: str | None = None) -> dict[str, JSON]:
    named: dict[str, JSON] = {} if bundle is None else {"bundle": bundle}
    # No table holds a NUL, and one reason that cannot be stored would hold up all that come after it.
    plain = "".join(character if character.isprintable() else " " for character in why[:_MAX_WHY])
    return {"decision": "error", "reason_code": "NOT_FOUND", "determining": [], "why": plain, **named}


def _decision(would: Mapping[str, JSON], when: str) -> JSON:
    said = would[when]
    return said["decision"] if isinstance(said, dict) else None


def _summed(found: Sum) -> dict[str, JSON]:
    activation = found.activation
    ends = [moment for moment in (activation.ended_at, activation.expires_at) if moment is not None]
    return {
        "uses": found.uses,
        "flagged": found.flagged,
        "over_cap": found.over_cap,
        "after_end": found.after_end,
        "in_force_at": _time(activation.in_force_at),
        "over_at": _time(min(ends, default=None)),
        "revoked": activation.ended_at is not None,
    }


def _time(moment: datetime | None) -> str:
    return "" if moment is None else rfc3339(moment)
