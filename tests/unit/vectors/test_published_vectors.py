"""Vectors that others published, read from beside the checkout where they are."""

import json
from pathlib import Path

import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from holdfast import strict_json
from holdfast.errors import TokenRejected
from holdfast.token import VerifyKey, b64url, header_segment, thumbprint, verify_signature

PUBLISHED = Path(__file__).parents[4] / "shared" / "vectors"

pytestmark = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published vectors are not beside the checkout")

JCS = ("arrays", "french", "structures", "unicode", "values", "weird")
ANY_KEY = VerifyKey.from_public_bytes(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))


def wycheproof(name: str):
    return json.loads((PUBLISHED / "wycheproof" / f"{name}.json").read_text("utf-8"))["testGroups"]


@pytest.mark.parametrize("name", JCS)
def test_rfc_8785_documents_have_the_published_canonical_form(name):
    document = strict_json.loads((PUBLISHED / "jcs" / "input" / f"{name}.json").read_bytes())

    canonical = rfc8785.dumps(document)

    assert canonical == (PUBLISHED / "jcs" / "output" / f"{name}.json").read_bytes()
    assert canonical == bytes.fromhex((PUBLISHED / "jcs" / "outhex" / f"{name}.txt").read_text("ascii"))


def test_ed25519_verifies_what_wycheproof_calls_valid_and_nothing_else():
    """Small-order keys are refused when they are enrolled, before any signature is looked at."""
    wrong, seen = [], 0
    for group in wycheproof("ed25519_test"):
        key = VerifyKey.from_public_bytes(bytes.fromhex(group["publicKey"]["pk"]))
        for case in group["tests"]:
            seen += 1
            try:
                key.key.verify(bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]))
                verified = True
            except InvalidSignature:
                verified = False
            if verified != (case["result"] == "valid"):
                wrong.append(case["tcId"])
    assert seen == 151
    assert wrong == []


def test_no_wycheproof_jws_is_accepted_whatever_key_is_trusted():
    """None of them is an authority token, the valid ones least of all."""
    accepted, seen = [], 0
    for name in ("json_web_signature_test", "json_web_crypto_test", "json_web_key_test"):
        for group in wycheproof(name):
            for case in group["tests"]:
                jws = case.get("jws")
                if not isinstance(jws, str):  # JWE, and the JSON serialisation
                    continue
                seen += 1
                # A key that claims the case's own header gets past the comparison of headers.
                pinned = VerifyKey(ANY_KEY.public_bytes, ANY_KEY.kid, jws.split(".")[0], ANY_KEY.key)
                for keys in ((), (ANY_KEY,), (pinned,)):
                    try:
                        verify_signature(jws, keys)
                    except TokenRejected:
                        continue
                    accepted.append((name, case["tcId"]))
    assert seen > 450
    assert accepted == []


def test_no_wycheproof_jwk_is_taken_as_a_key():
    """They are RSA, EC and symmetric keys; those that are Ed25519 hold a private part."""
    taken = []
    for name in ("json_web_key_test", "json_web_signature_test", "json_web_crypto_test"):
        for group in wycheproof(name):
            for part in ("public", "private"):
                held = group.get(part, {})
                for jwk in held.get("keys", [held]):
                    try:
                        VerifyKey.from_jwk(jwk)
                    except ValueError:
                        continue
                    taken.append((name, group["comment"], part))
    assert taken == []


def test_an_ed448_key_is_never_taken():
    for group in wycheproof("ed448_test"):
        raw = bytes.fromhex(group["publicKey"]["pk"])
        with pytest.raises(ValueError, match="32 bytes"):
            VerifyKey.from_public_bytes(raw)
        with pytest.raises(ValueError, match="not an Ed25519 key"):
            VerifyKey.from_jwk(group["publicKeyJwk"])
        with pytest.raises(ValueError, match="32 bytes"):
            VerifyKey.from_jwk(group["publicKeyJwk"] | {"crv": "Ed25519"})


def test_an_ed448_signature_is_never_accepted():
    """PyJWT's `EdDSA` covers Ed448 too: its 114 bytes of signature must get nowhere."""
    for group in wycheproof("ed448_test"):
        for case in group["tests"]:
            signature = bytes.fromhex(case["sig"])
            if not signature:
                continue
            token = f"{ANY_KEY.header_segment}.e30.{b64url(signature)}"
            with pytest.raises(TokenRejected):
                verify_signature(token, [ANY_KEY])


def test_a_known_header_is_needed_before_anything_else():
    kid = thumbprint(ANY_KEY.public_bytes)

    with pytest.raises(TokenRejected, match="signature"):
        verify_signature(f"{header_segment(kid)}.e30.AAAA", [ANY_KEY])
