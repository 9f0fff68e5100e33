"""An agent gets an authority only for a verified 200. Both clients, against a fake of the service's contract."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx2
import pytest
from holdfast.client import Client
from holdfast.errors import InvalidIntent, NotDecided, Refused, ServiceUnavailable
from holdfast.intent import Action, Resource
from holdfast.jwks import PinnedKeys
from holdfast.reasons import ReasonCode
from sdk_fake_service import AGENT, AGENT_KEY, BASE_URL, SigningKey, problem


async def test_an_allowed_intent_comes_back_as_a_verified_authority(agent, service, refund):
    authority = await agent.submit(refund)

    action = Action(
        action=refund.action, resource=refund.resource, parameters=refund.parameters, executor=refund.executor
    )
    assert authority.claims.act_hash == action.digest()
    assert authority.claims.txn == authority.intent_id == authority.envelope["intent_id"]
    assert authority.token == service.intents[authority.intent_id].token


async def test_an_intent_may_be_given_in_keywords(agent):
    authority = await agent.submit(action="payments.refund.create", resource=Resource(type="payment", id="p"))

    assert authority.claims.action == "payments.refund.create"


async def test_an_intent_and_its_keywords_together_are_refused_before_anything_is_sent(agent, service, refund):
    assert isinstance(await agent.refused(refund, action="other"), InvalidIntent)
    assert isinstance(await agent.refused(), InvalidIntent)
    assert service.seen == []


async def test_what_is_sent_is_what_is_digested_even_if_the_caller_changes_it_meanwhile(agent, service, refund):
    """The dictionary is the caller's; the bytes are ours."""
    parameters = {"amount_cents": 4200, "nested": {"a": [1]}}

    def change(request):
        parameters["nested"]["a"].append(2)
        return httpx2.Response(502)

    service.lie("/v1/intents", change)
    authority = await agent.submit(replace(refund, parameters=parameters))

    sent = [json.loads(request.content)["parameters"] for request in service.seen if request.method == "POST"]
    assert sent == [{"amount_cents": 4200, "nested": {"a": [1]}}] * 2
    assert authority.claims.action == refund.action


@pytest.mark.parametrize(
    "parameters",
    [{"n": float("nan")}, {"n": 2**53}, {"n": 1e20}, {"t": "\ud800"}, {"o": object()}, {1: 2}, [1]],
    ids=["nan", "huge integer", "float that reads back as a huge integer", "surrogate", "object", "key", "list"],
)
async def test_what_json_cannot_carry_exactly_is_refused_before_anything_is_sent(agent, service, refund, parameters):
    assert isinstance(await agent.refused(replace(refund, parameters=parameters)), InvalidIntent)
    assert service.seen == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (ReasonCode.POLICY_DENIED, Refused),
        (ReasonCode.INTENT_UNCLASSIFIED, Refused),
        (ReasonCode.RATE_LIMITED, Refused),
        (ReasonCode.APPROVAL_REQUIRED, Refused),
        (ReasonCode.EVALUATION_UNAVAILABLE, NotDecided),
        (ReasonCode.SIGNING_UNAVAILABLE, NotDecided),
        (ReasonCode.QUEUE_FULL, NotDecided),
    ],
)
async def test_every_other_outcome_is_an_error_that_carries_code_and_envelope(agent, service, refund, code, kind):
    service.verdict = code

    error = await agent.refused(refund)

    assert type(error) is kind
    assert error.code == code
    assert error.envelope["reason_code"] == code
    assert error.retry_after == (7 if error.http_status in (429, 503) else None)


async def test_a_request_that_never_became_an_intent_is_refused_with_its_code(new_agent, service, refund):
    service.lie("/v1/intents", problem(400, "IDEMPOTENCY_KEY_REQUIRED"))

    error = await new_agent().refused(refund)

    assert (type(error), error.code, error.http_status) == (Refused, "IDEMPOTENCY_KEY_REQUIRED", 400)


def _allowed(service, refund, **changes):
    """Return a handler that answers 200 with an envelope which `changes` spoil."""

    def answer(_request):
        token = service.mint(refund, intent_id="int_1")
        envelope = {
            "intent_id": "int_1",
            "status": "granted",
            "decision": "allow",
            "reason_code": "ALLOWED",
            "token": token,
        }
        return httpx2.Response(200, json={k: v for k, v in (envelope | changes).items() if v is not ...})

    return answer


@pytest.mark.parametrize(
    "changes",
    [
        {"token": ...},
        {"token": None},
        {"token": ""},
        {"token": "a.b.c"},
        {"token": 7},
        {"token": ["x"]},
        {"intent_id": ...},
        {"intent_id": "int_2"},
        {"status": "denied"},
        {"status": "queued"},
        {"decision": "deny"},
        {"decision": ...},
        {"reason_code": "POLICY_DENIED"},
    ],
    ids=str,
)
async def test_a_200_without_a_token_for_this_intent_is_no_permission(agent, service, refund, changes):
    service.lie("/v1/intents", _allowed(service, refund, **changes))

    assert type(await agent.refused(refund)) is ServiceUnavailable


