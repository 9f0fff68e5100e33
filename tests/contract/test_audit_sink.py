"""What a lane may expect of the database that holds the log: the same of the real one and of the one in memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest
from fakes.recording import Fault, MemoryDatabase, MemorySink
from fakes.recording_entries import (
    AT,
    Stream,
    consume,
    move_intent,
    notice,
    open_intent,
    outcome,
    queue_row,
    waiting_intent,
)
from integration.recording_postgres import Postgres

from services.ports import PutCredential, PutNotice, PutOperator, Superseded
from services.postgres.sink import PostgresSink
from services.recording.effects import REFUSE, EncodedEffect, close_refusal, encode, encode_all
from services.recording.sink import Fork, Rejected, SinkFailed


class Memory:
    """The database in memory, from behind."""

    def __init__(self) -> None:
        self.database = MemoryDatabase()

    def sink(self) -> MemorySink:
        return MemorySink(self.database)

    async def lease(self, intent_id: str, epoch: int) -> None:
        self.database.tables.queue[intent_id] |= {"state": "leased", "epoch": epoch}

    async def queue_state(self, intent_id: str) -> str | None:
        return self.database.tables.queue.get(intent_id, {}).get("state")

    async def status(self, intent_id: str) -> str | None:
        return self.database.tables.intents.get(intent_id, {}).get("status")

    async def count(self, stream: str) -> int:
        return len(self.database.tables.records.get(stream, []))

    async def notices(self) -> dict[str, str | None]:
        return {name: row["origin"] for name, row in sorted(self.database.tables.notices.items())}

    async def hang(self, sink: MemorySink, batch) -> asyncio.Task:
        self.database.faults.append(Fault.HANG)
        return asyncio.create_task(sink.commit_batch(batch))

    async def end_connections(self) -> None:
        self.database.restart()

    async def close(self) -> None:
        pass


class Real:
    """PostgreSQL, from behind."""

    def __init__(self, url: str, connection: asyncpg.Connection) -> None:
        self._url = url
        self._connection = connection

    def sink(self) -> PostgresSink:
        return PostgresSink(self._url)

    async def lease(self, intent_id: str, epoch: int) -> None:
        await self._connection.execute(
            "UPDATE queue_entries SET state = 'leased', epoch = $2 WHERE intent_id = $1", intent_id, epoch
        )

    async def queue_state(self, intent_id: str) -> str | None:
        return await self._connection.fetchval("SELECT state FROM queue_entries WHERE intent_id = $1", intent_id)

    async def status(self, intent_id: str) -> str | None:
        return await self._connection.fetchval("SELECT status FROM intents WHERE intent_id = $1", intent_id)

    async def count(self, stream: str) -> int:
        return await self._connection.fetchval("SELECT count(*) FROM audit_records WHERE stream = $1", stream)

    async def notices(self) -> dict[str, str | None]:
        rows = await self._connection.fetch("SELECT notice_id, origin FROM notices ORDER BY notice_id")
        return {row["notice_id"]: row["origin"] for row in rows}

    async def hang(self, sink: PostgresSink, batch) -> asyncio.Task:
        """Let the commit wait for a lock on the table, as it would for a stopped backend."""
        self._holding = self._connection.transaction()
        await self._holding.start()
        await self._connection.execute("LOCK audit_records IN ACCESS EXCLUSIVE MODE")
        task = asyncio.create_task(sink.commit_batch(batch))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'audit_records'::regclass"
        while await self._connection.fetchval(waiting) == 0:  # noqa: ASYNC110 - only the database knows
            await asyncio.sleep(0)
        return task

    async def end_connections(self) -> None:
        await self._connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'holdfast-lane-%' AND datname = current_database()"
        )

    async def close(self) -> None:
        await self._connection.close()


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.integration)])
async def behind(request):
    if request.param == "memory":
        yield Memory()
        return
    url = await request.getfixturevalue("postgres").database()
    real = Real(url, await asyncpg.connect(url))
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


# --- records ----------------------------------------------------------------------------------------------------------


async def test_a_batch_is_stored_in_order_and_read_back_by_place(sink, stream, behind):
    first, second = stream.batch(None, None), stream.batch(None)
    assert await sink.commit_batch(first) == frozenset()
    assert await sink.commit_batch(second) == frozenset()

    assert [await sink.hash_at(stream.name, n) for n in range(4)] == [
        *(row.hash.hex() for row in (*first.rows, *second.rows)),
        None,
    ]
    assert await behind.count(stream.name) == 3


async def test_a_batch_that_leaves_a_gap_is_refused_whole(sink, stream, behind):
    await sink.commit_batch(stream.batch())
    stream.batch()
    with pytest.raises(Fork):
        await sink.commit_batch(stream.batch(open_intent()))
    assert await behind.count(stream.name) == 1
    assert await behind.status("int_1") is None, "no state changes without its record"


async def test_a_batch_that_is_stored_already_is_refused_unless_recovering(sink, stream, behind):
    batch = stream.batch(None, open_intent())
    await sink.commit_batch(batch)
    with pytest.raises(SinkFailed):
        await sink.commit_batch(batch)
    assert await sink.commit_batch(_recovering(batch)) == frozenset()
    assert await behind.count(stream.name) == 2


async def test_recovering_stores_what_is_missing_after_what_is_there(sink, behind):
    short, long = Stream(), Stream()
    await sink.commit_batch(short.batch(None, open_intent("int_1")))
    refused = await sink.commit_batch(
        _recovering(long.batch(None, open_intent("int_1"), open_intent("int_2"), open_intent("int_1")))
    )
    assert await behind.count(short.name) == 4
    assert await behind.status("int_2") == "denied"
    assert refused == {3}, "only the effects of what is new are applied"


async def test_recovering_over_another_history_is_a_fork(sink, behind):
    ours, theirs = Stream(), Stream(lane="other")
    await sink.commit_batch(theirs.batch(None, None))
    with pytest.raises(Fork):
        await sink.commit_batch(ours.batch(None, None, recovering=True))
    assert await behind.count(ours.name) == 2


async def test_a_batch_behind_another_history_is_a_fork(sink):
    ours, theirs = Stream(), Stream(lane="other")
    ours.batch()
    await sink.commit_batch(theirs.batch())
    with pytest.raises(Fork):
        await sink.commit_batch(ours.batch())
    with pytest.raises(Fork):
        await sink.commit_batch(ours.batch(recovering=True))


async def test_recovering_behind_records_that_the_database_lost_is_a_fork(sink, stream):
    await sink.commit_batch(stream.batch())
    stream.batch()
    with pytest.raises(Fork):
        await sink.commit_batch(stream.batch(recovering=True))


async def test_a_hash_that_is_not_of_its_body_is_refused(sink, stream, behind):
    batch = stream.batch()
    wrong = type(batch.rows[0])(seq=0, hash=bytes(32), body=batch.rows[0].body)
    with pytest.raises(Fork):
        await sink.commit_batch(_with(batch, rows=(wrong,)))
    assert await behind.count(stream.name) == 0


async def test_without_a_connection_nothing_is_stored_and_nothing_is_answered(behind, stream):
    sink = behind.sink()
    with pytest.raises(SinkFailed):
        await sink.commit_batch(stream.batch())
    with pytest.raises(SinkFailed):
        await sink.hash_at(stream.name, 0)


async def test_after_abandon_a_commit_under_way_raises_and_nothing_else_is_taken(behind, sink, stream):
    await sink.commit_batch(stream.batch())
    under_way = await behind.hang(sink, stream.batch())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sink.abandon()
    async with asyncio.timeout(5):
        with pytest.raises((SinkFailed, ConnectionError)):
            await under_way
    with pytest.raises(SinkFailed):
        await sink.commit_batch(stream.batch())
    if isinstance(behind, Real):
        await behind._holding.rollback()


async def test_a_connection_that_ends_while_nobody_asks_is_told_and_one_that_was_abandoned_is_not(behind, sink):
    lost = asyncio.Event()
    sink.on_lost = lost.set
    sink.abandon()
    await asyncio.sleep(0.05)
    assert not lost.is_set()
    await sink.connect("me")
    await asyncio.sleep(0.05)
    assert not lost.is_set(), "nor is the one before it"

    await behind.end_connections()

    async with asyncio.timeout(10):
        await lost.wait()
    with pytest.raises(SinkFailed):
        await sink.hash_at("str_" + "0" * 26, 0)


async def test_a_second_connection_of_the_same_identity_fences_the_first(behind, sink, stream):
    await sink.commit_batch(stream.batch())
    under_way = await behind.hang(sink, stream.batch())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = behind.sink()
    await second.connect("me")
    sink.abandon()
    with pytest.raises((SinkFailed, ConnectionError)):
        await under_way
    if isinstance(behind, Real):
        await behind._holding.rollback()
    assert await second.hash_at(stream.name, 0) is not None
    assert await second.hash_at(stream.name, 1) is None, "what hung can never commit"
    await second.close()


async def test_a_connection_of_another_identity_is_left_alone(behind, sink, stream):
    second = behind.sink()
    await second.connect("you")
    await sink.commit_batch(stream.batch())
    await second.close()


async def test_the_newest_stream_of_a_lane_is_found_with_its_last_record(sink):
    streams = [Stream(f"str_{n:026d}", lane) for n, lane in enumerate(("a", "b", "a", "c"))]
    for stream in streams:
        await sink.commit_batch(stream.batch(None, None))
    assert await sink.last_stream("a", other_than="") == streams[2].head
    assert await sink.last_stream("a", other_than=streams[2].name) == streams[0].head
    assert await sink.last_stream("d", other_than="") is None


# --- effects ----------------------------------------------------------------------------------------------------------


async def test_an_intent_is_opened_once(sink, stream, behind):
    assert await sink.commit_batch(stream.batch(open_intent(), open_intent())) == {1}
    assert await sink.commit_batch(stream.batch(open_intent())) == {0}
    assert await behind.status("int_1") == "denied"


async def test_an_idempotency_key_belongs_to_one_intent_of_its_agent(sink, stream, behind):
    batch = stream.batch(
        open_intent("int_1", idempotency_key="k"),
        open_intent("int_0", idempotency_key="k"),
        open_intent("int_3", idempotency_key="k", agent="other"),
        open_intent("int_4"),
        open_intent("int_5"),
    )
    assert await sink.commit_batch(batch) == {1}, "the first of a batch wins"
    assert await sink.commit_batch(stream.batch(open_intent("int_6", idempotency_key="k"))) == {0}
    assert await behind.status("int_0") is None


async def test_a_waiting_intent_is_parked_and_a_refused_one_is_not(sink, stream, behind):
    await sink.commit_batch(stream.batch(waiting_intent("int_1", idempotency_key="k")))
    assert await sink.commit_batch(stream.batch(waiting_intent("int_2", idempotency_key="k"))) == {0}
    assert await behind.queue_state("int_1") == "waiting"
    assert await behind.queue_state("int_2") is None


async def test_a_token_that_never_left_is_replaced_and_revoked(sink, stream, behind):
    await sink.commit_batch(stream.batch(open_intent(jti="jti_1")))
    assert await sink.commit_batch(stream.batch(waiting_intent(over_jti="jti_1"))) == frozenset()
    assert await behind.status("int_1") == "queued"
    assert await behind.queue_state("int_1") == "waiting"
    assert await sink.commit_batch(stream.batch(consume())) == {0}


async def test_a_token_is_replaced_within_one_batch(sink, stream, behind):
    batch = stream.batch(
        waiting_intent(over_jti="jti_1"), open_intent(jti="jti_1"), waiting_intent("int_2", over_jti="jti_9")
    )
    assert await sink.commit_batch(batch) == frozenset()
    assert await behind.status("int_1") == "queued"
    assert await behind.status("int_2") == "queued", "where the granted row never came to be, it is simply opened"


async def test_a_replaced_token_may_be_replaced_again(sink, stream, behind):
    await sink.commit_batch(stream.batch(open_intent(jti="jti_1")))
    batch = stream.batch(open_intent(jti="jti_2", over_jti="jti_1"), open_intent(jti="jti_3", over_jti="jti_2"))
    assert await sink.commit_batch(batch) == frozenset()
    assert await sink.commit_batch(stream.batch(consume(jti="jti_2"), consume(jti="jti_3"))) == {0}


async def test_a_consumed_token_is_not_replaced(sink, stream, behind):
    await sink.commit_batch(stream.batch(open_intent(jti="jti_1")))
    await sink.commit_batch(stream.batch(consume()))
    assert await sink.commit_batch(stream.batch(waiting_intent(over_jti="jti_1"))) == {0}
    assert await behind.status("int_1") == "granted"


@pytest.mark.parametrize(
    "changes",
    [{"over_jti": "jti_2"}, {"over_jti": "jti_1", "agent": "other"}, {"over_jti": "jti_1", "jti": "jti_other"}],
)
async def test_only_its_own_token_is_replaced_and_by_a_new_one(sink, stream, behind, changes):
    await sink.commit_batch(stream.batch(open_intent(jti="jti_1"), open_intent("int_other", jti="jti_other")))
    assert await sink.commit_batch(stream.batch(waiting_intent(**changes))) == {0}
    assert await behind.status("int_1") == "granted"


async def test_an_intent_moves_from_the_version_that_was_seen(sink, stream, behind):
    await sink.commit_batch(stream.batch(waiting_intent()))
    assert await sink.commit_batch(stream.batch(move_intent(version=2))) == {0}
    held = move_intent(status="held", queue_state="held")
    assert await sink.commit_batch(stream.batch(held, move_intent(status="expired"))) == {1}
    assert await behind.status("int_1") == "held"
    assert await behind.queue_state("int_1") == "held"
    assert await sink.commit_batch(stream.batch(move_intent())) == {0}
    assert await sink.commit_batch(stream.batch(move_intent(version=2, status="expired"))) == frozenset()
    assert await behind.queue_state("int_1") is None


@pytest.mark.parametrize("final", ["denied", "expired", "cancelled", "superseded"])
async def test_a_final_outcome_stays_whoever_names_the_right_version(sink, stream, behind, final):
    await sink.commit_batch(stream.batch(waiting_intent()))
    await sink.commit_batch(stream.batch(move_intent(status=final)))

    for other in {"claimable", "held", "denied", "expired", "granted"} - {final}:
        assert await sink.commit_batch(stream.batch(move_intent(version=2, status=other))) == {0}
    assert await behind.status("int_1") == final


# --- one place for each action, and superseding -----------------------------------------------------------------------

SAME = {
    "act_hash": "sha-256:" + "S" * 43,
    "queue": replace(queue_row(), expires_at=datetime(2126, 1, 1, tzinfo=UTC)),
}


def superseding(intent_id="int_2", old="int_1", version=1, **changes):
    end = Superseded(intent_id=old, expect_version=version, envelope={})
    return waiting_intent(intent_id, supersedes=end, **changes)


async def test_an_action_that_waits_takes_no_second_place(sink, stream, behind):
    await sink.commit_batch(stream.batch(waiting_intent("int_1", **SAME)))

    second, other = waiting_intent("int_2", **SAME), waiting_intent("int_3", agent="another", **SAME)
    assert await sink.commit_batch(stream.batch(second, other, open_intent("int_4", act_hash=SAME["act_hash"]))) == {0}
    assert [await behind.status(f"int_{n}") for n in (2, 3, 4)] == [None, "queued", "denied"]

    await sink.commit_batch(stream.batch(move_intent("int_1")))
    assert await sink.commit_batch(stream.batch(waiting_intent("int_5", **SAME))) == frozenset()


async def test_of_two_writers_at_once_one_gets_the_place(behind):
    writers = [behind.sink(), behind.sink()]
    streams = [Stream(f"str_{n}".ljust(30, "0"), lane=f"{n}/main") for n in range(2)]
    for number, writer in enumerate(writers):
        await writer.connect(f"writer {number}")
    for turn in range(20):
        same = SAME | {"act_hash": f"sha-256:{turn:043}"}
        refused = await asyncio.gather(
            *(
                writer.commit_batch(stream.batch(waiting_intent(f"int_{turn}_{number}", **same)))
                for number, (writer, stream) in enumerate(zip(writers, streams, strict=True))
            )
        )
        assert sorted(refused, key=len) == [frozenset(), frozenset({0})]
    for writer in writers:
        await writer.close()


async def test_of_two_in_one_batch_the_first_waits(sink, stream, behind):
    batch = stream.batch(waiting_intent("int_1", **SAME), waiting_intent("int_2", **SAME))
    assert await sink.commit_batch(batch) == {1}
    assert await behind.status("int_2") is None


async def test_what_a_journal_promised_to_queue_is_queued(sink, stream, behind):
    await sink.commit_batch(stream.batch(waiting_intent("int_1", **SAME)))
    assert await sink.commit_batch(stream.batch(waiting_intent("int_2", **SAME), recovering=True)) == frozenset()
    assert await behind.queue_state("int_2") == "waiting"


async def test_superseding_ends_the_old_one_with_the_commit_of_the_new(sink, stream, behind):
    await sink.commit_batch(stream.batch(waiting_intent("int_1", **SAME)))
    assert await sink.commit_batch(stream.batch(superseding(**SAME))) == frozenset()
    assert [await behind.status("int_1"), await behind.queue_state("int_1")] == ["superseded", None]
    assert [await behind.status("int_2"), await behind.queue_state("int_2")] == ["queued", "waiting"]


async def test_superseding_what_moved_on_stores_nothing_and_spares_the_rest_of_the_batch(sink, stream, behind):
    await sink.commit_batch(stream.batch(waiting_intent("int_1"), waiting_intent("int_3")))
    await sink.commit_batch(stream.batch(move_intent("int_1")))

    batch = stream.batch(
        waiting_intent("int_5"), superseding(version=2), superseding("int_4", old="int_3"), move_intent("int_9")
    )
    assert await sink.commit_batch(batch) == {1, 3}
    assert await behind.status("int_1") == "denied"
    assert await behind.status("int_2") is None
    assert await behind.status("int_3") == "superseded"
    assert await behind.status("int_4") == await behind.status("int_5") == "queued"


async def test_a_new_intent_that_cannot_be_stored_leaves_the_old_one_waiting(sink, stream, behind):
    key = {"idempotency_key": "k"}
    await sink.commit_batch(stream.batch(waiting_intent("int_1"), open_intent("int_0", **key)))
    assert await sink.commit_batch(stream.batch(superseding(**key))) == {0}
    assert await behind.status("int_1") == "queued"
    assert await behind.queue_state("int_1") == "waiting"


async def test_a_granted_intent_supersedes_and_its_denial_after_a_failed_release_leaves_that_as_it_is(
    sink, stream, behind
):
    await sink.commit_batch(stream.batch(waiting_intent("int_1")))
    end = Superseded(intent_id="int_1", expect_version=1, envelope={})
    await sink.commit_batch(stream.batch(open_intent("int_2", jti="jti_2", supersedes=end)))
    assert await behind.status("int_1") == "superseded"

    over = superseding("int_2", over_jti="jti_2", status="queued")
    assert await sink.commit_batch(stream.batch(over)) == frozenset()
    assert await behind.status("int_2") == "queued"
    assert await behind.status("int_1") == "superseded"


async def test_two_that_supersede_the_same_intent_leave_one(sink, stream, behind):
    await sink.commit_batch(stream.batch(waiting_intent("int_1")))
    assert await sink.commit_batch(stream.batch(superseding("int_2"), superseding("int_3"))) == {1}
    assert [await behind.status("int_2"), await behind.status("int_3")] == ["queued", None]
    assert await sink.commit_batch(stream.batch(move_intent("int_none"))) == {0}


async def test_a_worker_moves_an_intent_only_while_it_holds_the_lease(sink, stream, behind):
    await sink.commit_batch(stream.batch(waiting_intent()))
    assert await sink.commit_batch(stream.batch(move_intent(epoch=1))) == {0}
    await behind.lease("int_1", 2)
    assert await sink.commit_batch(stream.batch(move_intent(epoch=1))) == {0}
    moved = move_intent(epoch=2, status="claimable", queue_state="claimable", claim_by=AT)
    assert await sink.commit_batch(stream.batch(moved)) == frozenset()
    assert await behind.queue_state("int_1") == "claimable"
    assert await sink.commit_batch(stream.batch(move_intent(version=2, epoch=2))) == {0}


async def test_a_claim_grants_a_token_that_can_be_consumed(sink, stream):
    await sink.commit_batch(stream.batch(waiting_intent(), open_intent("int_2", jti="jti_2")))
    taken = move_intent(status="granted", jti="jti_2", claims={"iss": "x"})
    assert await sink.commit_batch(stream.batch(taken)) == {0}, "a token belongs to one intent"
    granted = move_intent(status="granted", jti="jti_1", claims={"iss": "x"})
    assert await sink.commit_batch(stream.batch(granted)) == frozenset()
    assert await sink.commit_batch(stream.batch(consume())) == frozenset()


async def test_a_token_is_consumed_once(sink, stream):
    await sink.commit_batch(stream.batch(open_intent(jti="jti_1")))
    assert await sink.commit_batch(stream.batch(consume(), consume(executor="other"))) == {1}
    assert await sink.commit_batch(stream.batch(consume())) == {0}


@pytest.mark.parametrize("effect", [consume(jti="jti_2"), consume("int_2"), consume("int_none"), consume("int_3")])
async def test_a_token_without_its_granted_intent_is_not_consumed(sink, stream, effect):
    await sink.commit_batch(
        stream.batch(open_intent(jti="jti_1"), open_intent("int_2", jti="jti_9"), open_intent("int_3"))
    )
    assert await sink.commit_batch(stream.batch(effect)) == {0}


async def test_an_intent_that_moved_on_backs_no_token(sink, stream):
    await sink.commit_batch(stream.batch(open_intent(jti="jti_1")))
    await sink.commit_batch(stream.batch(move_intent(status="cancelled", jti="jti_1")))
    assert await sink.commit_batch(stream.batch(consume())) == {0}


async def test_an_outcome_is_reported_by_the_executor_that_consumed_and_stands(sink, stream):
    await sink.commit_batch(stream.batch(open_intent(jti="jti_1")))
    assert await sink.commit_batch(stream.batch(outcome())) == {0}
    await sink.commit_batch(stream.batch(consume()))
    assert await sink.commit_batch(stream.batch(outcome(executor="other"))) == {0}
    assert await sink.commit_batch(stream.batch(outcome(), outcome(), outcome(what="failed"))) == {2}
    assert await sink.commit_batch(stream.batch(outcome(), outcome(what="unknown"))) == {1}


async def test_credentials_and_operators_are_put_once(sink, stream):
    credential = PutCredential(kind="agent", subject="bot", key_hash="cd" * 32, created_at=datetime.now(UTC))
    operator = PutOperator(username="ann", password_hash="scrypt$…", role="admin", created_at=datetime.now(UTC))
    assert await sink.commit_batch(stream.batch(credential, operator, credential, operator)) == {2, 3}
    assert await sink.commit_batch(stream.batch(operator, credential)) == {0, 1}


async def test_many_effects_of_every_kind_share_a_batch(sink, stream):
    await sink.commit_batch(stream.batch(*(open_intent(f"int_{n}", jti=f"jti_{n}") for n in range(100))))
    effects = [consume(f"int_{n}", f"jti_{n}") for n in range(100)]
    mixed = [open_intent("int_5"), *effects, move_intent("int_200"), waiting_intent("int_300"), None]
    assert await sink.commit_batch(stream.batch(*mixed)) == {0, 101}


# --- notices ----------------------------------------------------------------------------------------------------------


async def test_a_notice_is_put_once(sink, stream, behind):
    put = PutNotice(notice=notice(1))
    assert await sink.commit_batch(stream.batch(put, PutNotice(notice=notice(2)), put)) == {2}
    assert await sink.commit_batch(stream.batch(put)) == {0}
    assert await behind.notices() == {notice(1).notice_id: None, notice(2).notice_id: None}


async def test_notices_ride_beside_an_effect_and_share_its_fate(sink, stream, behind):
    """What did not happen is told to nobody."""
    told = encode_all(open_intent(), (notice(1), notice(2)), origin="api")
    refused = encode_all(open_intent(), (notice(3),), origin="api")
    assert await sink.commit_batch(stream.batch(told, refused)) == {1}
    assert await behind.status("int_1") == "denied"
    assert await behind.notices() == {notice(1).notice_id: "api", notice(2).notice_id: "api"}


async def test_a_notice_that_stands_already_refuses_no_effect(sink, stream, behind):
    await sink.commit_batch(stream.batch(PutNotice(notice=notice(1))))
    again = encode_all(open_intent(), (notice(1),), origin="api")
    assert await sink.commit_batch(stream.batch(again)) == frozenset()
    assert await behind.status("int_1") == "denied"


async def test_notices_ride_beside_a_record_that_changes_nothing(sink, stream, behind):
    alone = encode_all(None, (notice(1), notice(2)), origin="api")
    batch = stream.batch(alone, None)
    assert await sink.commit_batch(batch) == frozenset()
    assert await sink.commit_batch(_recovering(batch)) == frozenset(), "an import that is repeated"
    assert len(await behind.notices()) == 2


# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_a_refusal_is_remembered_until_its_void_is_stored(sink, stream):
    await sink.commit_batch(stream.batch(open_intent()))
    again = stream.batch(open_intent("int_2"), open_intent())
    assert await sink.commit_batch(again) == {1}

    assert await sink.commit_batch(_recovering(again)) == {1}, "the same answer, however often it is asked for"
    (refusal,) = await sink.refusals("i/main", other_than="")
    assert (refusal.receipt.seq, refusal.receipt.hash, refusal.kind) == (2, again.rows[1].hash.hex(), "decision")
    assert await sink.refusals("i/main", other_than=stream.name) == ()
    assert await sink.refusals("other", other_than="") == ()
    assert len(await sink.refusals("other", other_than="", streams=[stream.name])) == 1

    await sink.commit_batch(stream.batch(close_refusal(stream.name, 2)))
    assert await sink.refusals("i/main", other_than="") == ()
    assert await sink.commit_batch(_recovering(again)) == frozenset()


async def test_an_effect_that_was_given_up_counts_as_refused(sink, stream):
    await sink.commit_batch(stream.batch())
    assert await sink.commit_batch(stream.batch(REFUSE)) == {0}
    assert len(await sink.refusals("i/main", other_than="")) == 1


async def test_a_value_that_no_column_takes_is_told_apart_from_an_outage(sink, stream, behind):
    await sink.commit_batch(stream.batch())
    batch = stream.batch(open_intent("int_2"), EncodedEffect("open_intent", _poison()))
    if isinstance(behind, Memory):
        behind.database.rejects.add("int_poison")
    with pytest.raises(Rejected):
        await sink.commit_batch(batch)
    assert await behind.count(stream.name) == 1
    assert await behind.status("int_2") is None


def _poison() -> bytes:
    return encode(open_intent("int_poison")).members.replace(b'"denied"', b'"sideways"')


def _with(batch, **changes):
    names = ("stream", "prev", "rows", "seal", "recovering")
    return type(batch)(**({name: getattr(batch, name) for name in names} | changes))


def _recovering(batch):
    return _with(batch, recovering=True)
