"""What follows a token around the evaluation, on one worker at a time: reminders, what policy would have said, sums.

Each step is one record with its effect, and the effect is refused where another worker was first: two leaders for a
moment do nothing twice. Source: design 1 and 9, docs/reviews.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from holdfast.reasons import Mode

from services.decision.approvals import asked_by
from services.decision.finding import BundleInvalid
from services.decision.policy import Request
from services.decision.replay import answer, question, signals_of
from services.decision.review import (
    ReconcileUse,
    RemindPile,
    RemindReview,
    SumUpActivation,
    pile_reminder,
    reminder,
)
from services.notices.notice import ID_PREFIX
from services.opening_notices import Told, of_flagged, of_pile, of_review
from services.outcome import rfc3339
from services.ports import Entry, RecordingFailed, StoreUnreachable
from services.postgres.decisions import DecisionDamaged
from services.publishing import PublishingFailed, compiled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from holdfast.strict_json import JSON

    from services.decision.policy import Policy
    from services.decision.replay import Recorded
    from services.decision.review import Reminder
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
            await self._remind_of_pile()
            await self._reconcile()
            await self._sum_up()
        except (StoreUnreachable, RecordingFailed) as error:
            _log.info("what follows a use waits: %s", error)

    # --- reminders ------------------------------------------------------------------------------------------------

    async def _remind(self) -> None:
        now = self._clock.now()
        found = [
            (use, due)
            for use in await self._reviews.alone(limit=_MAX_OPEN)
            if (due := reminder(used_at=use.used_at, due_at=use.due_at, reminded_at=use.reminded_at, now=now))
        ]
        for use, due in found[:_AT_ONCE]:
            members: dict[str, JSON] = {**_named(use), **_times(due, use.due_at)}
            effect = RemindReview(review_id=use.review_id, reminded_at=now, expected=use.reminded_at)
            notices = (self._notice(_told(due), use, now),)
            await self._record(Entry(kind="review.reminded", at=now, members=members, effect=effect, notices=notices))

    async def _remind_of_pile(self) -> None:
        now = self._clock.now()
        pile = await self._reviews.pile(now)
        if pile is None or (due := pile_reminder(pile, now)) is None:
            return
        members: dict[str, JSON] = {
            "mode": Mode.FAIL_OPEN.value,
            "reviews": pile.reviews,
            "reviews_overdue": pile.overdue,
            "first_review_id": pile.first_review_id,
            **_times(due, pile.first_due_at),
        }
        effect = RemindPile(reminded_at=now, expected=pile.reminded_at)
        notices = (of_pile(_told(due), pile, notice_id=self._ids.new(ID_PREFIX), at=now),)
        await self._record(Entry(kind="review.reminded", at=now, members=members, effect=effect, notices=notices))

    # --- what policy would have said ------------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        judged = [(use, await self._would(use)) for use in await self._reviews.unreconciled(limit=_AT_ONCE)]
        # Whatever either bundle would not have allowed is for a human to look at, and so is what nobody can tell.
        flagged = {
            use.review_id for use, would in judged if any(_decision(would, when) != "allow" for when in ("then", "now"))
        }
        # What failed open may be much: one notice for all that is judged at once, beside the first.
        fell = [use for use, _ in judged if use.review_id in flagged and use.mode is Mode.FAIL_OPEN]
        for use, would in judged:
            now = self._clock.now()
            flag = use.review_id in flagged
            members: dict[str, JSON] = {**_named(use), "would": would, "flagged": flag}
            effect = ReconcileUse(review_id=use.review_id, reconciled_at=now, would=would, flagged=flag)
            notices: tuple[Notice, ...] = ()
            if flag and use.mode is not Mode.FAIL_OPEN:
                notices = (self._notice(Told.FLAGGED, use, now),)
            elif fell and use is fell[0]:
                notice_id = self._ids.new(ID_PREFIX)
                notices = (
                    of_flagged(len(fell), notice_id=notice_id, at=now, review=use.review_id, details=_details(use)),
                )
            await self._record(Entry(kind="review.reconciled", at=now, members=members, effect=effect, notices=notices))

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
        # A hold that these people lift is what they approved; a rule's no is nobody's to lift.
        people = (use.behind or ()) if use.mode is Mode.OPERATOR else ()
        try:
            policy = await self._policy(recorded.bundle)
        except (PublishingFailed, BundleInvalid) as error:
            why = f"its bundle cannot be read: {error}"
            return {
                "then": _error(why, bundle=recorded.bundle),
                "now": _said(current, recorded, by=current, people=people),
            }
        return {
            "then": _said(policy, recorded, by=policy, people=people),
            "now": _said(current, recorded, by=policy, people=people),
        }

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

    def _notice(self, told: Told, use: UseRow, now: datetime) -> Notice:
        return of_review(
            told, use.mode, notice_id=self._ids.new(ID_PREFIX), at=now, review=use.review_id, details=_details(use)
        )

    async def _record(self, entry: Entry) -> None:
        """Record on a commit; refused means that somebody else was first. Raises: RecordingFailed."""
        settled = await self._recorder.append(entry).settled()
        if not settled.applied:
            _log.info("%s was done by somebody else meanwhile", entry.kind)


def _named(use: UseRow) -> dict[str, JSON]:
    return {
        "review_id": use.review_id,
        "mode": use.mode.value,
        **({} if use.activation is None else {"activation": use.activation}),
        "intent_id": use.intent_id,
        "agent": use.agent,
        "category": use.category,
    }


def _times(due: Reminder, due_at: datetime) -> dict[str, JSON]:
    return {"since": rfc3339(due.since), "due_at": rfc3339(due_at), "overdue": due.overdue}


def _told(due: Reminder) -> Told:
    return Told.OVERDUE if due.overdue else Told.DUE


def _details(use: UseRow) -> dict[str, str]:
    return {
        **({} if use.activation is None else {"activation": use.activation}),
        "intent_id": use.intent_id,
        "agent": use.agent,
        "category": use.category,
        "due_at": rfc3339(use.due_at),
    }


def _said(policy: Policy, recorded: Recorded, *, by: Policy, people: Sequence[str]) -> dict[str, JSON]:
    """Return what a policy answers to a recorded intent that `people` approved; `by` assessed its risk then."""
    asked = question(policy, recorded, signals_of(recorded.risk, by))
    if isinstance(asked, Request):
        agent, intent = recorded.agent, recorded.intent
        counted = (name for name in people if not asked_by(name, policy=policy, agent=agent, intent=intent))
        asked = replace(asked, approvals=tuple(counted))
    found = answer(policy, asked)
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