async def test_the_same_200_unspoiled_is_a_permission(agent, service, refund):
    """Otherwise the cases above would prove nothing."""
    service.lie("/v1/intents", _allowed(service, refund))

    assert (await agent.submit(refund)).intent_id == "int_1"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://elsewhere.test"},
        {"aud": "deploy-tool"},
        {"txn": "int_other"},
        {"action": "payments.refund.delete"},
        {"act_hash": "sha-256:" + "A" * 43},
        {"exp": 1_000_000_060, "iat": 1_000_000_000, "nbf": 1_000_000_000},
        {"exp": 2**40},
        {"nbf": 2**40, "exp": 2**40 + 1},
        {"ver": 2},
        {"mode": "free"},
        {"rcp": "none"},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_a_token_whose_claims_are_not_for_this_is_no_permission(agent, service, refund, changes):
    service.claims_with = changes

    assert type(await agent.refused(refund)) is ServiceUnavailable


async def test_a_token_for_other_parameters_is_no_permission(agent, service, refund):
    other = replace(refund, parameters={"amount_cents": 420_000, "currency": "EUR"})
    service.lie("/v1/intents", _allowed(service, other))

    assert "another action" in str(await agent.refused(refund))


async def test_a_token_signed_by_a_key_outside_the_key_set_is_no_permission(agent, service, refund):
    thief = SigningKey()
    service.lie("/v1/intents", _allowed(service, refund, token=service.mint(refund, intent_id="int_1", key=thief)))

    assert type(await agent.refused(refund)) is ServiceUnavailable


async def test_a_token_for_another_agent_is_no_permission_to_an_agent_that_knows_its_name(new_agent, service, refund):
    service.claims_with = {"sub": "other-bot"}
    assert (await new_agent().submit(refund)).claims.sub == "other-bot"

    assert "another agent" in str(await new_agent(agent=AGENT).refused(refund))


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, {"text": "<html>ok</html>"}),
        (200, {"content": b'{"token": "eyJ'}),
        (200, {"content": b'{"token": "a", "token": "b"}'}),
        (200, {"content": b""}),
        (200, {"json": []}),
        (201, {"json": {"token": "x"}}),
        (204, {}),
        (301, {"headers": {"location": "/elsewhere"}}),
        (307, {"headers": {"location": "https://evil.test/"}}),
        (403, {"text": "<html>forbidden</html>"}),
        (403, {"json": {"reason_code": 7}}),
        (503, {"text": "no healthy upstream"}),
        (500, {"json": {"reason_code": "ALLOWED"}}),
        (500, {}),
        (418, {"json": {}}),
    ],
    ids=str,
)
async def test_an_answer_that_is_not_the_service_s_is_unavailability(agent, service, refund, status, answer):
    service.lie("/v1/intents", httpx2.Response(status, **answer))

    assert type(await agent.refused(refund)) is ServiceUnavailable
    assert [request.url.path for request in service.seen] == ["/v1/intents"], "nothing is followed or asked again"


async def test_the_retry_of_a_lost_request_carries_the_same_key_and_gets_the_same_intent(agent, service, refund):
    """The first request arrived; only its answer was lost."""

    def arrived(request):
        service._submit(request)
        return httpx2.ReadTimeout("lost")

    service.lie("/v1/intents", arrived, httpx2.Response(504), httpx2.Response(502))
    with pytest.raises(ServiceUnavailable):
        await agent.submit(refund, idempotency_key="once")
    authority = await agent.submit(refund, idempotency_key="once")

    keys = {request.headers["idempotency-key"] for request in service.seen if request.url.path == "/v1/intents"}
    assert keys == {"once"}
    assert list(service.intents) == [authority.intent_id]


async def test_every_submission_gets_a_key_of_its_own_unless_one_is_given(agent, service, refund):
    await agent.submit(refund)
    await agent.submit(refund)

    first, second = (r.headers["idempotency-key"] for r in service.seen if r.url.path == "/v1/intents")
    assert first != second


async def test_retries_end(agent, service, refund):
    service.lie("/v1/intents", *[httpx2.ConnectError("refused")] * 10)

    assert type(await agent.refused(refund)) is ServiceUnavailable
    assert len(service.seen) == 3


