"""The authority token: its closed claim set, and the one way to read it.

A compact JWS with header exactly `{"alg":"EdDSA","kid":"…","typ":"authority+jwt"}`. Nothing here does I/O or reads a
clock. Source: design 4.2, RFC 7515, RFC 7519, RFC 8037, RFC 7638.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from holdfast import strict_json
from holdfast.errors import MalformedJSON, TokenRejected
from holdfast.reasons import Mode, ReasonCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from holdfast.strict_json import JSON

TYP: Final = "authority+jwt"
ALG: Final = "EdDSA"
VERSION: Final = 1
MAX_TOKEN_CHARACTERS: Final = 8192
NOT_BEFORE_LEEWAY_S: Final = 5

_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
_ACT_HASH = re.compile(r"sha-256:[A-Za-z0-9_-]{43}")
_RECEIPT = re.compile(r"[A-Za-z0-9_.-]{1,128}:(?:0|[1-9][0-9]{0,15}):[0-9a-f]{64}")
_JTI = re.compile(r"jti_[0-9a-f]{32}")

# Points of small order: a signature made with no private key verifies under them for every message.
# Source: RFC 8032 5.1, RFC 7748 section 7; the eight canonical encodings and the non-canonical ones libraries accept.
_P: Final = 2**255 - 19
_ORDER_8_Y: Final = 55188659117513257062467267217118295137698188065244968500265048394206261417927
_SMALL_ORDER_Y: Final = frozenset({0, 1, _P - 1, _P, _P + 1, _ORDER_8_Y, _P - _ORDER_8_Y})


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The claims of one token. Times are integer seconds since the epoch; `risk` is the score, 0 to 100."""

    iss: str
    aud: str
    sub: str
    txn: str
    jti: str
    iat: int
    nbf: int
    exp: int
    env: str
    action: str
    act_hash: str
    category: str
    risk: int
    mode: str
    pol: str
    rcp: str
    ver: int = VERSION
    obo: str | None = None
    bid: str | None = None
    brk: str | None = None
    apr: str | None = None
    cnf_jkt: str | None = None

    def to_json(self) -> dict[str, JSON]:
        """Return the payload's members; absent optional claims are omitted."""
        payload: dict[str, JSON] = {name: value for name, value in asdict(self).items() if value is not None}
        if (jkt := payload.pop("cnf_jkt", None)) is not None:
            payload["cnf"] = {"jkt": jkt}
        return payload

    @classmethod
    def from_json(cls, payload: JSON) -> Claims:
        """Read a payload. Every claim is declared; anything else is refused. Raises: TokenRejected."""
        if not isinstance(payload, dict):
            raise _invalid("the payload is not an object")
        if unknown := payload.keys() - _STRINGS - _INTEGERS - _OPTIONAL - {"cnf"}:
            raise _invalid(f"the claim `{ascii(min(unknown)[:64])[1:-1]}` is not known")
        if missing := (_STRINGS | _INTEGERS) - payload.keys():
            raise _invalid(f"the claim `{min(missing)}` is missing")
        strings = {name: _string(payload, name) for name in _STRINGS}
        integers = {name: _integer(payload, name) for name in _INTEGERS}
        optional = {name: _string(payload, name) for name in _OPTIONAL if name in payload}
        if "cnf" in payload:
            confirmation = payload["cnf"]
            if not isinstance(confirmation, dict) or set(confirmation) != {"jkt"}:
                raise _invalid("the claim `cnf` must hold `jkt` alone")
            optional["cnf_jkt"] = _string(confirmation, "jkt")
        claims = cls(**strings, **integers, **optional)  # type: ignore[arg-type] # every name is checked above
        claims._check_shape()
        return claims

    def _check_shape(self) -> None:
        if self.ver != VERSION:
            raise _invalid("the claim `ver` is not 1")
        if not 0 <= self.risk <= 100:  # noqa: PLR2004 - the scale of risk
            raise _invalid("the claim `risk` is out of range")
        if self.mode not in Mode.__members__.values():
            raise _invalid("the claim `mode` is not known")
        for name, pattern in (("act_hash", _ACT_HASH), ("rcp", _RECEIPT), ("jti", _JTI)):
            if pattern.fullmatch(getattr(self, name)) is None:
                raise _invalid(f"the claim `{name}` is malformed")
        if self.mode == Mode.BREAK_GLASS and self.brk is None:
            raise _invalid("a break-glass token names its activation in `brk`")


