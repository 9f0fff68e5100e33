"""Closes reviews: by somebody who does not stand behind what is reviewed, with a note."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from holdfast.reasons import ReasonCode

from services.boundary import BoundaryUnavailable
from services.decision.review import CloseReview, why_not
from services.ports import Entry, StoreUnreachable
from services.settling import committed
from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Protocol

    from holdfast.reasons import Mode
    from holdfast.strict_json import JSON

    from services.boundary import Boundary
    from services.decision.review import ReviewVerdict
    from services.ports import Clock, Recorder

    class Reviewed(Protocol):
        """A use, as far as closing its review is concerned."""

        @property
        def mode(self) -> Mode:
            """Which way its token took around the evaluation."""
            ...

        @property
        def activation(self) -> str | None:
            """The order that opened the way, if one did."""
            ...

        @property
        def intent_id(self) -> str:
            """What it let pass."""
            ...

        @property
        def closed_by(self) -> str | None:
            """Who closed its review."""
            ...

        @property
        def behind(self) -> Collection[str] | None:
            """Who stands behind it, as `why_not` takes it."""
            ...

    class Reviews(Protocol):
        """Where reviews are found."""

        async def get(self, review_id: str) -> Reviewed | None:
            """Return a use by its review. Raises: StoreUnreachable."""
            ...


#: Of a bulk. The rest of the pool's connections is for live traffic.
_AT_ONCE: Final = 4


class Reviewing:
    """What an approver does with a review. Roles are checked by the caller."""

    def __init__(self, *, reviews: Reviews, recorder: Recorder, audit: Boundary, clock: Clock) -> None:
        self._reviews = reviews
        self._recorder = recorder
        self._audit = audit
        self._clock = clock

    async def close(self, review_id: str, *, by: str, verdict: ReviewVerdict, note: str) -> None:
        """Close a review, on a commit alone.

        Raises: Problem 403 for who stands behind the use, 404, 409, 503.
        """
        found = await self._closable(review_id, by)
        now = self._clock.now()
        members: dict[str, JSON] = {
            "review_id": review_id,
            "mode": found.mode.value,
            **({} if found.activation is None else {"activation": found.activation}),
            "intent_id": found.intent_id,
            "by": f"operator:{by}",
            "verdict": verdict.value,
            "note": note,
        }
        effect = CloseReview(review_id=review_id, closed_by=by, closed_at=now, verdict=verdict, note=note)
        if await self._applied(Entry(kind="review.closed", at=now, members=members, effect=effect)):
            return
        # The database asks both questions again, for somebody else may have been faster.
        await self._closable(review_id, by)
        raise Problem(409, ReasonCode.CONFLICT, "the review is not what it was; look again")

    async def close_each(
        self, review_ids: Sequence[str], *, by: str, verdict: ReviewVerdict, note: str
    ) -> list[Problem | None]:
        """Close several, a few at a time; each is closed, or has its problem."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(review_id: str) -> Problem | None:
            async with room:
                try:
                    await self.close(review_id, by=by, verdict=verdict, note=note)
                except Problem as problem:
                    return problem
            return None

        return list(await asyncio.gather(*(one(review_id) for review_id in review_ids)))

    async def _closable(self, review_id: str, by: str) -> Reviewed:
        """Return an open review that this person may close. Raises: Problem."""
        try:
            found = await self._reviews.get(review_id)
        except StoreUnreachable as error:
            detail = "the reviews cannot be read now"
            raise Problem(503, ReasonCode.SERVICE_UNAVAILABLE, detail, retry_after_s=2) from error
        if found is None:
            raise Problem(404, ReasonCode.NOT_FOUND, "there is no such review")
        if found.closed_by is not None:
            raise Problem(409, ReasonCode.CONFLICT, f"it was closed by {found.closed_by}")
        if (why := why_not(found.behind, by)) is not None:
            raise Problem(403, ReasonCode.FORBIDDEN, why)
        return found

    async def _applied(self, entry: Entry) -> bool:
        try:
            return (await committed(self._recorder, self._audit, entry)).applied
        except BoundaryUnavailable as error:
            detail = "it could not be recorded"
            raise Problem(503, ReasonCode.AUDIT_UNAVAILABLE, detail, retry_after_s=2) from error