async def test_what_an_intent_replaces_is_named_in_a_header_and_again_when_the_request_is_repeated(
    agent, service, refund
):
    service.lie("/v1/intents", httpx2.Response(502))
    await agent.submit(refund, idempotency_key="new", supersedes="old")
    await agent.submit(refund, idempotency_key="other")

    sent = [(r.headers["idempotency-key"], r.headers.get("supersedes")) for r in service.seen if r.method == "POST"]
    assert sent == [("new", "old"), ("new", "old"), ("other", None)]


@pytest.mark.parametrize("key", ["", "a b", "\n", "é", "x" * 256])
async def test_a_malformed_key_of_what_to_replace_is_refused_before_anything_is_sent(agent, service, refund, key):
    assert isinstance(await agent.refused(refund, supersedes=key), InvalidIntent)
    assert service.seen == []


@pytest.mark.parametrize("key", ["", "a b", "\n", "é", "x" * 256])
async def test_a_malformed_idempotency_key_is_refused_before_anything_is_sent(agent, service, refund, key):
    assert isinstance(await agent.refused(refund, idempotency_key=key), InvalidIntent)
    assert service.seen == []


async def test_waiting_follows_a_queued_intent_to_its_claim(agent, service, refund):
    service.verdict = ReasonCode.EVALUATION_UNAVAILABLE
    service.on_poll = [
        ("queued", "EVALUATION_UNAVAILABLE"),
        httpx2.ConnectError("the service restarts"),
        ("claimable", "EVALUATION_UNAVAILABLE"),
    ]
    told = []

    authority = await agent.submit(refund, wait=30, on_progress=lambda envelope: told.append(envelope["status"]))

    assert told == ["queued", "claimable"]
    assert authority.envelope["status"] == "granted"
    assert service.seen[-1].url.path.endswith("/claim") or service.seen[-1].url.path.endswith("jwks.json")


async def test_waiting_outlives_a_service_that_restarts_at_any_step(agent, service, refund):
    """With the same key and the same intent: what was lost is asked again, and nothing is asked for twice."""
    gone = [httpx2.ConnectError("the service restarts")] * 20
    service.verdict = ReasonCode.EVALUATION_UNAVAILABLE
    service.lie("/v1/intents", *gone, httpx2.Response(502), httpx2.Response(504))
    service.on_poll = [*gone, ("claimable", "ALLOWED")]
    service.lie("/claim", *gone, httpx2.Response(502))

    authority = await agent.submit(refund, wait=60)

    assert authority.envelope["status"] == "granted"
    assert len(service.intents) == 1
    keys = {request.headers["idempotency-key"] for request in service.seen if request.url.path == "/v1/intents"}
    assert len(keys) == 1


async def test_without_a_wait_nobody_is_waited_for(agent, service, refund):
    service.lie("/v1/intents", *[httpx2.ConnectError("away")] * 20)

    assert type(await agent.refused(refund)) is ServiceUnavailable
    assert len(service.seen) == 3


async def test_a_claim_whose_token_does_not_verify_ends_the_wait(agent, service, refund):
    service.verdict = ReasonCode.EVALUATION_UNAVAILABLE
    service.on_poll = [("claimable", "ALLOWED")]
    service.claims_with = {"aud": "another-executor"}

    assert type(await agent.refused(refund, wait=60)) is ServiceUnavailable


async def test_waiting_ends_with_the_final_no(agent, service, refund):
    service.verdict = ReasonCode.APPROVAL_REQUIRED
    service.on_poll = [("held", "APPROVAL_REQUIRED"), ("denied", "OPERATOR_DENIED")]

    error = await agent.refused(refund, wait=30)

    assert (type(error), error.code) == (Refused, "OPERATOR_DENIED")


async def test_waiting_ends_at_its_deadline_undecided(agent, service, refund):
    service.verdict = ReasonCode.EVALUATION_UNAVAILABLE

    error = await agent.refused(refund, wait=0)

    assert (type(error), error.code) == (NotDecided, "EVALUATION_UNAVAILABLE")


async def test_an_allow_that_cannot_be_claimed_in_time_is_undecided(agent, service, refund):
    """Claimable is not a permission: the token comes with the claim, which fails here."""
    service.verdict = ReasonCode.EVALUATION_UNAVAILABLE
    service.on_poll = [("claimable", "ALLOWED")] * 50_000
    service.lie("/claim", *[lambda _: problem(503, "SIGNING_UNAVAILABLE")] * 50_000)

    error = await agent.refused(refund, wait=0.05)

    assert (type(error), error.http_status == 200) == (NotDecided, False)


async def test_a_submission_repeated_when_it_is_claimable_is_claimed_by_waiting(agent, service, refund):
    service.verdict = ReasonCode.EVALUATION_UNAVAILABLE
    intent_id = (await agent.refused(refund, idempotency_key="k")).envelope["intent_id"]
    stored = service.intents[intent_id]
    stored.status = "claimable"
    claimable = service._envelope(stored) | {"reason_code": "ALLOWED"}
    service.lie("/v1/intents", *[lambda _: httpx2.Response(202, json=claimable)] * 2)

    assert type(await agent.refused(refund, idempotency_key="k")) is NotDecided
    assert (await agent.submit(refund, idempotency_key="k", wait=5)).intent_id == intent_id


