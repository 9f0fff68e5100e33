"""Operators and workers on the same intents, on a real PostgreSQL: one outcome each, and the operator's word stands."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter

import orjson
import pytest
from fakes.changes import NoChanges
from holdfast.reasons import Mode, Status
from holdfast.token import verify_signature
from integration.recording_postgres import Postgres
from world import BUNDLE, World

from intent_queue.drain import Result
from intent_queue.store import QueueStore
from services.authorizer import Authorizer
from services.draining import AuthorizingDecider
from services.hub import Hub
from services.postgres.intents import PostgresIntents
from services.postgres.pool import ReadPool
from services.postgres.queued import PostgresQueued
from services.postgres.sink import PostgresSink
from services.recording.journal import Journal
from services.recording.lane import Lane, LaneSettings
from services.submissions import Problem, Submissions
from services.system import SystemClock, SystemIds
from services.tending import Tending

pytestmark = pytest.mark.integration

ROOMY = {
    **BUNDLE,
    "rules/refunds.cedar": BUNDLE["rules/refunds.cedar"].replace(b'"finance")', b'"finance:2")'),
    "holdfast.yaml": BUNDLE["holdfast.yaml"].replace(b"max_per_agent: 3, max_total: 5", b"max_per_agent: 9999"),
}
SETTINGS = LaneSettings(hedge_s=1.0, commit_deadline_s=5.0)


@pytest.fixture(scope="module")
def server():
    postgres = Postgres()
    yield postgres
    postgres.stop()


class Process:
    """One process's parts on the shared database: an API's, and a worker's."""

    def __init__(self, name: str, pool: ReadPool, url: str, directory) -> None:
        clock, ids = SystemClock(), SystemIds()
        self.queue = QueueStore(pool.pool)
        self.intents = PostgresIntents(pool, self.queue)
        self.queued = PostgresQueued(pool, self.intents)
        self.lane = Lane(PostgresSink(url), Journal(directory), clock, ids, instance=name, settings=SETTINGS)
        self.world = World(deadline_s=10.0, bundle=ROOMY, approvals=self.queued)
        world = self.world
        self.authorizer = Authorizer(
            issuer="http://holdfast.test",
            policies=world.policies,
            orders=world.orders,
            uses=world.glass,
            classifier=world.classifier,
            evaluator=world.evaluator,
            approvals=self.queued,
            activity=world.authorizer._activity,
            waiting=world.waiting,
            places=self.intents,
            recorder=self.lane,
            signer=world.signer,
            boundaries=world.boundaries,
            clock=clock,
            ids=ids,
        )
        self.submissions = Submissions(
            authorizer=self.authorizer,
            store=self.intents,
            clock=clock,
            ids=ids,
            on_parked=lambda: None,
            hub=Hub(NoChanges()),
            in_journal=lambda: self.lane.in_journal,
        )
        self.tending = Tending(
            authorizer=self.authorizer,
            queued=self.queued,
            policies=world.policies,
            activity=world.authorizer._activity,
            recorder=self.lane,
            audit=world.boundaries.audit,
            clock=clock,
            ids=ids,
            on_waiting=lambda: None,
        )
        self.decider = AuthorizingDecider(self.authorizer)

    async def park(self, number: int, *, cents: int) -> str:
        intent = self.world.refund(cents=cents + number)
        answer = await self.submissions.submit("support", intent, f"key-{cents}-{number}")
        return answer.envelope["intent_id"]

    def no_evaluation(self) -> None:
        self.world.boundaries.evaluation.force_open("a test")


@pytest.fixture
async def processes(server, tmp_path):
    url = await server.database()
    pool = ReadPool(url)
    await pool.start()
    started = [Process(name, pool, url, tmp_path / name) for name in ("api", "worker")]
    for process in started:
        await process.lane.start()
    yield started
    for process in started:
        await process.lane.stop()
    await pool.close()


async def log(pool) -> list[dict]:
    async with pool.connection() as connection:
        rows = await connection.fetch("SELECT body FROM audit_records ORDER BY stream, seq")
    return [orjson.loads(row["body"]) for row in rows]


async def finals(pool) -> Counter:
    """Return how many decisions that stand brought each intent into a final status."""
    records = await log(pool)
    voided = {
        (record["void"].get("stream", record["stream"]), record["void"]["seq"])
        for record in records
        if "void" in record
    }
    ended = ("granted", "denied", "cancelled", "expired", "superseded")
    return Counter(
        record["intent_id"]
        for record in records
        if record["kind"] == "decision"
        and record["status"] in ended
        and (record["stream"], record["seq"]) not in voided
    )


async def seen(tending, intent_id) -> dict:
    case = await tending.look(intent_id)
    return {"version": case.queued.stored.version, "act_hash": case.act_hash, "bundle": case.policy.digest}


async def test_a_denial_beats_the_worker_that_holds_the_lease(processes):
    api, worker = processes
    api.no_evaluation()
    intent_id = await api.park(1, cents=4_200)
    [item] = await worker.queue.claim(1, "worker")

    await api.tending.deny(intent_id, by="bob", version=item.version, note="no")

    assert await worker.decider.authorize(item) is Result.LOST
    stored = await api.intents.get(intent_id)
    assert (stored.status, stored.reason_code) == ("denied", "OPERATOR_DENIED")
    assert await finals(api.queued._pool) == {intent_id: 1}


