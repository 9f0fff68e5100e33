"""A token is consumed once, by its executor, for what it permits, and only on a commit."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from desk import Desk
from fakes.recording import Fault as DatabaseFault
from holdfast.intent import Resource
from holdfast.token import verify_signature

from services.submissions import Problem

PAYMENT = Resource(type="payment", id="pay_123")
REFUND = {"action": "payments.refund.create", "resource": PAYMENT, "parameters": {"amount_cents": 4_200}}


@pytest.fixture
async def desk():
    opened = await Desk().open()
    yield opened
    await opened.recording.crash(opened.lane)


async def token(desk, key="k") -> str:
    return (await desk.submit(desk.world.refund(), key)).envelope["token"]


async def refused(coroutine) -> tuple[int, str]:
    with pytest.raises(Problem) as caught:
        await coroutine
    return caught.value.status, caught.value.reason_code


async def test_of_any_number_of_consumers_one_wins_and_the_log_says_which(desk):
    granted = await token(desk)
    consume = desk.consumption.consume

    results = await asyncio.gather(
        *(consume("payments-api", granted, **REFUND) for _ in range(50)), return_exceptions=True
    )

    won = [result for result in results if isinstance(result, dict)]
    assert len(won) == 1
    assert {error.reason_code for error in results if isinstance(error, Problem)} == {"TOKEN_CONSUMED"}
    records = [record for record in desk.recording.log() if record.kind == "token.consumed"]
    voided = {record.members["void"]["seq"] for record in desk.recording.log() if record.kind == "token.void"}
    assert len([record for record in records if record.seq not in voided]) == 1


async def test_a_consumption_names_the_decision_that_permits_it(desk):
    granted = await token(desk)
    await desk.consumption.consume("payments-api", granted, **REFUND)

    [consumed] = [record for record in desk.recording.log() if record.kind == "token.consumed"]
    claims = verify_signature(granted, desk.world.signer.verify_keys())
    place = consumed.members["decision"]
    assert f"{place['stream']}:{place['seq']}:{place['hash']}" == claims.rcp


@pytest.mark.parametrize(
    ("executor", "changes", "code"),
    [
        ("kb-api", {}, "TOKEN_MISMATCH"),
        ("payments-api", {"parameters": {"amount_cents": 4_201}}, "TOKEN_MISMATCH"),
        ("payments-api", {"resource": replace(PAYMENT, id="pay_124")}, "TOKEN_MISMATCH"),
        ("payments-api", {"action": "payments.refund.other"}, "TOKEN_MISMATCH"),
        ("payments-api", {"parameters": {}}, "TOKEN_MISMATCH"),
    ],
)
async def test_a_token_for_anything_else_is_refused_and_nothing_is_recorded(desk, executor, changes, code):
    granted = await token(desk)
    before = len(desk.recording.log())

    assert await refused(desk.consumption.consume(executor, granted, **(REFUND | changes))) == (403, code)

    assert len(desk.recording.log()) == before


async def test_a_token_nobody_granted_is_refused_though_its_signature_is_good(desk):
    """A signer that was made to sign is not a permission."""
    claims = verify_signature(await token(desk), desk.world.signer.verify_keys())
    forged = await desk.world.signer.sign(replace(claims, txn="int_" + "9" * 26, jti="jti_" + "9" * 32))

    assert await refused(desk.consumption.consume("payments-api", forged, **REFUND)) == (403, "TOKEN_REVOKED")
    assert "token.consumed" not in desk.recording.kinds()


async def test_out_of_time_there_is_nothing_to_consume(desk):
    granted = await token(desk)
    desk.world.clock.advance(60)

    assert await refused(desk.consumption.consume("payments-api", granted, **REFUND)) == (401, "TOKEN_INVALID")


async def test_a_token_that_runs_out_while_it_is_consumed_does_not_run(desk):
    granted = await token(desk)
    state = desk.store.state

    async def slow(iss, txn, jti):
        found = await state(iss, txn, jti)
        desk.world.clock.advance(60)
        return found

    desk.store.state = slow

    assert await refused(desk.consumption.consume("payments-api", granted, **REFUND)) == (401, "TOKEN_INVALID")


async def test_a_consumption_in_doubt_is_refused_and_never_happens_twice(desk):
    granted = await token(desk)
    desk.recording.database.faults.append(DatabaseFault.HANG_THEN_COMMIT)

    assert await refused(desk.consumption.consume("payments-api", granted, **REFUND)) == (503, "AUDIT_UNAVAILABLE")
    await desk.recording.restored(desk.lane)

    assert await refused(desk.consumption.consume("payments-api", granted, **REFUND)) == (409, "TOKEN_CONSUMED")


async def test_a_consumption_that_never_reached_the_store_may_be_tried_again(desk):
    granted = await token(desk)
    desk.recording.database.faults.append(DatabaseFault.REFUSE)

    assert await refused(desk.consumption.consume("payments-api", granted, **REFUND)) == (503, "AUDIT_UNAVAILABLE")
    await desk.recording.restored(desk.lane)

    assert (await desk.consumption.consume("payments-api", granted, **REFUND))["consumed"] is True


async def test_while_the_audit_boundary_is_open_no_token_is_used_up_in_vain(desk):
    granted = await token(desk)
    desk.world.boundaries.audit.dependency_is_gone("a test says so")

    assert await refused(desk.consumption.consume("payments-api", granted, **REFUND)) == (503, "AUDIT_UNAVAILABLE")

    assert "token.consumed" not in desk.recording.kinds()
    claims = verify_signature(granted, desk.world.signer.verify_keys())
    assert await desk.store.state(claims.iss, claims.txn, claims.jti) == "fresh"


async def test_while_the_audit_boundary_is_open_no_allow_is_chained(desk):
    desk.world.boundaries.audit.dependency_is_gone("a test says so")

    answer = await desk.submit(desk.world.refund())

    assert (answer.status, answer.envelope["reason_code"]) == (503, "AUDIT_UNAVAILABLE")
    decisions = [record.members["decision"] for record in desk.recording.log() if record.kind == "decision"]
    assert decisions == ["deny"]


async def test_without_keys_every_token_is_invalid(desk):
    granted = await token(desk)
    desk.world.signer.verify_keys = tuple

    assert await refused(desk.consumption.consume("payments-api", granted, **REFUND)) == (401, "TOKEN_INVALID")


async def test_an_outcome_stands_once_reported(desk):
    granted = await token(desk)
    jti = (await desk.consumption.consume("payments-api", granted, **REFUND))["jti"]
    report = desk.consumption.report

    for _ in range(2):
        assert (await report("payments-api", jti, outcome="unknown", detail=None))["recorded"] is True
    assert await refused(report("payments-api", jti, outcome="succeeded", detail=None)) == (409, "OUTCOME_CONFLICT")
    assert await refused(report("kb-api", jti, outcome="unknown", detail=None)) == (404, "NOT_FOUND")
    assert await refused(report("payments-api", "jti_0", outcome="unknown", detail=None)) == (404, "NOT_FOUND")


async def test_what_cannot_be_asked_of_the_store_is_refused(desk):
    granted = await token(desk)
    desk.recording.database.up = False

    assert await refused(desk.consumption.consume("payments-api", granted, **REFUND)) == (503, "AUDIT_UNAVAILABLE")
    report = desk.consumption.report("payments-api", "jti_0", outcome="failed", detail=None)
    assert await refused(report) == (503, "AUDIT_UNAVAILABLE")
