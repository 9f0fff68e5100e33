"""What follows a token around the evaluation, on a real PostgreSQL: reminders, judgement after the fact, the sum."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import orjson
import pytest
from integration.opening_rows import a_use, activated, applied, close, fell_open, imported, uses
from world import World

from services.aftermath import Aftermath
from services.decision.review import ReconcileUse, RemindReview, SumUpActivation
from services.postgres.bundles import PostgresBundles
from services.postgres.decisions import PostgresDecisions
from services.postgres.reviews import PostgresReviews
from services.provision import open_lane
from services.system import SystemClock, SystemIds

pytestmark = pytest.mark.integration
pytest_plugins = ["integration.stored"]


@pytest.fixture
async def lane(url, tmp_path):
    async with open_lane(url, tmp_path, name="glass") as found:
        yield found


class MovedClock(SystemClock):
    """The system's clock, ahead by as much as a test says."""

    ahead = timedelta(0)

    def now(self):
        return super().now() + self.ahead


@pytest.fixture
def clock():
    return MovedClock()


@pytest.fixture
def aftermath(pool, lane, clock):
    return Aftermath(
        reviews=PostgresReviews(pool),
        decisions=PostgresDecisions(pool),
        bundles=PostgresBundles(pool),
        policies=World().policies,
        recorder=lane,
        clock=clock,
        ids=SystemIds(),
    )


async def records(url: str, kind: str) -> list[dict]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT body FROM audit_records ORDER BY stream, seq")
    await connection.close()
    bodies = [orjson.loads(row["body"]) for row in rows]
    return [body for body in bodies if body["kind"] == kind]


async def notices(url: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT kind, severity, dedupe_key FROM notices ORDER BY notice_id")
    await connection.close()
    return rows


async def test_reminders_come_when_they_are_due_and_once(url, lane, aftermath, clock):
    activation = await activated(lane)
    assert await applied(lane, a_use(activation))

    for hours in (0, 1, 12, 23, 24, 24.5, 25, 26):
        clock.ahead = timedelta(hours=hours, seconds=1)
        await aftermath.tick()
        await aftermath.tick()

    reminded = await records(url, "review.reminded")
    assert [record["overdue"] for record in reminded] == [False, False, True, True, True]
    told = [(notice["kind"], notice["severity"]) for notice in await notices(url)]
    assert told[0] == ("break_glass.review_due", "warning")
    assert told[-1] == ("break_glass.review_overdue", "critical")
    assert sum(kind.startswith("break_glass.review") for kind, _ in told) == 5


async def test_however_much_failed_open_people_are_told_once_an_hour(url, lane, aftermath, clock):
    for _ in range(5):
        assert await applied(lane, fell_open())

    for hours in (0, 0.2, 0.4, 12, 24, 24.5, 25):
        clock.ahead = timedelta(hours=hours, seconds=1)
        await aftermath.tick()
        if hours == 0.2:
            assert await applied(lane, fell_open())

    reminded = await records(url, "review.reminded")
    assert [(record["mode"], record["reviews"], record["overdue"]) for record in reminded] == [
        ("fail_open", 5, False),
        ("fail_open", 6, False),
        ("fail_open", 6, True),
        ("fail_open", 6, True),
    ]
    told = [notice for notice in await notices(url) if notice["kind"] != "review.flagged"]
    assert [notice["kind"] for notice in told] == ["review.due"] * 2 + ["review.overdue"] * 2
    assert {notice["dedupe_key"] for notice in told} == {"review:fail_open"}


async def test_a_closed_review_reminds_nobody(url, lane, pool, aftermath):
    activation = await activated(lane)
    assert await applied(lane, a_use(activation))
    (use,) = await uses(pool, activation)
    assert await applied(lane, close(use.review_id, "carol"))
    await aftermath.tick()
    assert await records(url, "review.reminded") == []


async def test_a_use_that_nobody_can_judge_any_more_is_flagged_once(url, lane, pool, aftermath):
    activation = await activated(lane)
    assert await applied(lane, a_use(activation))

    await aftermath.tick()
    await aftermath.tick()

    (record,) = await records(url, "review.reconciled")
    assert record["flagged"] is True
    assert {record["would"]["then"]["decision"], record["would"]["now"]["decision"]} == {"error"}
    (use,) = await uses(pool, activation)
    assert use.flagged


async def test_what_is_over_is_summed_up_once_and_again_when_more_of_it_is_heard(url, lane, aftermath, clock):
    activation = await activated(lane)
    pending = await activated(lane, people=2)
    assert await applied(lane, a_use(activation))
    await aftermath.tick()
    assert await records(url, "break_glass.reconciliation") == []

    clock.ahead = timedelta(minutes=11)
    await aftermath.tick()
    await aftermath.tick()
    assert await imported(url, a_use(activation), a_use(activation)) == frozenset()
    await aftermath.tick()

    summed = await records(url, "break_glass.reconciliation")
    assert [(record["activation"], record["uses"], record["over_cap"]) for record in summed] == [
        (activation, 1, 0),
        (activation, 3, 1),
    ]
    assert pending not in {record["activation"] for record in summed}


async def test_two_leaders_for_a_moment_do_nothing_twice(lane, pool):
    activation = await activated(lane)
    assert await applied(lane, a_use(activation))
    (use,) = await uses(pool, activation)
    now = SystemClock().now()
    remind = RemindReview(review_id=use.review_id, reminded_at=now, expected=None)
    judge = ReconcileUse(review_id=use.review_id, reconciled_at=now, would={}, flagged=False)
    add = SumUpActivation(activation=activation, summed_at=now, uses=1, document={})

    for effect in (remind, judge, add):
        assert [await applied(lane, effect), await applied(lane, effect)] == [True, False]
