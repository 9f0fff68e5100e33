"""What a running service answers while one of its dependencies is stopped, and how it heals by itself."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from itertools import count

import asyncpg
import pytest
from e2e.envelope import envelope, problem
from e2e.running_service import held, read_note, refund, send, tree, until

pytestmark = pytest.mark.integration

_LANES = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'holdfast-lane-%'"


def settled(service, intent_id: str, *, agent: str = "alpha") -> dict:
    """Wait until the queue has decided an intent, and return its envelope."""
    until(
        lambda: service.look(intent_id, agent=agent).json()["status"] not in {"queued", "held"},
        f"{intent_id} is decided",
    )
    return service.look(intent_id, agent=agent).json()


def claimed_and_consumed(service, waiting: dict, intent: dict, executor: str) -> None:
    """See a queued intent through to its one effect. A token that was signed before and never left is no obstacle."""
    assert settled(service, waiting["intent_id"])["status"] == "claimable"
    first = envelope(service.claim(waiting["intent_id"]), 200, "ALLOWED", intent_id=waiting["intent_id"])
    again = envelope(service.claim(waiting["intent_id"]), 200, "ALLOWED")
    assert again["token"] == first["token"]
    assert service.consume(first["token"], intent, executor=executor).status_code == 200
    problem(service.claim(waiting["intent_id"]), 409, "INTENT_FINISHED")
    problem(service.consume(first["token"], intent, executor=executor), 409, "TOKEN_CONSUMED")


def test_without_its_signer_it_grants_nothing_and_the_intent_waits(service):
    before = service.submit(refund(11), key="before-signer")
    with service.stopped("signer"):
        waiting = envelope(
            service.submit(refund(12), key="no-signer"), 503, "SIGNING_UNAVAILABLE", status="queued", decision="deny"
        )
        denied = service.submit(refund(2_000_000), key="no-signer-no")
        again = service.submit(refund(12), key="no-signer")
        repeated = service.submit(refund(11), key="before-signer")

    envelope(denied, 403, "POLICY_DENIED")
    envelope(again, 503, "SIGNING_UNAVAILABLE", intent_id=waiting["intent_id"])
    assert before.status_code == 200
    problem(repeated, 503, "SIGNING_UNAVAILABLE")
    claimed_and_consumed(service, waiting, refund(12), "bank-api")
    assert service.faults() == []


def test_without_its_broker_only_agents_with_limits_must_wait(service):
    with service.stopped("valkey"):
        limited = service.submit(read_note("v1"), agent="metered")
        others = service.submit(read_note("v2"))

        body = envelope(limited, 503, "EVALUATION_UNAVAILABLE", cause="limits_unreachable", status="queued")
        envelope(others, 200, "ALLOWED")
        assert service.ready(), "limits are one agent's trouble, not the service's"

    assert settled(service, body["intent_id"], agent="metered")["status"] == "claimable"
    envelope(service.claim(body["intent_id"], agent="metered"), 200, "ALLOWED")


def test_without_its_database_it_decides_nothing_and_forgets_nothing(service):
    granted = envelope(service.submit(refund(21), key="before-database"), 200, "ALLOWED")
    with service.stopped("postgres"):
        until(lambda: "store_unreachable" in service.troubles(), "the outage is noticed")
        waiting = envelope(
            service.submit(refund(22), key="no-database"), 503, "EVALUATION_UNAVAILABLE", status="queued"
        )
        again = envelope(service.submit(refund(22), key="no-database"), 503, "EVALUATION_UNAVAILABLE")
        other = service.submit(refund(23), key="no-database")
        unclassified = service.submit({"action": "no.such", "resource": {"type": "a", "id": "1"}})
        seen = service.look(waiting["intent_id"])
        unknown = service.look("int_" + "0" * 26)
        repeated = service.submit(refund(21), key="before-database")
        consumed = service.consume(granted["token"], refund(21), executor="bank-api")
        claim = service.claim(waiting["intent_id"])
        stranger = service.get("/v1/intents/int_1", headers={"Authorization": "Bearer hfa_" + "A" * 43})
        queue = service.get("/v1/operator/queue", headers=service.bearer("operator"))
        ready = service.get("/readyz")

    assert waiting["cause"] in {"store_unreachable", "circuit_open"}
    assert waiting["queue"]["state"] == "journal"
    assert (again["intent_id"], again["receipt"]) == (waiting["intent_id"], waiting["receipt"])
    problem(other, 422, "IDEMPOTENCY_KEY_REUSED")
    envelope(unclassified, 403, "INTENT_UNCLASSIFIED")
    assert seen.json()["status"] == "queued"
    problem(unknown, 503, "SERVICE_UNAVAILABLE")
    problem(repeated, 503, "SERVICE_UNAVAILABLE")
    problem(consumed, 503, "AUDIT_UNAVAILABLE")
    problem(claim, 503, "SERVICE_UNAVAILABLE")
    problem(stranger, 503, "SERVICE_UNAVAILABLE")
    problem(queue, 503, "SERVICE_UNAVAILABLE")
    assert ready.status_code == 503
    assert set(ready.json()["open"]) & {"evaluation", "audit"}
    assert service.consume(granted["token"], refund(21), executor="bank-api").status_code == 200
    claimed_and_consumed(service, waiting, refund(22), "bank-api")
    problem(service.submit(refund(22), key="no-database"), 409, "INTENT_FINISHED")
    receipts = [answer["receipt"] for answer in (granted, waiting, unclassified.json())]
    verified = service.verify([f"{r['stream']}:{r['seq']}:{r['hash']}" for r in receipts])
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert service.faults() == []


def test_with_neither_database_nor_journal_it_says_so_and_recovers_by_itself(service):
    """The journal's disk fills up in the outage; then there is room again, and the database comes back last."""
    api = service.pid("api")
    limits = resource.prlimit(api, resource.RLIMIT_FSIZE)
    large = {"action": "no.such", "resource": {"type": "a", "id": "1"}, "parameters": {"text": "x" * 60_000}}
    with service.stopped("postgres"):
        noticed = {"recording_in_journal", "store_unreachable"}  # until both, an evaluation may still succeed
        until(lambda: noticed <= set(service.troubles()), "the outage is noticed")
        kept = [envelope(service.submit(refund(31), key="room"), 503, "EVALUATION_UNAVAILABLE", status="queued")]
        resource.prlimit(api, resource.RLIMIT_FSIZE, (400_000, limits[1]))
        try:
            answers = []
            until(
                lambda: answers.append(service.submit(large)) or answers[-1].status_code == 503, "the journal is full"
            )
            refused = envelope(answers[-1], 503, "AUDIT_UNAVAILABLE", status="unqueued")
            waiting = envelope(service.submit(refund(32), key="no-room"), 503, "AUDIT_UNAVAILABLE", status="unqueued")
            troubles, ready = service.troubles(), service.ready()
            figures = service.get("/metrics").text
        finally:
            resource.prlimit(api, resource.RLIMIT_FSIZE, limits)
        until(lambda: "nothing_takes_records" not in service.troubles(), "the journal takes records again")
        kept += [answer.json() for answer in answers[:-1]]
        kept.append(envelope(service.submit(refund(32), key="no-room"), 503, "EVALUATION_UNAVAILABLE", status="queued"))
    service.until_ready()

    assert (refused["queue"], waiting["queue"], ready) == (None, None, False)
    assert "nothing_takes_records" in troubles
    assert "holdfast_recorder_closed 1.0" in figures
    assert "neither the database nor the journal takes records" in service.log("api")
    assert "holdfast_recorder_closed 0.0" in service.get("/metrics").text
    for waits in (kept[0], kept[-1]):
        assert waits["queue"]["state"] == "journal"
        assert settled(service, waits["intent_id"])["status"] == "claimable"
    verified = service.verify([f"{r['stream']}:{r['seq']}:{r['hash']}" for r in (one["receipt"] for one in kept)])
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert service.pid("api") == api, "without a restart"
    assert service.faults() == []


