"""The executor's order of checks: one test a number, each failing when that check is taken out."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
from dataclasses import replace

import httpx2
import pytest
from holdfast.consumption import MAX_RETAINED, OnlineConsumption, OutcomeStatus
from holdfast.errors import TokenRejected
from holdfast.executor import Guard
from holdfast.gate import Gate, Terms, Wanted
from holdfast.intent import Action, Resource
from holdfast.jwks import PinnedKeys
from holdfast.reasons import Mode
from holdfast.token import b64url
from sdk_fake_service import BASE_URL, EXECUTOR, EXECUTOR_KEY, ManualOutside, SigningKey, problem


class Executor:
    """A guard used the plain or the asynchronous way, with what its body ran."""

    def __init__(self, service, *, plain: bool, **options):
        self.plain = plain
        self.ran: list = []
        self.guard = Guard(
            BASE_URL,
            EXECUTOR_KEY,
            EXECUTOR,
            transport=service.transport(),
            async_transport=service.transport(),
            **options,
        )

    async def run(self, token, intent, body=None, **changes):
        """Run `body(grant)` under the guard. Whatever it ran is in `ran`."""
        asked = {"action": intent.action, "resource": intent.resource, "parameters": intent.parameters} | changes
        authorization = self.guard.authorize(token, **asked)
        if self.plain:
            with authorization as grant:
                self._act(grant, body)
        else:
            async with authorization as grant:
                self._act(grant, body)

    def _act(self, grant, body):
        self.ran.append(grant)
        if body is not None:
            body(grant)

    async def rejected(self, token, intent, **changes) -> str:
        with pytest.raises(TokenRejected) as caught:
            await self.run(token, intent, **changes)
        assert self.ran == [], "the body ran"
        return caught.value.code


@pytest.fixture(params=[True, False], ids=["plain", "async"])
def new_executor(request, service):
    return lambda **options: Executor(service, plain=request.param, **options)


@pytest.fixture
def executor(new_executor):
    return new_executor()


@pytest.fixture
def token(service, refund):
    return service.mint(refund)


async def test_a_good_token_runs_the_body_once_and_the_outcome_is_reported(executor, service, refund, token):
    await executor.run(token, refund)

    (grant,) = executor.ran
    assert (grant.action, grant.resource, grant.parameters) == (refund.action, refund.resource, refund.parameters)
    assert service.consumed == {(BASE_URL, grant.intent_id)}
    assert service.outcomes == [{"jti": grant.claims.jti, "status": "succeeded", "detail": "done"}]
    assert 0 < grant.remaining_s() <= 30


# --- 1 to 5: one token, its shape, header, signature, encoding --------------------------------------------------------


@pytest.mark.parametrize("given", [None, b"bytes", ["a.b.c"], ("a", "b"), 7], ids=repr)
async def test_1_what_is_not_one_token_is_refused(executor, refund, given):
    assert await executor.rejected(given, refund) == "TOKEN_INVALID"


@pytest.mark.parametrize("given", ["", ".", "a.b", "a.b.c.d", " ", "a" * 9000, "é.b.c"])
async def test_2_what_has_not_the_shape_of_a_token_is_refused(executor, refund, given):
    assert await executor.rejected(given, refund) == "TOKEN_INVALID"


@pytest.mark.parametrize(
    "header", [{"alg": "none"}, {"alg": "HS256"}, {"typ": "JWT"}, {"kid": "other"}, {"crit": ["b64"]}, {"jwk": {}}]
)
async def test_3_a_header_that_is_not_that_of_a_known_key_is_refused(executor, service, refund, token, header):
    payload = json.loads(_decode(token.split(".")[1]))

    assert await executor.rejected(service.key.sign(payload, **header), refund) == "TOKEN_INVALID"


async def test_3_a_key_that_is_not_in_the_set_is_refused(executor, service, refund):
    assert await executor.rejected(service.mint(refund, key=SigningKey()), refund) == "TOKEN_INVALID"


async def test_4_a_token_whose_signature_is_not_over_its_payload_is_refused(executor, service, refund, token):
    head, _, signature = token.split(".")
    payload = service.mint(refund).split(".")[1]

    assert await executor.rejected(f"{head}.{payload}.{signature}", refund) == "TOKEN_INVALID"


async def test_5_a_payload_with_two_readings_is_refused(executor, service, refund, token):
    """The signature is good; the JSON says `txn` twice."""
    text = _decode(token.split(".")[1]).decode()
    double = text[:-1] + ',"txn":"int_other"}'
    head = token.split(".")[0].encode() + b"." + b64url(double.encode()).encode()
    signed = head.decode() + "." + b64url(service.key.private.sign(head))

    assert await executor.rejected(signed, refund) == "TOKEN_INVALID"


# --- 6 to 9: for whom, when, for what ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ver": 2}, "TOKEN_INVALID"),
        ({"iss": "https://elsewhere.test"}, "TOKEN_INVALID"),
        ({"aud": "deploy-tool"}, "TOKEN_MISMATCH"),
        ({"env": "staging"}, "TOKEN_MISMATCH"),
    ],
    ids=str,
)
async def test_6_a_token_that_is_not_for_this_executor_is_refused(new_executor, service, refund, changes, code):
    executor = new_executor(environments=frozenset({"production"}))

    assert await executor.rejected(service.mint(refund, **changes), refund) == code


async def test_6_an_executor_may_refuse_ways_of_permission(new_executor, service, refund):
    executor = new_executor(accepted_modes=frozenset({Mode.NORMAL, Mode.OPERATOR}))
    broken_glass = service.mint(refund, mode="break_glass", brk="brk_1")

    assert await executor.rejected(broken_glass, refund) == "TOKEN_MISMATCH"
    await executor.run(service.mint(refund, mode="operator"), refund)

    assert len(executor.ran) == 1


async def test_6_every_way_of_permission_is_accepted_unless_fewer_are_named(new_executor, service, refund):
    executor = new_executor()
    await executor.run(service.mint(refund, mode="break_glass", brk="brk_1"), refund)
    assert executor.ran[0].claims.brk == "brk_1"


async def test_7_a_token_that_is_over_or_has_not_begun_is_refused(executor, service, refund):
    now = int(service.now())
    old = service.mint(refund, iat=now - 61, nbf=now - 61, exp=now - 1)
    young = service.mint(refund, iat=now + 30, nbf=now + 30, exp=now + 60)

    assert [await executor.rejected(token, refund) for token in (old, young)] == ["TOKEN_INVALID"] * 2


async def test_7_a_token_that_lives_longer_than_this_executor_accepts_is_refused(new_executor, service, refund):
    service.lifetime_s = 600
    token = service.mint(refund)

    assert await new_executor().rejected(token, refund) == "TOKEN_INVALID"
    await new_executor(max_lifetime_s=600).run(token, refund)


async def test_8_a_token_that_demands_a_proof_of_possession_is_refused(executor, service, refund):
    assert await executor.rejected(service.mint(refund, cnf_jkt="x" * 43), refund) == "TOKEN_INVALID"
    assert service.consumed == set()


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"amount_cents": 420_000, "currency": "EUR"}},
        {"parameters": {"amount_cents": 4200, "currency": "EUR", "extra": 1}},
        {"parameters": {}},
        {"parameters": {"amount_cents": "4200", "currency": "EUR"}},
        {"parameters": {"amount_cents": float("nan")}},
        {"parameters": {"amount_cents": object()}},
        {"parameters": None},
        {"resource": Resource(type="payment", id="pay_999")},
        {"resource": Resource(type="invoice", id="pay_123")},
        {"resource": None},
        {"action": "payments.refund.delete"},
        {"action": None},
    ],
    ids=str,
)
async def test_9_anything_else_than_what_was_approved_is_refused(executor, service, refund, token, changes):
    assert await executor.rejected(token, refund, **changes) == "TOKEN_MISMATCH"
    assert not any(request.url.path.endswith("/consume") for request in service.seen), "nobody is asked to use it up"


async def test_9_an_action_whose_name_is_not_the_token_s_is_refused(executor, service, refund):
    """The digest is right, the claim beside it is not: such a token was not made by this service."""
    assert await executor.rejected(service.mint(refund, action="other"), refund) == "TOKEN_MISMATCH"


async def test_9_the_body_gets_the_bytes_that_were_checked_not_the_caller_s_objects(executor, service, refund):
    parameters = {"amount_cents": 4200, "currency": "EUR", "lines": [{"n": 1}]}
    intent = replace(refund, parameters=copy.deepcopy(parameters))
    token = service.mint(intent)

    def change_then_consume(request):
        parameters["lines"][0]["n"] = 1000
        parameters["amount_cents"] = 10**9
        return service._consume(json.loads(request.content))

    service.lie("/consume", change_then_consume)
    await executor.run(token, intent, parameters=parameters)

    assert executor.ran[0].parameters == intent.parameters


async def test_9_a_number_is_run_as_it_was_digested(executor, service, refund):
    """`1.0` and `1` have the same canonical bytes; the body must not see the difference that the digest cannot."""
    token = service.mint(replace(refund, parameters={"n": 1}))

    await executor.run(token, refund, parameters={"n": 1.0})

    assert type(executor.ran[0].parameters["n"]) is int


# --- 10 to 12: revocation, consumption, the clock again ---------------------------------------------------------------


async def test_10_a_revoked_token_is_refused(executor, service, refund):
    service.revoked.add("jti_" + "1" * 32)

    assert await executor.rejected(service.mint(refund, jti="jti_" + "1" * 32), refund) == "TOKEN_REVOKED"


async def test_11_a_token_runs_once(executor, service, refund, token):
    await executor.run(token, refund)
    executor.ran.clear()

    assert await executor.rejected(token, refund) == "TOKEN_CONSUMED"


async def test_11_two_tokens_of_one_intent_run_once(executor, service, refund):
    await executor.run(service.mint(refund, intent_id="int_1"), refund)
    executor.ran.clear()

    assert await executor.rejected(service.mint(refund, intent_id="int_1"), refund) == "TOKEN_CONSUMED"


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.ConnectError("refused"),
        httpx2.ReadTimeout("late"),
        (200, {"json": {}}),
        (200, {"json": {"consumed": True}}),
        (200, {"json": {"consumed": "true", "txn": "int_1", "jti": "jti_" + "1" * 32}}),
        (200, {"json": {"consumed": 1, "txn": "int_1", "jti": "jti_" + "1" * 32}}),
        (200, {"json": {"consumed": False, "txn": "int_1", "jti": "jti_" + "1" * 32}}),
        (200, {"json": {"consumed": True, "txn": "int_2", "jti": "jti_" + "1" * 32}}),
        (200, {"json": {"consumed": True, "txn": "int_1", "jti": "jti_" + "2" * 32}}),
        (200, {"json": [True]}),
        (200, {"text": "<html>ok</html>"}),
        (201, {"json": {"consumed": True, "txn": "int_1", "jti": "jti_" + "1" * 32}}),
        (204, {}),
        (302, {"headers": {"location": "/ok"}}),
        (401, {"json": {"reason_code": "UNAUTHENTICATED"}}),
        (500, {}),
        (503, {"json": {"reason_code": "AUDIT_UNAVAILABLE"}}),
    ],
    ids=str,
)
async def test_11_only_a_200_that_says_this_token_was_consumed_counts(executor, service, refund, answer):
    service.lie("/consume", answer if isinstance(answer, Exception) else httpx2.Response(answer[0], **answer[1]))
    token = service.mint(refund, intent_id="int_1", jti="jti_" + "1" * 32)

    assert await executor.rejected(token, refund) == "CONSUMPTION_UNAVAILABLE"
    assert sum(request.url.path.endswith("/consume") for request in service.seen) == 1, "it is never sent twice"


async def test_11_the_service_s_refusal_keeps_its_code(executor, service, refund, token):
    service.lie("/consume", problem(403, "TOKEN_MISMATCH"))

    assert await executor.rejected(token, refund) == "TOKEN_MISMATCH"


async def test_12_a_token_that_expires_while_it_is_consumed_does_not_run(service, refund):
    outside = ManualOutside(service, EXECUTOR_KEY)
    terms = Terms(issuer=BASE_URL, audience=EXECUTOR, environments=None, max_lifetime_s=60, run_s=30)
    gate = Gate(outside, PinnedKeys([service.key.public]), terms, OnlineConsumption(3))
    wanted = Wanted(action=refund.action, resource=refund.resource, parameters=refund.parameters)

    def slow(request):
        answer = service._consume(json.loads(request.content))
        outside.elapsed += 61
        return answer

    service.lie("/consume", slow)
    with pytest.raises(TokenRejected, match="expired"):
        await gate.admit(service.mint(refund), wanted)

    assert [outcome["status"] for outcome in service.outcomes] == ["failed"]


# --- 13, 14: run with a deadline, report ------------------------------------------------------------------------------


async def test_13_a_body_that_overruns_is_cancelled_and_its_outcome_is_unknown(service, refund, token):
    guard = Executor(service, plain=False, run_s=0.01).guard
    with pytest.raises(TimeoutError):
        async with guard.authorize(token, action=refund.action, resource=refund.resource, parameters=refund.parameters):
            await asyncio.Event().wait()

    assert [outcome["status"] for outcome in service.outcomes] == ["unknown"]


async def test_13_a_plain_body_is_told_how_long_it_has(service, refund, token):
    executor = Executor(service, plain=True, run_s=0.001)
    await executor.run(token, refund, lambda grant: None)

    assert executor.ran[0].remaining_s() <= 0.001


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("pay_123 of Alice"), "failed"),
        (TimeoutError(), "unknown"),
        (httpx2.ReadTimeout("late"), "unknown"),
        (KeyboardInterrupt(), "unknown"),
    ],
    ids=repr,
)
async def test_14_an_exception_is_reported_and_passes(executor, service, refund, token, error, status):
    def fail(_grant):
        raise error

    with pytest.raises(type(error)):
        await executor.run(token, refund, fail)

    (outcome,) = service.outcomes
    assert (outcome["status"], outcome["detail"]) == (status, type(error).__name__)


async def test_14_a_cancelled_body_is_of_unknown_outcome(service, refund, token):
    guard = Executor(service, plain=False).guard
    inside = asyncio.Event()

    async def run():
        async with guard.authorize(token, action=refund.action, resource=refund.resource, parameters=refund.parameters):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [outcome["status"] for outcome in service.outcomes] == ["unknown"]


async def test_14_an_outcome_that_cannot_be_told_is_told_on_the_next_call(executor, service, refund, caplog):
    service.lie("/outcome", httpx2.ConnectError("away"))
    await executor.run(service.mint(refund, intent_id="int_1"), refund)
    assert service.outcomes == []
    assert "could not be reported yet" in caplog.text

    await executor.run(service.mint(refund, intent_id="int_2"), refund)

    assert [outcome["jti"] for outcome in service.outcomes] == [grant.claims.jti for grant in executor.ran]


async def test_14_what_the_body_says_it_used_is_reported(executor, service, refund, token):
    def work(grant):
        grant.report_model_tokens(10)
        grant.report_model_tokens(1234)

    await executor.run(token, refund, work)

    [outcome] = service.outcomes
    assert (outcome["status"], outcome["model_tokens"]) == ("succeeded", 1234)


async def test_14_what_a_failed_body_used_is_reported_too(executor, service, refund, token):
    def work(grant):
        grant.report_model_tokens(7)
        raise LookupError

    with pytest.raises(LookupError):
        await executor.run(token, refund, work)

    assert [(outcome["status"], outcome["model_tokens"]) for outcome in service.outcomes] == [("failed", 7)]


@pytest.mark.parametrize("count", [-1, 10**12 + 1, 1.5, True, "3", None])
async def test_14_model_tokens_are_a_count(executor, service, refund, token, count):
    with pytest.raises(ValueError, match="count"):
        await executor.run(token, refund, lambda grant: grant.report_model_tokens(count))

    assert "model_tokens" not in service.outcomes[0]


async def test_14_sync_tells_what_was_kept(service, refund, token):
    executor = Executor(service, plain=True)
    service.lie("/outcome", httpx2.Response(503))
    await executor.run(token, refund)

    assert executor.guard.sync() == 1
    assert len(service.outcomes) == 1


async def test_14_an_outcome_that_the_service_refuses_is_given_up_loudly(executor, service, refund, token, caplog):
    service.lie("/outcome", problem(409, "OUTCOME_CONFLICT"))
    await executor.run(token, refund)

    assert "did not accept the outcome" in caplog.text
    await executor.run(service.mint(refund), refund)
    assert len(service.outcomes) == 1, "it is not told again"


async def test_14_what_is_kept_is_bounded(service, refund, caplog):
    outside = ManualOutside(service, EXECUTOR_KEY)
    consumption = OnlineConsumption(3)
    terms = Terms(issuer=BASE_URL, audience=EXECUTOR, environments=None, max_lifetime_s=60, run_s=30)
    gate = Gate(outside, PinnedKeys([service.key.public]), terms, consumption)
    wanted = Wanted(action=refund.action, resource=refund.resource, parameters=refund.parameters)
    grant = await gate.admit(service.mint(refund), wanted)
    service.lie("/outcome", *[httpx2.ConnectError("away")] * (MAX_RETAINED + 10))

    for _ in range(MAX_RETAINED + 2):
        await gate.report(grant.claims, OutcomeStatus.SUCCEEDED, "done")

    assert len(consumption._retained) == MAX_RETAINED
    assert caplog.text.count("is given up") == 2


# --- the ways to use it -----------------------------------------------------------------------------------------------


async def test_a_protected_function_runs_only_on_its_grant(service, refund, token):
    guard = Executor(service, plain=False).guard
    ran = []

    @guard.protect(refund.action)
    async def create_refund(grant):
        ran.append(grant.parameters)
        return grant.intent_id

    with pytest.raises(TokenRejected):
        await create_refund(token, resource=refund.resource, parameters={"amount_cents": 1})
    assert ran == []
    assert await create_refund(token, resource=refund.resource, parameters=refund.parameters)
    assert ran == [refund.parameters]
    with pytest.raises(TokenRejected, match="TOKEN_CONSUMED"):
        await create_refund(token, resource=refund.resource, parameters=refund.parameters)


def test_a_plain_protected_function_runs_only_on_its_grant(service, refund, token):
    guard = Executor(service, plain=True).guard
    create_refund = guard.protect(refund.action)(lambda grant: grant.parameters["amount_cents"])

    assert create_refund(token, resource=refund.resource, parameters=refund.parameters) == 4200
    with pytest.raises(TokenRejected, match="TOKEN_CONSUMED"):
        create_refund(token, resource=refund.resource, parameters=refund.parameters)


def test_a_function_that_would_run_after_the_guard_has_left_cannot_be_protected(service, refund, token):
    guard = Executor(service, plain=True).guard

    def generator(_grant):
        yield

    async def asynchronous():
        return None

    with pytest.raises(TypeError, match="generator"):
        guard.protect(refund.action)(generator)
    late = []
    sneaky = guard.protect(refund.action)(lambda _grant: late.append(asynchronous()) or late[0])
    with pytest.raises(TypeError, match="awaitable"):
        sneaky(token, resource=refund.resource, parameters=refund.parameters)
    late[0].close()


async def test_an_authorization_is_entered_once(service, refund, token):
    guard = Executor(service, plain=True).guard
    authorization = guard.authorize(token, action=refund.action, resource=refund.resource, parameters=refund.parameters)
    with authorization:
        pass

    with pytest.raises(RuntimeError, match="once"), authorization:
        pass


async def test_without_keys_nothing_verifies(executor, service, refund, token):
    service.lie("jwks.json", httpx2.Response(200, json={"keys": []}))

    assert await executor.rejected(token, refund) == "SERVICE_UNAVAILABLE"


@pytest.mark.parametrize(
    "options",
    [
        {"environments": frozenset()},
        {"accepted_modes": frozenset()},
        {"accepted_modes": frozenset({"normal"})},
        {"max_lifetime_s": 0},
        {"max_lifetime_s": 10**6},
        {"run_s": 0},
        {"run_s": float("inf")},
        {"run_s": float("nan")},
        {"call_s": 0},
        {"replay": "offline"},
    ],
    ids=str,
)
def test_a_guard_with_terms_that_guard_nothing_is_refused(service, options):
    with pytest.raises(ValueError, match=r".+"):
        Executor(service, plain=True, **options)


def test_a_guard_without_an_audience_or_credential_is_refused():
    for credential, audience in ((EXECUTOR_KEY, ""), ("", EXECUTOR)):
        with pytest.raises(ValueError, match=r".+"):
            Guard(BASE_URL, credential, audience)


def test_the_digest_covers_the_executor(refund):
    """So that a token for one executor cannot be turned to another that has an action of the same name."""
    digests = {
        Action(action=refund.action, resource=refund.resource, parameters={}, executor=name).digest()
        for name in ("payments-api", "deploy-tool")
    }
    assert len(digests) == 2


def _decode(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
