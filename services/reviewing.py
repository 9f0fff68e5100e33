"""Closes reviews of break-glass: by somebody who did not stand behind it, with a note."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.reasons import ReasonCode

from services.boundary import BoundaryUnavailable
from services.decision.review import CloseReview
from services.evidence import durable
from services.ports import Entry, StoreUnreachable
from services.submissions import Problem

if TYPE_CHECKING:
    from typing import Protocol

    from holdfast.strict_json import JSON

    from services.boundary import Boundary
    from services.decision.review import ReviewVerdict
    from services.ports import Clock, Pending, Recorder, Settled

    class Reviewed(Protocol):
        """A use, as far as closing its review is concerned."""

        @property
        def activation(self) -> str:
            """What it used."""
            ...

        @property
        def intent_id(self) -> str:
            """What it let pass."""
            ...

        @property
        def closed_by(self) -> str | None:
            """Who closed its review."""
            ...

    class Reviews(Protocol):
        """Where reviews are found."""

        async def get(self, review_id: str) -> Reviewed | None:
            """Return a use by its review. Raises: StoreUnreachable."""
            ...


class Reviewing:
    """What an approver does with a review. Roles are checked by the caller."""

    def __init__(self, *, reviews: Reviews, recorder: Recorder, audit: Boundary, clock: Clock) -> None:
        self._reviews = reviews
        self._recorder = recorder
        self._audit = audit
        self._clock = clock

    async def close(self, review_id: str, *, by: str, verdict: ReviewVerdict, note: str) -> None:
        """Close a review, on a commit alone.

        Raises: Problem 403 for who stands behind the activation, 404, 409, 503.
        """
        found = await self._found(review_id)
        if found.closed_by is not None:
            raise Problem(409, ReasonCode.CONFLICT, f"it was closed by {found.closed_by}")
        now = self._clock.now()
        members: dict[str, JSON] = {
            "review_id": review_id,
            "activation": found.activation,
            "intent_id": found.intent_id,
            "by": f"operator:{by}",
            "verdict": verdict.value,
            "note": note,
        }
        effect = CloseReview(review_id=review_id, closed_by=by, closed_at=now, verdict=verdict, note=note)
        if await self._applied(Entry(kind="break_glass.reviewed", at=now, members=members, effect=effect)):
            return
        # The database knows who stands behind it, and lets nobody close twice.
        found = await self._found(review_id)
        if found.closed_by is not None:
            raise Problem(409, ReasonCode.CONFLICT, f"it was closed by {found.closed_by}")
        detail = "who stands behind the activation, or behind none that is known, cannot review its use"
        raise Problem(403, ReasonCode.FORBIDDEN, detail)

    async def _found(self, review_id: str) -> Reviewed:
        try:
            found = await self._reviews.get(review_id)
        except StoreUnreachable as error:
            detail = "the reviews cannot be read now"
            raise Problem(503, ReasonCode.SERVICE_UNAVAILABLE, detail, retry_after_s=2) from error
        if found is None:
            raise Problem(404, ReasonCode.NOT_FOUND, "there is no such review")
        return found

    async def _applied(self, entry: Entry) -> bool:
        async def attempt() -> tuple[Pending, Settled]:
            pending = self._recorder.append(entry)
            return pending, await pending.settled()

        try:
            _, settled = await self._audit.call(attempt, proves=lambda answer: durable(*answer))
        except BoundaryUnavailable as error:
            detail = "it could not be recorded"
            raise Problem(503, ReasonCode.AUDIT_UNAVAILABLE, detail, retry_after_s=2) from error
        return settled.applied