async def test_an_intent_that_nobody_keeps_is_not_waited_for(agent, service, refund):
    service.verdict, service.queued = ReasonCode.EVALUATION_UNAVAILABLE, False

    error = await agent.refused(refund, wait=30)

    assert error.envelope["status"] == "unqueued"
    assert len(service.seen) == 1


async def test_a_rule_s_no_is_not_waited_for(agent, service, refund):
    service.verdict = ReasonCode.POLICY_DENIED

    assert type(await agent.refused(refund, wait=30)) is Refused
    assert len(service.seen) == 1


async def test_a_claim_is_checked_against_what_this_client_asked(agent, service, refund):
    service.verdict = ReasonCode.EVALUATION_UNAVAILABLE
    intent_id = (await agent.refused(refund)).envelope["intent_id"]
    stored = service.intents[intent_id]
    stored.status = "claimable"
    stored.intent = replace(refund, parameters={"amount_cents": 1})

    with pytest.raises(ServiceUnavailable, match="another action"):
        await agent.claim(intent_id)


async def test_a_claim_needs_to_know_what_was_asked(new_agent, service, refund):
    service.verdict = ReasonCode.EVALUATION_UNAVAILABLE
    intent_id = (await new_agent().refused(refund)).envelope["intent_id"]
    service.intents[intent_id].status = "claimable"
    fresh = new_agent()

    with pytest.raises(InvalidIntent):
        await fresh.claim(intent_id)
    assert service.intents[intent_id].status == "claimable", "nothing was asked of the service"
    assert (await fresh.claim(intent_id, intent=refund)).intent_id == intent_id


async def test_an_early_claim_is_refused(agent, service, refund):
    service.verdict = ReasonCode.EVALUATION_UNAVAILABLE
    intent_id = (await agent.refused(refund)).envelope["intent_id"]

    with pytest.raises(Refused, match="NOT_CLAIMABLE"):
        await agent.claim(intent_id)


async def test_looking_and_cancelling(agent, service, refund):
    service.verdict = ReasonCode.EVALUATION_UNAVAILABLE
    intent_id = (await agent.refused(refund)).envelope["intent_id"]

    assert (await agent.get(intent_id))["status"] == "queued"
    await agent.cancel(intent_id)
    assert (await agent.get(intent_id))["status"] == "cancelled"
    with pytest.raises(Refused, match="NOT_FOUND"):
        await agent.get("int_other")
    with pytest.raises(InvalidIntent):
        await agent.get("../tokens")


async def test_pinned_keys_verify_without_asking_for_any(new_agent, service, refund):
    pinned = new_agent(keys=PinnedKeys([service.key.public]))

    await pinned.submit(refund)

    assert [request.url.path for request in service.seen] == ["/v1/intents"]


async def test_the_credential_shows_nowhere(new_agent, service, refund):
    agent = new_agent()
    service.lie("/v1/intents", *[httpx2.ConnectError(f"no route for {AGENT_KEY}")] * 3)

    error = await agent.refused(refund)

    said = [
        repr(agent.client),
        str(error),
        repr(error),
        str(error.__cause__),
        repr(vars(agent.client)["_conversation"]),
    ]
    assert not any(AGENT_KEY in text for text in said)
    with pytest.raises(ValueError, match="credential") as caught:
        Client(BASE_URL, "hfa_ secret\r\n")
    assert "secret" not in str(caught.value)


async def test_the_credential_is_not_sent_along_for_the_public_keys(agent, service, refund):
    await agent.submit(refund)

    (request,) = [request for request in service.seen if request.url.path.endswith("jwks.json")]
    assert "authorization" not in request.headers


@pytest.mark.parametrize(
    "url", ["http://holdfast.example", "ftp://x", "holdfast", "https://u:p@host", "https://host/?a=1", "", "http://"]
)
def test_a_base_url_that_would_leak_the_credential_is_refused(url):
    with pytest.raises(ValueError, match=r"base URL|plain http"):
        Client(url, AGENT_KEY)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8420", "http://localhost:1", "http://[::1]:1", "https://a.b/c/"])
def test_loopback_and_https_are_good_base_urls(url):
    with Client(url, AGENT_KEY) as client:
        assert url.rstrip("/") in repr(client)


def test_plain_http_elsewhere_must_be_asked_for_by_name():
    with Client("http://api:8420", AGENT_KEY, allow_plain_http=True) as client:
        assert "api:8420" in repr(client)
