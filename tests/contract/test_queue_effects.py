"""What operators change about a waiting intent: the same of the real database and of the one in memory."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest
from contract.test_audit_sink import Memory, Real, postgres
from fakes.recording_entries import AT, Stream, move_intent, open_intent, queue_row, waiting_intent

from services.decision.approvals import Approval
from services.queue_effects import ApproveIntent, ReorderIntent, RequeueIntent
from services.recording.effects import EffectMalformed, encode

__all__ = ["postgres"]

BUNDLE = "sha256:" + "b" * 64


class MemoryRows(Memory):
    """Rows of the queue and approvals, from behind."""

    async def entry(self, intent_id):
        row = self.database.tables.queue[intent_id]
        return row["state"], row["lane"], row["epoch"]

    async def version(self, intent_id):
        return self.database.tables.intents[intent_id]["version"]

    async def lane_shown(self, intent_id):
        return self.database.tables.intents[intent_id]["envelope"]["queue"]["lane"]

    async def attempts(self, intent_id):
        return self.database.tables.queue[intent_id].get("attempts", 0)

    async def approved(self):
        return {(row["intent_id"], row["approved_by"]) for row in self.database.tables.approvals.values()}

    async def set_state(self, intent_id, state):
        self.database.tables.queue[intent_id] |= {"state": state, "attempts": 5}


class RealRows(Real):
    """The same of PostgreSQL."""

    async def entry(self, intent_id):
        row = await self._connection.fetchrow(
            "SELECT state, lane, epoch FROM queue_entries WHERE intent_id = $1", intent_id
        )
        return tuple(row)

    async def version(self, intent_id):
        return await self._connection.fetchval("SELECT version FROM intents WHERE intent_id = $1", intent_id)

    async def lane_shown(self, intent_id):
        return await self._connection.fetchval(
            "SELECT envelope->'queue'->>'lane' FROM intents WHERE intent_id = $1", intent_id
        )

    async def attempts(self, intent_id):
        return await self._connection.fetchval("SELECT attempts FROM queue_entries WHERE intent_id = $1", intent_id)

    async def approved(self):
        rows = await self._connection.fetch("SELECT intent_id, approved_by FROM approvals")
        return {tuple(row) for row in rows}

    async def set_state(self, intent_id, state):
        await self._connection.execute(
            "UPDATE queue_entries SET state = $2, attempts = 5 WHERE intent_id = $1", intent_id, state
        )


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
async def behind(request):
    if request.param == "memory":
        yield MemoryRows()
        return
    url = await request.getfixturevalue("postgres").database()
    real = RealRows(url, await asyncpg.connect(url))
    yield real
    await real.close()


@pytest.fixture
async def sink(behind):
    connected = behind.sink()
    await connected.connect("me")
    yield connected
    await connected.close()


@pytest.fixture
def stream():
    return Stream()


def approve(intent_id="int_1", version=1, *, by="alice", number=1, **changes) -> ApproveIntent:
    values = {
        "approval_id": f"apr_{number}",
        "intent_id": intent_id,
        "act_hash": "sha-256:" + "A" * 43,
        "bundle": BUNDLE,
        "approved_by": by,
        "roles": ("finance",),
        "approved_at": AT,
        "note": "seen",
    }
    return ApproveIntent(approval=Approval(**(values | changes)), expect_version=version)


def held(intent_id="int_1"):
    return waiting_intent(intent_id, status="held", queue=queue_row("held"), envelope={"queue": {"lane": "normal"}})


def reorder(version=1, lane=1) -> ReorderIntent:
    return ReorderIntent(intent_id="int_1", expect_version=version, lane=lane, lane_name="critical", rank_at=AT, at=AT)


async def test_an_approval_is_stored_and_raises_the_version(sink, stream, behind):
    assert await sink.commit_batch(stream.batch(held(), approve())) == frozenset()

    assert await behind.approved() == {("int_1", "alice")}
    assert await behind.version("int_1") == 2
    assert await behind.queue_state("int_1") == "held"


async def test_an_approval_of_what_moved_is_refused(sink, stream, behind):
    assert await sink.commit_batch(stream.batch(held(), approve(version=2))) == {1}
    assert await sink.commit_batch(stream.batch(move_intent(), approve(version=2))) == {1}
    assert await sink.commit_batch(stream.batch(approve("int_unknown"))) == {0}

    assert await behind.approved() == set()


async def test_a_person_approves_once_and_another_on_the_next_version(sink, stream, behind):
    refused = await sink.commit_batch(
        stream.batch(
            held(), approve(), approve(version=2, number=2), approve(version=2, by="bob", number=3), approve(number=4)
        )
    )

    assert refused == {2, 4}
    assert await behind.approved() == {("int_1", "alice"), ("int_1", "bob")}
    assert await behind.version("int_1") == 3


@pytest.mark.parametrize("state", ["parked", "claimable"])
async def test_what_does_not_wait_for_a_decision_is_not_approved(sink, stream, behind, state):
    await sink.commit_batch(stream.batch(held()))
    await behind.set_state("int_1", state)

    assert await sink.commit_batch(stream.batch(approve())) == {0}
    assert await behind.version("int_1") == 1


async def test_what_is_over_time_is_not_approved(sink, stream, behind):
    late = approve(approved_at=AT + timedelta(hours=1))

    assert await sink.commit_batch(stream.batch(held(), late)) == {1}


async def test_an_approval_takes_a_lease_away_so_that_the_worker_settles_nothing(sink, stream, behind):
    await sink.commit_batch(stream.batch(waiting_intent()))
    await behind.lease("int_1", 7)

    assert await sink.commit_batch(stream.batch(approve())) == frozenset()

    assert await behind.entry("int_1") == ("waiting", 2, 8)
    assert await sink.commit_batch(stream.batch(move_intent(epoch=7))) == {0}
    assert await sink.commit_batch(stream.batch(move_intent(version=2, epoch=7))) == {0}


async def test_a_reorder_moves_the_entry_and_what_its_agent_is_shown(sink, stream, behind):
    assert await sink.commit_batch(stream.batch(held(), reorder(), reorder())) == {2}

    assert await behind.entry("int_1") == ("held", 1, 0)
    assert await behind.lane_shown("int_1") == "critical"
    assert await behind.version("int_1") == 2


async def test_only_what_is_parked_is_queued_again(sink, stream, behind):
    again = RequeueIntent(intent_id="int_1", expect_version=1, at=AT)
    assert await sink.commit_batch(stream.batch(held(), again)) == {1}
    await behind.set_state("int_1", "parked")

    assert await sink.commit_batch(stream.batch(again)) == frozenset()
    assert await behind.queue_state("int_1") == "waiting"
    assert await behind.attempts("int_1") == 0
    assert await behind.version("int_1") == 2


async def test_a_row_that_another_has_its_hands_on_refuses_at_once(sink, stream, behind):
    """An effect that waited could wait for an effect that waits for it."""
    if isinstance(behind, MemoryRows):
        pytest.skip("only a real database locks")
    await sink.commit_batch(stream.batch(held(), open_intent("int_2")))
    for table in ("intents", "queue_entries"):
        hold = behind._connection.transaction()
        await hold.start()
        await behind._connection.execute(f"SELECT FROM {table} WHERE intent_id = 'int_1' FOR UPDATE")

        assert await sink.commit_batch(stream.batch(approve(number=1))) == {0}, table
        await hold.rollback()
    assert await sink.commit_batch(stream.batch(approve(number=2))) == frozenset()


@pytest.mark.parametrize(
    "effect",
    [
        approve(note="x" * 2001),
        approve(bundle="sha256:short"),
        approve(by=""),
        approve(roles=("",)),
        approve(version=-1),
        reorder(lane=4),
        reorder(version=2**31),
    ],
)
def test_what_no_column_holds_is_refused_before_it_is_chained(effect):
    with pytest.raises(EffectMalformed):
        encode(effect)