@pytest.mark.parametrize("action", ["approve", "reprioritize"])
async def test_what_an_operator_changes_a_worker_settles_only_on_a_new_lease(processes, action):
    api, worker = processes
    api.no_evaluation()
    intent_id = await api.park(1, cents=4_200)
    [item] = await worker.queue.claim(1, "worker")

    if action == "approve":
        await api.tending.approve(intent_id, by="carol", note="seen", **await seen(api.tending, intent_id))
    else:
        await api.tending.reprioritize(intent_id, by="bob", version=item.version, lane=1, note=None)

    assert await worker.decider.authorize(item) is Result.LOST
    assert (await api.intents.get(intent_id)).status == "queued"
    [again] = await worker.queue.claim(1, "worker")
    assert (again.intent_id, again.attempts, again.epoch) == (intent_id, 0, item.epoch + 2)
    assert await worker.decider.authorize(again) is Result.FINISHED
    assert (await api.intents.get(intent_id)).status == "claimable"


async def test_two_approvals_at_once_both_count(processes):
    api, other = processes
    intent_id = await api.park(1, cents=60_000)
    both = await seen(api.tending, intent_id)

    async def approve(process, by):
        for _ in range(20):
            try:
                return await process.tending.approve(intent_id, by=by, note="seen", **both)
            except Problem as problem:
                both["version"] = problem.members["version"]
        raise TimeoutError

    await asyncio.gather(approve(api, "alice"), approve(other, "bob"))

    stored = await api.intents.get(intent_id)
    assert stored.status == "claimable"
    answer = await api.submissions.claim("support", intent_id)
    claims = verify_signature(answer.envelope["token"], api.world.signer.verify_keys())
    assert len(set(claims.apr.split(","))) == 2


async def test_operator_mode_reads_its_approvals_from_the_database(processes):
    api, _ = processes
    api.no_evaluation()
    intent_id = await api.park(1, cents=4_200)
    for by in ("carol", "dave"):
        tended = await api.tending.approve(intent_id, by=by, note="seen", **await seen(api.tending, intent_id))

    assert (tended.outcome.status, tended.outcome.mode) == (Status.CLAIMABLE, Mode.OPERATOR)
    answer = await api.submissions.claim("support", intent_id)
    assert verify_signature(answer.envelope["token"], api.world.signer.verify_keys()).mode == "operator"


class Race:
    """What operators, a worker and an agent do at once, and what operators were told."""

    def __init__(self, api: Process, worker: Process) -> None:
        self.api, self.worker = api, worker
        self.answered: dict[str, str] = {}
        self.refused: set[int] = set()

    async def operate(self, intent_id, action) -> None:
        tending = self.api.tending
        try:
            now = await seen(tending, intent_id)
            if action == "approve":
                await tending.approve(intent_id, by="carol", note="seen", **now)
            elif action == "reprioritize":
                await tending.reprioritize(intent_id, by="bob", version=now["version"], lane=1, note=None)
            else:
                await getattr(tending, action)(intent_id, by="bob", version=now["version"], note="no")
                self.answered[intent_id] = action
        except Problem as problem:
            self.refused.add(problem.status)

    async def work(self) -> set[Result]:
        results = set()
        while items := await self.worker.queue.claim(7, "worker"):
            results |= set(await asyncio.gather(*(self.worker.decider.authorize(item) for item in items)))
        return results

    async def claim(self, intent_id) -> None:
        for _ in range(5):
            with contextlib.suppress(Problem):
                await self.api.submissions.claim("support", intent_id)
            await asyncio.sleep(0.01)


async def test_racing_operators_workers_and_agents_leave_each_intent_one_outcome(processes):
    """Every deny and cancel that was answered with success stands, whatever ran beside it."""
    api, worker = processes
    api.no_evaluation()
    ids = [await api.park(n, cents=4_200) for n in range(60)]
    race = Race(api, worker)

    actions = itertools.cycle(["deny", "approve", "cancel", "reprioritize"])
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        working = tasks.create_task(race.work())
        for intent_id, action in zip(ids, actions, strict=False):
            tasks.create_task(race.operate(intent_id, action))
            tasks.create_task(race.claim(intent_id))
    async with asyncio.timeout(120):
        results = working.result() | await race.work()

    assert results <= {Result.FINISHED, Result.LOST}
    assert race.refused <= {403, 409}
    stored = {intent_id: await api.intents.get(intent_id) for intent_id in ids}
    final = {"deny": "denied", "cancel": "cancelled"}
    assert race.answered
    for intent_id, action in race.answered.items():
        assert stored[intent_id].status == final[action]
    counted = await finals(api.queued._pool)
    for intent_id, one in stored.items():
        assert one.status in {"denied", "cancelled", "claimable", "granted"}
        assert counted[intent_id] == (one.status != "claimable"), one