_INTEGERS: Final = frozenset({"iat", "nbf", "exp", "risk", "ver"})
_OPTIONAL: Final = frozenset({"obo", "bid", "brk", "apr"})
_STRINGS: Final = frozenset(Claims.__dataclass_fields__) - _INTEGERS - _OPTIONAL - {"cnf_jkt"}


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """One trusted Ed25519 public key, pinned to the header bytes its tokens must carry."""

    public_bytes: bytes
    kid: str
    header_segment: str
    key: Ed25519PublicKey

    @classmethod
    def from_public_bytes(cls, public_bytes: bytes) -> VerifyKey:
        """Take the 32 raw bytes. Raises: ValueError for another length, a point of small order or a second encoding."""
        if len(public_bytes) != 32:  # noqa: PLR2004 - RFC 8032
            raise ValueError("an Ed25519 public key has 32 bytes")
        y = int.from_bytes(public_bytes, "little") & (2**255 - 1)
        if y in _SMALL_ORDER_Y:
            raise ValueError("the public key is a point of small order")
        if y >= _P:
            raise ValueError("the public key is not in its canonical encoding")
        kid = thumbprint(public_bytes)
        return cls(public_bytes, kid, header_segment(kid), Ed25519PublicKey.from_public_bytes(public_bytes))

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, object]) -> VerifyKey:
        """Read an OKP JWK. Raises: ValueError unless it is an Ed25519 signing key whose `kid` is its thumbprint."""
        x = jwk.get("x")
        if jwk.get("kty") != "OKP" or jwk.get("crv") != "Ed25519" or not isinstance(x, str):
            raise ValueError("the JWK is not an Ed25519 key")
        if "d" in jwk:
            raise ValueError("the JWK holds a private key")
        if jwk.get("use", "sig") != "sig" or jwk.get("alg", ALG) not in (ALG, "Ed25519"):
            raise ValueError("the JWK is not for EdDSA signatures")
        public_bytes = _decode_segment(x)
        if b64url(public_bytes) != x:
            raise ValueError("the JWK's base64url is not canonical")
        key = cls.from_public_bytes(public_bytes)
        if jwk.get("kid", key.kid) != key.kid:
            raise ValueError("the JWK's kid is not its thumbprint")
        return key

    def to_jwk(self) -> dict[str, str]:
        """Return the public JWK."""
        return {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": b64url(self.public_bytes),
            "kid": self.kid,
            "use": "sig",
            "alg": ALG,
        }


def thumbprint(public_bytes: bytes) -> str:
    """Return the RFC 7638 thumbprint of an Ed25519 key, 43 characters."""
    canonical = b'{"crv":"Ed25519","kty":"OKP","x":"' + b64url(public_bytes).encode("ascii") + b'"}'
    return b64url(hashlib.sha256(canonical).digest())


def header_segment(kid: str) -> str:
    """Return the first segment of every token signed with `kid`."""
    return b64url(f'{{"alg":"{ALG}","kid":"{kid}","typ":"{TYP}"}}'.encode("ascii"))


def verify_signature(token: str, keys: Iterable[VerifyKey]) -> Claims:
    """Check steps 2 to 5 of the executor's order: shape, header, signature, strict payload.

    The claims are authentic when this returns; whether they are *for you and now* is `check_claims`.
    Raises: TokenRejected.
    """
    # 2. Size and shape.
    if not token or len(token) > MAX_TOKEN_CHARACTERS:
        raise _invalid("the token's size is wrong")
    segments = token.split(".")
    if len(segments) != 3 or not all(_SEGMENT.fullmatch(segment) for segment in segments):  # noqa: PLR2004 - JWS
        raise _invalid("the token is not a compact JWS")
    # 3. The header is compared, never parsed: no algorithm is negotiated.
    key = next((key for key in keys if key.header_segment == segments[0]), None)
    if key is None:
        raise _invalid("the token's header is not that of a known key")
    # 4. Signature, under that key alone.
    try:
        jws = jwt.PyJWS().decode_complete(token, key.key, algorithms=[ALG])
    except jwt.PyJWTError as error:
        raise _invalid("the signature does not verify") from error
    # 5. One encoding, one reading.
    if any(b64url(_decode_segment(segment)) != segment for segment in segments[1:]):
        raise _invalid("the token's base64url is not canonical")
    try:
        payload = strict_json.loads(jws["payload"])
    except MalformedJSON as error:
        raise _invalid("the payload is not strict JSON") from error
    return Claims.from_json(payload)


def check_claims(
    claims: Claims, *, issuer: str, audience: str, environments: frozenset[str] | None, now: float, max_lifetime_s: int
) -> None:
    """Check steps 6 and 7 of the executor's order. `environments=None` accepts every environment.

    `now` is seconds since the epoch. Raises: TokenRejected, with TOKEN_MISMATCH for another audience or environment.
    """
    # 6. For whom. (`ver` was checked with the shape.)
    if claims.iss != issuer:
        raise _invalid("the token is from another issuer")
    if claims.aud != audience:
        raise TokenRejected(ReasonCode.TOKEN_MISMATCH, "the token is for another executor")
    if environments is not None and claims.env not in environments:
        raise TokenRejected(ReasonCode.TOKEN_MISMATCH, "the token is for another environment")
    # 7. For how long.
    if not 0 < claims.exp - claims.iat <= max_lifetime_s or not claims.iat <= claims.nbf < claims.exp:
        raise _invalid("the token's lifetime is not acceptable")
    check_time(claims, now=now)


def check_time(claims: Claims, *, now: float) -> None:
    """Raise TokenRejected unless `nbf - 5 s <= now < exp`."""
    if not claims.nbf - NOT_BEFORE_LEEWAY_S <= now < claims.exp:
        raise _invalid("the token is expired or not yet valid")


def b64url(data: bytes) -> str:
    """Return unpadded base64url."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode_segment(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def _string(payload: Mapping[str, JSON], name: str) -> str:
    value = payload[name]
    if not isinstance(value, str) or not value:
        raise _invalid(f"the claim `{name}` is not a non-empty string")
    return value


def _integer(payload: Mapping[str, JSON], name: str) -> int:
    value = payload[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise _invalid(f"the claim `{name}` is not an integer")
    return value


def _invalid(detail: str) -> TokenRejected:
    return TokenRejected(ReasonCode.TOKEN_INVALID, detail)
