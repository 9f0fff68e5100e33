"""How a token comes to be signed. One story, in the order in which it must happen."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING, ClassVar, Final

import jwt
from cryptography.exceptions import InvalidSignature
from holdfast.errors import TokenRejected
from holdfast.reasons import Mode
from holdfast.token import ALG, MAX_TOKEN_CHARACTERS, TYP, Claims, b64url, header_segment, verify_signature

from signer import wire
from signer.profile import MemoryFull, ProfileViolation

if TYPE_CHECKING:
    from holdfast.strict_json import JSON
    from holdfast.token import VerifyKey

    from signer.keyfile import SigningKey
    from signer.profile import OnePayload, Profile

_LOG = logging.getLogger("holdfast.signer")
_JWS: Final = jwt.PyJWS()
_SIGNATURE_CHARACTERS: Final = 86


class MalformedClaims(Exception):
    """What was sent for signing is not a claim set."""

    code: ClassVar[str] = "malformed"


class SigningFault(Exception):
    """The signature came out wrong: the machine, its memory or a library is at fault. Nothing was released."""

    code: ClassVar[str] = "fault"


class Signer:
    """Signs what its profile allows, once per intent. `profile` may be replaced while running."""

    def __init__(self, *, key: SigningKey, profile: Profile, memory: OnePayload) -> None:
        self.profile = profile
        self._key = key
        self._memory = memory

    def sign(self, payload: JSON, *, replaces: str | None, now: float) -> str:
        """Return the compact token over `payload`. The same payload again yields the same token.

        `replaces` names a token of the same intent that was never released. `now` is seconds since the epoch.
        Raises: MalformedClaims, ProfileViolation, SigningFault.
        """
        # 1. Read the closed claim set. The bytes to sign are made here, once, from what was read.
        try:
            claims = Claims.from_json(payload)
        except TokenRejected as error:
            raise MalformedClaims(error.detail) from error
        signed_bytes = json.dumps(claims.to_json(), separators=(",", ":")).encode("ascii")
        if _token_characters(signed_bytes, self._key.public.kid) > MAX_TOKEN_CHARACTERS:
            raise ProfileViolation("the token would be too long")
        # 2. Check it against the profile and the signer's own clock.
        digest = hashlib.sha256(signed_bytes).digest()
        repeat = self._memory.holds(claims.txn, digest)
        self.profile.check(claims, now=now, repeat=repeat)
        # 3. Remember it before it exists: a signature cannot be taken back.
        self._memory.admit(txn=claims.txn, jti=claims.jti, exp=claims.exp, digest=digest, replaces=replaces, now=now)
        # 4. Sign.
        token = _JWS.encode(
            signed_bytes,
            self._key.private,
            algorithm=ALG,
            headers={"kid": self._key.public.kid, "typ": TYP},
            sort_headers=True,
        )
        # 5. Verify as an executor would, and compare: what leaves is what was asked for.
        check_made(token, claims, self._key.public)
        level = logging.DEBUG if claims.mode == Mode.NORMAL else logging.INFO
        _LOG.log(level, "signed %s for %a, intent %s, mode %s", claims.jti, claims.aud, claims.txn, claims.mode)
        return token

    def canary(self, nonce: str, *, now: float) -> str:
        """Return a signature, unpadded base64url, over a message that is not a token: proof that signing works now.

        Raises: SigningFault, MemoryFull.
        """
        message = wire.canary_message(nonce)
        signature = self._key.sign(message)
        try:
            self._key.public.key.verify(signature, message)
        except InvalidSignature as error:
            raise SigningFault("the canary does not verify") from error
        if self._memory.is_full(now=now):
            raise MemoryFull("too many unexpired intents are remembered")
        return b64url(signature)

    @property
    def kid(self) -> str:
        """The active key's thumbprint."""
        return self._key.public.kid

    def jwks(self) -> list[dict[str, str]]:
        """Return the public keys, as JWKs."""
        return [self._key.public.to_jwk()]


def check_made(token: str, claims: Claims, key: VerifyKey) -> None:
    """Return if `token` verifies under `key` and says exactly `claims`. Raises: SigningFault."""
    try:
        verified = verify_signature(token, (key,))
    except TokenRejected as error:
        raise SigningFault("the token does not verify after signing") from error
    if verified != claims:
        raise SigningFault("the token says something else than was asked for")


def _token_characters(signed_bytes: bytes, kid: str) -> int:
    payload_characters = (len(signed_bytes) * 4 + 2) // 3
    return len(header_segment(kid)) + 1 + payload_characters + 1 + _SIGNATURE_CHARACTERS
