"""What an approver does with reviews."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from holdfast.reasons import Mode
from world import Fault, World

from services.decision.review import ReviewVerdict
from services.ports import StoreUnreachable
from services.reviewing import Reviewing
from services.submissions import Problem


@dataclass(kw_only=True)
class AUse:
    mode: Mode = Mode.OPERATOR
    activation: str | None = None
    intent_id: str = "int_1"
    closed_by: str | None = None
    behind: tuple[str, ...] | None = ("alice", "bob")


class FakeReviews:
    def __init__(self, **uses: AUse) -> None:
        self.uses = uses
        self.reachable = True
        self.asked = 0

    async def get(self, review_id: str):
        self.asked += 1
        if not self.reachable:
            raise StoreUnreachable("away")
        return self.uses.get(review_id)


class Desk:
    def __init__(self, **uses: AUse) -> None:
        self.world = World()
        self.reviews = FakeReviews(**uses)
        self.reviewing = Reviewing(
            reviews=self.reviews,
            recorder=self.world.recorder,
            audit=self.world.boundaries.audit,
            clock=self.world.clock,
        )

    async def close(self, review_id: str = "rev_1", by: str = "carol") -> int:
        try:
            await self.reviewing.close(review_id, by=by, verdict=ReviewVerdict.JUSTIFIED, note="seen")
        except Problem as problem:
            return problem.status
        return 200


async def test_a_review_is_closed_with_a_record_of_who_found_what():
    desk = Desk(rev_1=AUse(mode=Mode.FAIL_OPEN, activation="ord_1", behind=("alice",)))

    assert await desk.close() == 200

    (entry,) = desk.world.recorder.entries("review.closed")
    assert entry.members == {
        "review_id": "rev_1",
        "mode": "fail_open",
        "activation": "ord_1",
        "intent_id": "int_1",
        "by": "operator:carol",
        "verdict": "justified",
        "note": "seen",
    }
    assert (entry.effect.closed_by, entry.journal_may_release) == ("carol", False)


@pytest.mark.parametrize(
    ("use", "status"),
    [
        (AUse(behind=("carol",)), 403),
        (AUse(behind=("Carol", "bob")), 403),
        (AUse(behind=()), 403),
        (AUse(closed_by="dora"), 409),
        (None, 404),
    ],
)
async def test_who_may_not_leaves_no_record(use, status):
    desk = Desk(**({} if use is None else {"rev_1": use}))
    assert await desk.close() == status
    assert desk.world.recorder.chained == []


async def test_what_the_database_refuses_is_closed_by_nobody():
    desk = Desk(rev_1=AUse())
    desk.world.recorder.refuse_effects = True
    assert await desk.close() == 409


@pytest.mark.parametrize("fault", [Fault.DOWN, Fault.SLOW, Fault.WRONG, Fault.SILENT])
async def test_what_cannot_be_recorded_is_not_closed(fault):
    desk = Desk(rev_1=AUse())
    desk.world.recorder.fault = fault
    assert await desk.close() == 503


async def test_what_cannot_be_read_is_not_closed():
    desk = Desk(rev_1=AUse())
    desk.reviews.reachable = False
    assert await desk.close() == 503


async def test_of_many_each_has_its_own_answer_in_order():
    desk = Desk(rev_1=AUse(), rev_2=AUse(behind=("carol",)), rev_3=AUse(behind=None))
    ids = ["rev_1", "rev_2", "rev_none", "rev_3"]
    found = await desk.reviewing.close_each(ids, by="carol", verdict=ReviewVerdict.UNJUSTIFIED, note="seen")
    assert [None if problem is None else problem.status for problem in found] == [None, 403, 404, None]
    assert len(desk.world.recorder.entries("review.closed")) == 2
