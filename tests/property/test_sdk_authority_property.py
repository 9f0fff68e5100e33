"""Invariant 2, from the agent's side: whatever comes back, an authority is a verified token for what was asked."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import httpx2
from holdfast.client import Client
from holdfast.errors import HoldfastError
from holdfast.intent import Action, Intent, Resource
from holdfast.submission import Patience
from holdfast.token import check_claims, verify_signature
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "unit" / "sdk"))

from sdk_fake_service import AGENT_KEY, BASE_URL, EXECUTOR, FakeService, SigningKey

REFUND = Intent(
    action="payments.refund.create",
    resource=Resource(type="payment", id="pay_123"),
    parameters={"amount_cents": 4200},
    executor=EXECUTOR,
)
SERVICE = FakeService()
THIEF = SigningKey()
CODES = ["ALLOWED", "POLICY_DENIED", "EVALUATION_UNAVAILABLE", "", None, 7]

claim_changes = st.fixed_dictionaries(
    {},
    optional={
        "iss": st.sampled_from([BASE_URL, "https://elsewhere.test"]),
        "aud": st.sampled_from([EXECUTOR, "deploy-tool"]),
        "txn": st.sampled_from(["int_1", "int_2"]),
        "exp": st.integers(0, 2**40),
        "nbf": st.integers(0, 2**40),
        "action": st.sampled_from([REFUND.action, "other"]),
        "act_hash": st.just("sha-256:" + "A" * 43),
        "ver": st.integers(0, 3),
        "mode": st.sampled_from(["normal", "break_glass", "free"]),
        "risk": st.integers(-1, 101),
    },
)


@st.composite
def tokens(draw):
    """Return tokens that are good, nearly good, cut, or noise."""
    key = draw(st.sampled_from([SERVICE.key, SERVICE.key, SERVICE.key, THIEF]))
    intent = draw(st.sampled_from([REFUND, replace(REFUND, parameters={"amount_cents": 1})]))
    changes = {"txn": "int_1"} | draw(st.one_of(st.just({}), claim_changes))
    token = SERVICE.mint(intent, key=key, **changes)
    return draw(st.one_of(st.just(token), st.just(token[: draw(st.integers(0, len(token)))]), st.text(max_size=20)))


@st.composite
def answers(draw):
    """Return a status and a body."""
    status = draw(st.one_of(st.just(200), st.just(200), st.integers(200, 599)))
    envelope = {
        "intent_id": draw(st.sampled_from(["int_1", "int_1", "int_2", None])),
        "status": draw(st.sampled_from(["granted", "granted", "queued", "claimable", [], None])),
        "decision": draw(st.sampled_from(["allow", "allow", "deny", None])),
        "reason_code": draw(st.sampled_from(["ALLOWED", *CODES])),
        "token": draw(st.one_of(tokens(), st.sampled_from([None, 7, [], {}]))),
        "detail": draw(st.one_of(st.text(max_size=5), st.none())),
    }
    body = json.dumps(envelope).encode()
    return status, draw(st.one_of(st.just(body), st.just(body), st.just(body[:-1]), st.binary(max_size=30)))


def test_no_authority_comes_out_unless_everything_verifies():
    granted = []

    @given(answers())
    @settings(max_examples=400, deadline=None)
    def hold(answer):
        authority = submit(*answer)
        if authority is None:
            return
        granted.append(authority)
        claims = verify_signature(authority.token, [SERVICE.key.public])
        check_claims(
            claims,
            issuer=BASE_URL,
            audience=EXECUTOR,
            environments=None,
            now=SERVICE.now(),
            max_lifetime_s=3600,
        )
        action = Action(action=REFUND.action, resource=REFUND.resource, parameters=REFUND.parameters, executor=EXECUTOR)
        assert answer[0] == 200
        assert claims == authority.claims
        assert (claims.act_hash, claims.txn) == (action.digest(), "int_1")

    hold()
    assert granted, "a client that never says yes would hold the property too"


def submit(status, body):
    """Return the authority that the client makes of an answer, or None for an error of the contract."""

    def handle(request):
        if request.url.path.endswith("jwks.json"):
            return SERVICE.handle(request)
        return httpx2.Response(status, content=body)

    patience = Patience(attempts=1, first_pause_s=0)
    with Client(BASE_URL, AGENT_KEY, transport=httpx2.MockTransport(handle), patience=patience) as client:
        try:
            return client.submit(REFUND)
        except HoldfastError:
            return None
