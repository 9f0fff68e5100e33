"""How a token comes to be signed."""

import json
import logging
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from holdfast.reasons import Mode
from holdfast.token import b64url, header_segment, verify_signature

from signer import signing, wire
from signer.profile import MemoryFull, OnePayload, OtherPayload, ProfileViolation
from signer.signing import MalformedClaims, Signer, SigningFault


@pytest.fixture
def memory():
    return OnePayload(capacity=4)


@pytest.fixture
def signer(key, profile, memory):
    return Signer(key=key, profile=profile, memory=memory)


def test_a_token_carries_exactly_the_claims(signer, key, make_claims, now):
    claims = make_claims(obo="user:zoë", cnf_jkt="j" * 43, apr="apr_1")

    token = signer.sign(claims.to_json(), replaces=None, now=now)

    assert verify_signature(token, [key.public]) == claims
    assert token.split(".")[0] == header_segment(key.public.kid)


def test_the_same_claims_give_the_same_token_in_whatever_order_they_come(signer, make_claims, now):
    claims = make_claims().to_json()

    first = signer.sign(claims, replaces=None, now=now)
    again = signer.sign(dict(reversed(claims.items())), replaces=None, now=now + 59)

    assert again == first


def test_a_restarted_signer_gives_the_same_token(key, profile, make_claims, now):
    tokens = {
        Signer(key=key, profile=profile, memory=OnePayload(capacity=1)).sign(
            make_claims().to_json(), replaces=None, now=now
        )
        for _ in range(2)
    }

    assert len(tokens) == 1


@pytest.mark.parametrize(
    "payload",
    [None, [], "x", 1, {}, {"iss": "x"}],
)
def test_what_is_not_a_claim_set_is_malformed(signer, now, payload):
    with pytest.raises(MalformedClaims):
        signer.sign(payload, replaces=None, now=now)


@pytest.mark.parametrize(
    "change", [{"surprise": 1}, {"exp": "1767225660"}, {"risk": True}, {"ver": 2}, {"jti": "j"}, {"cnf": {}}]
)
def test_a_claim_set_that_is_not_the_contract_s_is_malformed(signer, make_claims, now, change):
    with pytest.raises(MalformedClaims):
        signer.sign(make_claims().to_json() | change, replaces=None, now=now)


def test_claims_outside_the_profile_are_not_signed_and_not_remembered(signer, memory, make_claims, now):
    with pytest.raises(ProfileViolation):
        signer.sign(make_claims(aud="elsewhere").to_json(), replaces=None, now=now)

    assert len(memory) == 0
    assert signer.sign(make_claims().to_json(), replaces=None, now=now)


def test_an_intent_has_one_payload(signer, key, make_claims, now):
    first = make_claims()
    second = make_claims(jti="jti_" + "0b" * 16, exp=now + 30)
    signer.sign(first.to_json(), replaces=None, now=now)

    with pytest.raises(OtherPayload):
        signer.sign(second.to_json(), replaces=None, now=now)
    with pytest.raises(OtherPayload):
        signer.sign(second.to_json(), replaces=second.jti, now=now)
    token = signer.sign(second.to_json(), replaces=first.jti, now=now)

    assert verify_signature(token, [key.public]) == second


def test_a_token_that_was_signed_can_be_signed_again_when_it_is_no_longer_fresh(signer, make_claims, now):
    claims = make_claims().to_json()
    signer.sign(claims, replaces=None, now=now)

    assert signer.sign(claims, replaces=None, now=now + 30)
    with pytest.raises(ProfileViolation):
        signer.sign(claims, replaces=None, now=now + 60)
    with pytest.raises(ProfileViolation):
        signer.sign(make_claims(txn="int_2").to_json(), replaces=None, now=now + 30)


def test_a_full_memory_signs_nothing_new_and_is_not_healthy(signer, make_claims, now):
    for number in range(4):
        signer.sign(make_claims(txn=f"int_{number}").to_json(), replaces=None, now=now)

    with pytest.raises(MemoryFull):
        signer.sign(make_claims(txn="int_4").to_json(), replaces=None, now=now)
    with pytest.raises(MemoryFull):
        signer.canary("0" * 32, now=now)
    assert signer.sign(make_claims(txn="int_0").to_json(), replaces=None, now=now)
    assert signer.canary("0" * 32, now=now + 60)


def test_a_token_longer_than_executors_read_is_not_signed(signer, make_claims, now):
    long = dict.fromkeys(("sub", "env", "action", "category", "obo", "bid", "apr"), "é" * 512)

    with pytest.raises(ProfileViolation, match="too long"):
        signer.sign(make_claims(**long).to_json(), replaces=None, now=now)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_length_is_reckoned_to_the_character(signer, key, make_claims, now, length):
    claims = make_claims(sub="s" * length)

    token = signer.sign(claims.to_json(), replaces=None, now=now)

    payload = json.dumps(claims.to_json(), separators=(",", ":")).encode()
    assert signing._token_characters(payload, key.public.kid) == len(token)


def test_a_signature_that_does_not_verify_never_leaves(key, profile, memory, make_claims, now):
    """The private key in memory is not the one that was published: a flipped bit, or a mix-up."""
    faulty = replace(key, private=Ed25519PrivateKey.from_private_bytes(bytes(32)))
    signer = Signer(key=faulty, profile=profile, memory=memory)

    with pytest.raises(SigningFault):
        signer.sign(make_claims().to_json(), replaces=None, now=now)
    with pytest.raises(SigningFault):
        signer.canary("0" * 32, now=now)


def test_a_token_that_says_something_else_never_leaves(signer, key, make_claims, now):
    """It verifies, and is not what was asked for."""
    asked_for = make_claims()
    token = signer.sign(asked_for.to_json(), replaces=None, now=now)

    signing.check_made(token, asked_for, key.public)
    for other in (make_claims(aud="deploy"), make_claims(exp=now + 61), make_claims(obo="user:alice")):
        with pytest.raises(SigningFault, match="something else"):
            signing.check_made(token, other, key.public)


def test_health_is_a_signature_over_the_nonce(signer, key, now):
    nonce = "5a" * 16

    key.public.key.verify(wire.read_signature(signer.canary(nonce, now=now)), wire.canary_message(nonce))


def test_the_published_keys_hold_no_private_part(signer, key):
    assert signer.jwks() == [key.public.to_jwk()]
    assert "d" not in signer.jwks()[0]
    assert b64url(key.private.private_bytes_raw()) not in str(signer.jwks())


def test_another_profile_counts_from_the_next_token_on(signer, profile, make_claims, now):
    signer.profile = replace(profile, modes=frozenset({Mode.BREAK_GLASS}))

    with pytest.raises(ProfileViolation):
        signer.sign(make_claims().to_json(), replaces=None, now=now)


def test_a_token_outside_the_normal_way_is_in_the_signer_s_own_log(signer, make_claims, now, caplog):
    """A service that is taken over cannot hide it there."""
    with caplog.at_level(logging.INFO, "holdfast.signer"):
        signer.sign(make_claims(txn="int_1").to_json(), replaces=None, now=now)
        assert caplog.records == []
        signer.sign(make_claims(txn="int_2", mode="break_glass", brk="brk_1").to_json(), replaces=None, now=now)

    assert "int_2" in caplog.text
    assert "break_glass" in caplog.text