async def test_a_database_that_ends_its_idle_connections_costs_no_decision(service):
    """As in a quick restart, a failover, or an administrator's clean-up: over before anybody missed a heartbeat."""
    doubts = service.log("api").count("is in doubt")
    connection = await asyncpg.connect(service.database_url)
    try:
        lanes = await connection.fetch(_LANES)
        await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", [pid for (pid,) in lanes]
        )
        async with asyncio.timeout(60):
            there = lanes
            while {*there} & {*lanes} or len(there) < len(lanes):
                await asyncio.sleep(0.05)
                there = await connection.fetch(_LANES)
    finally:
        await connection.close()
    service.until_ready()

    envelope(service.submit(refund(43), key="after-a-restart"), 200, "ALLOWED")
    assert service.log("api").count("is in doubt") == doubts, "it was heard, not found out by a record"


@contextlib.asynccontextmanager
async def locked_log(service):
    """Let commits hang: the log's table is locked, everything else of the database answers."""
    connection = await asyncpg.connect(service.database_url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("LOCK audit_records IN ACCESS EXCLUSIVE MODE")
        yield
        await transaction.rollback()
    finally:
        await connection.close()


async def test_an_allow_whose_commit_hangs_is_not_released_then_or_later(service):
    """The commit may stand in the end; the log then says that it was void, and the intent is judged anew."""
    async with locked_log(service):
        answer = await asyncio.to_thread(service.submit, refund(31), key="locked")
        waiting = envelope(answer, 503, "AUDIT_UNAVAILABLE", status="queued")
        again = await asyncio.to_thread(service.submit, refund(31), key="locked")
        assert again.status_code == 503
        assert b"eyJ" not in again.content
    await asyncio.to_thread(service.until_ready)

    await asyncio.to_thread(claimed_and_consumed, service, waiting, refund(31), "bank-api")


async def test_a_consumption_whose_commit_hangs_is_refused_and_happens_at_most_once(service):
    token = envelope(service.submit(refund(32), key="locked-consume"), 200, "ALLOWED")["token"]

    async with locked_log(service):
        answer = await asyncio.to_thread(service.consume, token, refund(32), executor="bank-api")
        problem(answer, 503, "AUDIT_UNAVAILABLE")
    await asyncio.to_thread(service.until_ready)

    later = [service.consume(token, refund(32), executor="bank-api").status_code for _ in range(3)]
    assert later in ([200, 409, 409], [409, 409, 409])


def test_a_drained_intent_is_judged_by_the_rules_not_by_its_wait(service):
    with service.stopped("postgres"):
        until(lambda: "store_unreachable" in service.troubles(), "the outage is noticed")
        forbidden = envelope(service.submit(refund(3_000_000), key="late-no"), 503, "EVALUATION_UNAVAILABLE")
        human = envelope(service.submit(held("late"), key="late-hold"), 503, "EVALUATION_UNAVAILABLE")

    assert settled(service, forbidden["intent_id"])["reason_code"] == "POLICY_DENIED"
    until(lambda: service.look(human["intent_id"]).json()["status"] == "held", "it waits for a human")
    envelope(service.submit(refund(3_000_000), key="late-no"), 403, "POLICY_DENIED", intent_id=forbidden["intent_id"])
    assert service.cancel(human["intent_id"]).status_code == 200


@pytest.mark.parametrize("child", ["postgres", "valkey", "signer", "worker", "api"])
def test_a_child_that_is_killed_comes_back_and_everything_with_it(service, child):
    """The supervisor restarts it; /readyz is 200 again without anybody's help."""
    before = envelope(service.submit(read_note(), key=f"kill-{child}"), 200, "ALLOWED")
    old = service.pid(child)
    for pid in tree(old):
        send(pid, 9)

    until(lambda: service.pid(child) != old, f"{child} is started again")
    # Nobody may have noticed yet, so readiness proves nothing; new tokens do, and the old one.
    keys = (f"killed-{child}-{n}" for n in count())
    until(lambda: service.grants(refund(41), next(keys)) is not None, "new tokens are granted")
    until(lambda: service.grants(read_note(), f"kill-{child}") == before["token"], "the same token comes again")
    service.until_ready()


def test_what_waited_in_one_outage_and_is_over_is_not_said_to_wait_in_the_next(service):
    """The same action is asked for again: it is another intent, and waits by itself."""
    waiting = []
    for outage in ("first", "second"):
        with service.stopped("postgres"):
            until(lambda: "store_unreachable" in service.troubles(), "the outage is noticed")
            answer = service.submit(refund(61), key=f"{outage}-outage")
            waiting.append(envelope(answer, 503, "EVALUATION_UNAVAILABLE", status="queued"))
        claimed_and_consumed(service, waiting[-1], refund(61), "bank-api")

    assert waiting[0]["intent_id"] != waiting[1]["intent_id"]
    assert service.faults() == []
