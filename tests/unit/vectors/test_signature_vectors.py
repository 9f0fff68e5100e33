"""Signatures and tokens, against RFC 8032, RFC 8037 and a token made with other tools."""

import json
from pathlib import Path

import jwt
import pytest
from holdfast.token import Claims, VerifyKey, verify_signature

from signer.keyfile import SigningKey
from signer.profile import OnePayload, Profile
from signer.signing import Signer

VECTORS = Path(__file__).parents[2] / "vectors"
RFC8032 = json.loads((VECTORS / "rfc8032.json").read_text("utf-8"))["cases"]
TOKEN = json.loads((VECTORS / "token.json").read_text("utf-8"))


@pytest.mark.parametrize("case", RFC8032, ids=lambda case: case["name"])
def test_the_signing_key_gives_the_signature_of_rfc_8032(case):
    key = SigningKey.from_seed(bytes.fromhex(case["secret"]))

    assert key.public.public_bytes.hex() == case["public"]
    assert key.sign(bytes.fromhex(case["message"])).hex() == case["signature"]


def test_the_key_id_is_the_thumbprint_of_rfc_8037():
    """RFC 8037 appendix A.3."""
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}

    assert VerifyKey.from_jwk(jwk).kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_the_signing_key_gives_the_jws_of_rfc_8037():
    """RFC 8037 appendix A.4."""
    key = SigningKey.from_seed(bytes.fromhex(RFC8032[0]["secret"]))
    signing_input = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"

    assert jwt.utils.base64url_encode(key.sign(signing_input)) == (
        b"hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )


@pytest.fixture
def signer():
    key = SigningKey.from_seed(bytes.fromhex(TOKEN["secret"]))
    profile = Profile(issuer=TOKEN["claims"]["iss"], audiences={TOKEN["claims"]["aud"]: 60})
    return Signer(key=key, profile=profile, memory=OnePayload(capacity=1))


def test_the_signer_makes_the_token_that_other_tools_made(signer):
    token = signer.sign(TOKEN["claims"], replaces=None, now=TOKEN["claims"]["iat"])

    assert token == TOKEN["token"]


def test_pyjwt_makes_the_same_token():
    """The signer encodes the payload itself, to digest and sign the same bytes; PyJWT's own way gives no others."""
    key = SigningKey.from_seed(bytes.fromhex(TOKEN["secret"]))
    headers = {"kid": TOKEN["kid"], "typ": "authority+jwt"}
    claims = Claims.from_json(TOKEN["claims"])

    encoded = jwt.encode(claims.to_json(), key.private, algorithm="EdDSA", headers=headers, sort_headers=True)

    assert encoded == TOKEN["token"]


def test_the_token_reads_back_as_its_claims():
    key = VerifyKey.from_public_bytes(bytes.fromhex(RFC8032[0]["public"]))

    assert verify_signature(TOKEN["token"], [key]).to_json() == TOKEN["claims"]
