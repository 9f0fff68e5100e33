"""What the drain does with one waiting intent: all of the authorizer's steps again."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING

from holdfast import strict_json
from holdfast.errors import InvalidIntent, MalformedJSON
from holdfast.intent import Intent
from holdfast.reasons import NOT_DECIDED, Cause, ReasonCode, Status

from intent_queue.drain import PoisonIntent, Postponed, Result
from services.authorizer import MovedOn
from services.judgement import Ask, WaitingIntent

if TYPE_CHECKING:
    from intent_queue.item import ClaimedItem
    from services.authorizer import Authorizer


class AuthorizingDecider:
    """The queue's decider."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    async def authorize(self, item: ClaimedItem) -> Result | Postponed:
        """Evaluate from the start and record the outcome. Raises: PoisonIntent.

        An intent that only its agent's limit stops waits until the limit lets it through, if it may wait that long.
        """
        try:
            outcome = await self._authorizer.reconsider(_waiting(item))
        except MovedOn:
            return Result.LOST
        if outcome.cause is Cause.POLICY_ERROR:
            # The failure belongs to this intent: the others must not wait for it.
            raise PoisonIntent(outcome.detail)
        if outcome.reason_code is ReasonCode.RATE_LIMITED and outcome.status is Status.QUEUED:
            # Whole seconds, rounded up: what was drained in one burst is given back in few statements.
            until = outcome.decided_at.replace(microsecond=0) + timedelta(seconds=(outcome.retry_after_s or 0) + 1)
            return Postponed(until=until)
        return Result.NOT_DECIDED if outcome.reason_code in NOT_DECIDED else Result.FINISHED

    async def expire(self, item: ClaimedItem) -> Result:
        """Record EXPIRED without evaluating. Raises: PoisonIntent."""
        try:
            outcome = await self._authorizer.end(
                _waiting(item),
                status=Status.EXPIRED,
                reason_code=ReasonCode.EXPIRED,
                detail="the time to wait was over",
            )
        except MovedOn:
            return Result.LOST
        return Result.FINISHED if outcome.status is Status.EXPIRED else Result.NOT_DECIDED


def _waiting(item: ClaimedItem) -> WaitingIntent:
    try:
        intent = Intent.from_json(strict_json.loads(item.submission))
    except (MalformedJSON, InvalidIntent) as error:
        raise PoisonIntent("the stored submission is damaged") from error
    ask = Ask(
        intent_id=item.intent_id,
        agent=item.agent,
        intent=intent,
        submission=item.submission,
        request_digest=hashlib.sha256(item.submission).hexdigest(),
        idempotency_key=None,
        received_at=item.enqueued_at,
    )
    return WaitingIntent(ask=ask, version=item.version, epoch=item.epoch, expires_at=item.expires_at)
