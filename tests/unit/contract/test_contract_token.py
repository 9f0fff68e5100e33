"""The authority token: one way to read it, and every other way refused."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from holdfast import token as token_module
from holdfast.errors import TokenRejected
from holdfast.reasons import Mode, ReasonCode
from holdfast.token import (
    MAX_TOKEN_CHARACTERS,
    Claims,
    VerifyKey,
    b64url,
    check_claims,
    check_time,
    header_segment,
    verify_signature,
)
from hypothesis import given
from hypothesis import strategies as st

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = VerifyKey.from_public_bytes(PRIVATE.public_key().public_bytes_raw())
OTHER_PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
OTHER_KEY = VerifyKey.from_public_bytes(OTHER_PRIVATE.public_key().public_bytes_raw())

REQUIRED = {
    "iss": "https://holdfast.example",
    "aud": "payments-api",
    "sub": "support-bot",
    "txn": "int_01k9zv5c4yq8m3n7r2t6w0x1za",
    "jti": "jti_" + "0a" * 16,
    "iat": 1_767_225_600,
    "nbf": 1_767_225_600,
    "exp": 1_767_225_660,
    "env": "production",
    "action": "payments.refund.create",
    "act_hash": "sha-256:" + "A" * 43,
    "category": "finance.refund",
    "risk": 42,
    "mode": "normal",
    "pol": "sha256:" + "ab" * 32,
    "rcp": "str_01k9zv5c4yq8m3n7r2t6w0x1zb:7:" + "0f" * 32,
    "ver": 1,
}
OPTIONAL = {"obo": "user:alice", "bid": "bat_1", "brk": "brk_1", "apr": "apr_1", "cnf": {"jkt": "j" * 43}}
WHOLE = REQUIRED | OPTIONAL
STRINGS = sorted(name for name, value in WHOLE.items() if isinstance(value, str))
INTEGERS = sorted(name for name, value in WHOLE.items() if isinstance(value, int))


def encode(value) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()


def sign(payload, *, header: str = KEY.header_segment, private=PRIVATE) -> str:
    signing_input = f"{header}.{b64url(encode(payload))}"
    return f"{signing_input}.{b64url(private.sign(signing_input.encode()))}"


def refused(token: str, keys=(KEY,)) -> TokenRejected:
    with pytest.raises(TokenRejected) as caught:
        verify_signature(token, keys)
    assert caught.value.code == ReasonCode.TOKEN_INVALID
    return caught.value


# --- what is accepted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [REQUIRED, WHOLE, REQUIRED | {"mode": "break_glass", "brk": "brk_1"}])
def test_a_sound_token_reads_as_its_claims(payload):
    assert verify_signature(sign(payload), [OTHER_KEY, KEY]).to_json() == payload


def test_claims_are_written_as_they_are_read():
    assert Claims.from_json(WHOLE).to_json() == WHOLE


# --- keys and headers -------------------------------------------------------------------------------------------------


def test_without_keys_nothing_verifies():
    assert "header" in refused(sign(REQUIRED), keys=()).detail


def test_a_token_of_an_unknown_key_is_refused():
    refused(sign(REQUIRED, header=OTHER_KEY.header_segment, private=OTHER_PRIVATE))


def test_a_known_header_over_another_key_s_signature_is_refused():
    refused(sign(REQUIRED, private=OTHER_PRIVATE), keys=(KEY, OTHER_KEY))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "EdDSA", "kid": KEY.kid, "typ": "JWT"},
        {"alg": "EdDSA", "kid": KEY.kid, "typ": "at+jwt"},
        {"alg": "EdDSA", "kid": KEY.kid, "typ": "application/authority+jwt"},
        {"alg": "EdDSA", "kid": KEY.kid},
        {"alg": "EdDSA", "typ": "authority+jwt"},
        {"alg": "none", "kid": KEY.kid, "typ": "authority+jwt"},
        {"alg": "HS256", "kid": KEY.kid, "typ": "authority+jwt"},
        {"alg": "Ed25519", "kid": KEY.kid, "typ": "authority+jwt"},
        {"alg": "eddsa", "kid": KEY.kid, "typ": "authority+jwt"},
        {"alg": "EdDSA", "crit": ["exp"], "kid": KEY.kid, "typ": "authority+jwt"},
        {"alg": "EdDSA", "b64": False, "crit": ["b64"], "kid": KEY.kid, "typ": "authority+jwt"},
        {"alg": "EdDSA", "jwk": KEY.to_jwk(), "kid": KEY.kid, "typ": "authority+jwt"},
        {"kid": KEY.kid, "alg": "EdDSA", "typ": "authority+jwt"},
        [],
        b"{",
    ],
)
def test_any_other_header_is_refused_though_the_signature_is_good(header):
    assert "header" in refused(sign(REQUIRED, header=b64url(encode(header)))).detail


def test_a_header_with_white_space_is_another_header():
    header = f'{{"alg":"EdDSA", "kid":"{KEY.kid}","typ":"authority+jwt"}}'
    refused(sign(REQUIRED, header=b64url(header.encode())))


def test_the_public_key_as_a_shared_secret_signs_nothing():
    signing_input = f"{KEY.header_segment}.{b64url(encode(REQUIRED))}"
    mac = hmac.digest(KEY.public_bytes, signing_input.encode(), "sha256")
    refused(f"{signing_input}.{b64url(mac)}")


def test_an_ed448_signature_is_refused():
    signing_input = f"{KEY.header_segment}.{b64url(encode(REQUIRED))}"
    signature = Ed448PrivateKey.generate().sign(signing_input.encode())
    refused(f"{signing_input}.{b64url(signature)}")


def test_the_header_segment_is_what_pyjwt_writes():
    token = jwt.encode({}, PRIVATE, algorithm="EdDSA", headers={"kid": KEY.kid, "typ": "authority+jwt"})

    assert token.split(".")[0] == header_segment(KEY.kid) == KEY.header_segment


# --- shape ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mangle",
    [
        lambda token: "",
        lambda token: ".",
        lambda token: "..",
        lambda token: token + ".",
        lambda token: "." + token,
        lambda token: token + "." + token,
        lambda token: token + token,
        lambda token: token + " ",
        lambda token: " " + token,
        lambda token: token + "\n",
        lambda token: token + "," + token,
        lambda token: token + "=",
        lambda token: token + "==",
        lambda token: token.replace(".", "=.", 1),
        lambda token: token.replace(".", "..", 1),
        lambda token: token.rsplit(".", 1)[0],
        lambda token: token.rsplit(".", 1)[0] + ".",
        lambda token: token[:-1],
        lambda token: token + "A",
        lambda token: token + "AA",
        lambda token: token[:-4],
        lambda token: "Bearer " + token,
        lambda token: token.encode().decode("utf-16-le", "ignore"),
        lambda token: token.replace("-", "+").replace("_", "/") + "+",
        lambda token: token + "é",
        lambda token: "a" * (MAX_TOKEN_CHARACTERS + 1),
    ],
)
def test_what_is_not_one_compact_jws_is_refused(mangle):
    refused(mangle(sign(REQUIRED)))


def test_padding_inside_the_payload_is_refused_though_it_was_signed():
    payload = base64.urlsafe_b64encode(encode(REQUIRED) + b" ").decode()
    assert payload.endswith("=")
    signing_input = f"{KEY.header_segment}.{payload}"
    refused(f"{signing_input}.{b64url(PRIVATE.sign(signing_input.encode()))}")


def test_a_payload_in_a_second_base64_spelling_is_refused_though_it_was_signed():
    payload = b64url(next(data for data in (encode(REQUIRED) + b" " * n for n in range(3)) if len(data) % 3 == 1))
    twin = payload[:-1] + chr(ord(payload[-1]) + 1)
    assert base64.urlsafe_b64decode(twin + "==") == base64.urlsafe_b64decode(payload + "==")
    signing_input = f"{KEY.header_segment}.{twin}"
    token = f"{signing_input}.{b64url(PRIVATE.sign(signing_input.encode()))}"

    refused(token)


def test_a_signature_in_a_second_base64_spelling_is_refused():
    """Otherwise one token has several spellings, and a list of spellings already seen misses some."""
    token = sign(REQUIRED)
    twin = token[:-1] + chr(ord(token[-1]) + 1)
    assert base64.urlsafe_b64decode(twin.split(".")[2] + "==") == base64.urlsafe_b64decode(token.split(".")[2] + "==")

    refused(twin)


def test_a_token_that_is_too_long_is_refused_though_it_was_signed():
    def token_of(length):
        return sign(REQUIRED | {"obo": "a" * length})

    shortest_too_long = next(n for n in range(4000, 9000) if len(token_of(n)) > MAX_TOKEN_CHARACTERS)

    assert verify_signature(token_of(shortest_too_long - 1), [KEY]).obo
    assert "size" in refused(token_of(shortest_too_long)).detail


@given(st.data())
def test_changing_any_character_breaks_the_token(data):
    token = sign(REQUIRED)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda character: character != token[at]))

    refused(token[:at] + other + token[at + 1 :])


@given(st.text(max_size=300))
def test_any_text_is_refused_and_nothing_else_happens(text):
    refused(text)


@given(st.binary(max_size=300))
def test_any_signed_payload_is_read_or_refused_and_nothing_else_happens(payload):
    refused(sign(payload))


# --- claims -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_no_required_claim_may_be_missing(name):
    payload = {key: value for key, value in WHOLE.items() if key != name}

    assert name in refused(sign(payload)).detail


@pytest.mark.parametrize("name", ["nonce", "scope", "act", "IAT", "iat ", "", "cnf_jkt", "exp\n"])
def test_no_claim_may_be_added(name):
    assert "is not known" in refused(sign(REQUIRED | {name: 1})).detail


def test_an_unknown_claim_is_named_without_control_characters():
    assert refused(sign(REQUIRED | {"x\ny": 1})).detail == "the claim `x\\ny` is not known"


@pytest.mark.parametrize("name", STRINGS)
@pytest.mark.parametrize("wrong", [None, "", 1, 1.0, True, [], ["payments-api"], {}])
def test_a_text_claim_is_text(name, wrong):
    refused(sign(WHOLE | {name: wrong}))


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("wrong", [None, "", "1767225660", 1.5, True, False, [], {}])
def test_a_number_claim_is_an_integer(name, wrong):
    refused(sign(WHOLE | {name: wrong}))


def test_a_time_with_a_fraction_is_refused_even_when_the_fraction_is_nought():
    payload = encode(REQUIRED).replace(b"1767225660", b"1767225660.0")

    assert "exp" in refused(sign(payload)).detail


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ver", 0),
        ("ver", 2),
        ("risk", -1),
        ("risk", 101),
        ("mode", "NORMAL"),
        ("mode", "debug"),
        ("act_hash", "sha-256:" + "A" * 42),
        ("act_hash", "sha-256:" + "A" * 44),
        ("act_hash", "sha256:" + "A" * 43),
        ("act_hash", "sha-256:" + "A" * 42 + "="),
        ("act_hash", "sha-256:" + "A" * 43 + "\n"),
        ("rcp", "s:1:" + "0f" * 31),
        ("rcp", "s:-1:" + "0f" * 32),
        ("rcp", "s:01:" + "0f" * 32),
        ("rcp", "s:1:" + "0F" * 32),
        ("rcp", ":1:" + "0f" * 32),
        ("jti", "jti_" + "0a" * 15),
        ("jti", "jti_" + "0A" * 16),
        ("jti", "jti_" + "0a" * 16 + "\n"),
        ("jti", "0a" * 16),
        ("cnf", {}),
        ("cnf", {"jkt": "j", "x5t#S256": "y"}),
        ("cnf", {"jwk": {}}),
        ("cnf", "j"),
        ("cnf", None),
        ("cnf", []),
    ],
)
def test_a_claim_of_another_shape_is_refused(name, wrong):
    assert name in refused(sign(WHOLE | {name: wrong})).detail


@pytest.mark.parametrize("wrong", ["", 1, None, True, []])
def test_the_key_of_a_confirmation_is_text(wrong):
    assert "jkt" in refused(sign(REQUIRED | {"cnf": {"jkt": wrong}})).detail


def test_a_break_glass_token_names_its_activation():
    payload = REQUIRED | {"mode": Mode.BREAK_GLASS.value}

    assert "brk" in refused(sign(payload)).detail
    assert verify_signature(sign(payload | {"brk": "brk_1"}), [KEY]).brk == "brk_1"


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_no_claim_may_stand_twice(name):
    """Readers disagree on which of two wins."""
    twice = encode(WHOLE)[:-1] + b"," + encode({name: WHOLE[name]})[1:]

    assert "strict JSON" in refused(sign(twice)).detail


@pytest.mark.parametrize(
    "payload", [b"", b"null", b"[]", b'"x"', b"{", b"{}{}", b"\xff", b"\xef\xbb\xbf{}", b'{"exp":NaN}', b"[" * 5000]
)
def test_a_payload_that_is_not_an_object_is_refused(payload):
    refused(sign(payload))


# --- for whom, and when -----------------------------------------------------------------------------------------------

CLAIMS = Claims.from_json(REQUIRED)


def check(claims=CLAIMS, **changes):
    given_ = {
        "issuer": CLAIMS.iss,
        "audience": CLAIMS.aud,
        "environments": frozenset({"production"}),
        "now": float(CLAIMS.iat),
        "max_lifetime_s": 60,
    }
    check_claims(claims, **(given_ | changes))


def test_a_token_for_me_and_now_passes():
    check()
    check(environments=None)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"issuer": "https://elsewhere.example"}, ReasonCode.TOKEN_INVALID),
        ({"issuer": ""}, ReasonCode.TOKEN_INVALID),
        ({"audience": "deploy"}, ReasonCode.TOKEN_MISMATCH),
        ({"audience": ""}, ReasonCode.TOKEN_MISMATCH),
        ({"audience": "payments"}, ReasonCode.TOKEN_MISMATCH),
        ({"environments": frozenset({"staging"})}, ReasonCode.TOKEN_MISMATCH),
        ({"environments": frozenset()}, ReasonCode.TOKEN_MISMATCH),
        ({"max_lifetime_s": 59}, ReasonCode.TOKEN_INVALID),
        ({"max_lifetime_s": 0}, ReasonCode.TOKEN_INVALID),
        ({"now": float("nan")}, ReasonCode.TOKEN_INVALID),
        ({"now": float("inf")}, ReasonCode.TOKEN_INVALID),
        ({"now": float("-inf")}, ReasonCode.TOKEN_INVALID),
    ],
)
def test_a_token_for_another_or_too_long_is_refused(changes, code):
    with pytest.raises(TokenRejected) as caught:
        check(**changes)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("seconds_after_nbf", "valid"),
    [(-5.001, False), (-5, True), (0, True), (59.999, True), (60, False), (60.001, False), (10**9, False)],
)
def test_the_limits_in_time_are_exact(seconds_after_nbf, valid):
    now = CLAIMS.nbf + seconds_after_nbf
    if valid:
        check_time(CLAIMS, now=now)
        check(now=now)
        return
    with pytest.raises(TokenRejected):
        check_time(CLAIMS, now=now)
    with pytest.raises(TokenRejected):
        check(now=now)


@pytest.mark.parametrize(
    "times",
    [
        {"exp": CLAIMS.iat},
        {"exp": CLAIMS.iat - 1},
        {"exp": CLAIMS.iat + 61},
        {"nbf": CLAIMS.iat - 1},
        {"nbf": CLAIMS.exp},
        {"nbf": CLAIMS.exp + 1},
        {"iat": CLAIMS.nbf + 1},
        {"iat": -(2**53), "nbf": -(2**53)},
    ],
)
def test_times_out_of_order_or_too_far_apart_are_refused(times):
    with pytest.raises(TokenRejected, match="lifetime"):
        check(replace(CLAIMS, **times))


@given(
    iat=st.integers(0, 200),
    nbf=st.integers(0, 200),
    exp=st.integers(0, 200),
    now=st.floats(0, 200),
    cap=st.integers(1, 90),
)
def test_whatever_passes_is_within_every_bound(iat, nbf, exp, now, cap):
    claims = replace(CLAIMS, iat=iat, nbf=nbf, exp=exp)
    try:
        check(claims, now=now, max_lifetime_s=cap)
    except TokenRejected:
        assert not (iat <= nbf < exp and exp - iat <= cap and nbf - 5 <= now < exp)
        return
    assert iat <= nbf < exp
    assert exp - iat <= cap
    assert nbf - 5 <= now < exp


# --- keys -------------------------------------------------------------------------------------------------------------

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def add(left, right):
    """Edwards addition, RFC 8032 5.1.4 in affine coordinates: slow and plain."""
    (x1, y1), (x2, y2) = left, right
    product = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P,
    )


def abscissa(y):
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    if root * root % P != square:
        root = root * pow(2, (P - 1) // 4, P) % P
    return root if root * root % P == square else None


def test_the_listed_ordinates_are_those_of_every_point_of_small_order():
    """Eight points have an order that divides eight; adding one to itself eight times gives the neutral element."""
    points = set()
    for y in {y % P for y in token_module._SMALL_ORDER_Y}:
        x = abscissa(y)
        assert x is not None
        for point in ((x, y), (-x % P, y)):
            total = (0, 1)
            for _ in range(8):
                total = add(total, point)
            assert total == (0, 1)
            points.add(point)
    assert len(points) == 8


@pytest.mark.parametrize("y", sorted(token_module._SMALL_ORDER_Y))
@pytest.mark.parametrize("sign", [0, 1])
def test_a_key_of_small_order_is_refused_in_every_encoding(y, sign):
    """Under such a key a signature made without any private key verifies for every message."""
    with pytest.raises(ValueError, match="small order"):
        VerifyKey.from_public_bytes((y | sign << 255).to_bytes(32, "little"))


def test_the_forgery_that_small_order_keys_allow_is_real():
    """Why they are refused: the neutral element as R and as key, and nought as S, sign everything."""
    neutral = (1).to_bytes(32, "little")
    public = token_module.Ed25519PublicKey.from_public_bytes(neutral)

    public.verify(neutral + bytes(32), b"any message at all")


@pytest.mark.parametrize("y", [P + 2, P + 18])
def test_a_key_in_a_second_encoding_is_refused(y):
    with pytest.raises(ValueError, match="canonical"):
        VerifyKey.from_public_bytes(y.to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33, 57, 64])
def test_a_key_of_another_length_is_refused(length):
    with pytest.raises(ValueError, match="32 bytes"):
        VerifyKey.from_public_bytes(bytes([9]) * length)


def test_a_jwk_reads_back_as_its_key():
    assert VerifyKey.from_jwk(KEY.to_jwk()) == KEY
    assert KEY.kid == b64url(
        hashlib.sha256(
            json.dumps({n: KEY.to_jwk()[n] for n in ("crv", "kty", "x")}, separators=(",", ":")).encode()
        ).digest()
    )


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "EC"},
        {"crv": "Ed448"},
        {"crv": "X25519"},
        {"x": None},
        {"x": 1},
        {"x": ""},
        {"x": "é"},
        {"x": "A"},
        {"x": KEY.to_jwk()["x"] + "="},
        {"x": KEY.to_jwk()["x"][:5] + "*!" + KEY.to_jwk()["x"][5:]},
        {"x": KEY.to_jwk()["x"][:-1] + chr(ord(KEY.to_jwk()["x"][-1]) + 1)},
        {"x": b64url(bytes(32))},
        {"d": "AAAA"},
        {"d": None},
        {"use": "enc"},
        {"use": None},
        {"alg": "ES256"},
        {"alg": "none"},
        {"alg": None},
        {"kid": OTHER_KEY.kid},
        {"kid": ""},
        {"kid": None},
    ],
)
def test_a_jwk_that_is_not_an_ed25519_signing_key_is_refused(change):
    with pytest.raises(ValueError):  # noqa: PT011 - which of the checks refuses is not the point
        VerifyKey.from_jwk(KEY.to_jwk() | change)


def test_an_empty_jwk_is_refused():
    with pytest.raises(ValueError, match="Ed25519"):
        VerifyKey.from_jwk({})
