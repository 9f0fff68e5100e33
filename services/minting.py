"""Step 5 in detail: have the signer sign, verify what came back, and remember what was signed and never released."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from holdfast.errors import TokenRejected
from holdfast.token import verify_signature

from services.boundary import WrongAnswer
from services.ports import SigningRefused

if TYPE_CHECKING:
    from holdfast.token import Claims

    from services.boundary import Boundary
    from services.ports import TokenSigner

_UNRELEASED_INTENTS: Final = 20_000
_UNRELEASED_PER_INTENT: Final = 3


class Mint:
    """Makes tokens behind the token boundary."""

    def __init__(self, signer: TokenSigner, boundary: Boundary) -> None:
        self._signer = signer
        self._boundary = boundary
        # By intent, newest first: tokens that may have been signed and were never released. The signer gives an intent
        # another one only in the place of these. What a restart forgets, the signer forgets when it expires.
        self._thrown_away: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    async def sign(self, claims: Claims) -> str:
        """Return a token of exactly these claims. Raises: BoundaryUnavailable."""

        def is_exactly_this(token: str) -> None:
            try:
                if verify_signature(token, self._signer.verify_keys()) != claims:
                    raise WrongAnswer("the signer signed other claims")
            except TokenRejected as error:
                raise WrongAnswer("the signer's token does not verify") from error

        async def sign() -> str:
            for unreleased in self._thrown_away.get(claims.txn, ()):
                # Whether the signer ever saw this one is not known; if it remembers another, it says no.
                with contextlib.suppress(SigningRefused):
                    return await self._signer.sign(claims, replaces=unreleased)
            return await self._signer.sign(claims)

        return await self._boundary.call(sign, proves=is_exactly_this)

    def released(self, intent_id: str) -> None:
        """Take note that the intent's last token left."""
        self._thrown_away.pop(intent_id, None)

    def throw_away(self, intent_id: str, jti: str) -> None:
        """Take note that this token may exist and never leaves."""
        earlier = self._thrown_away.pop(intent_id, ())
        self._thrown_away[intent_id] = (jti, *earlier[:_UNRELEASED_PER_INTENT])
        while len(self._thrown_away) > _UNRELEASED_INTENTS:
            self._thrown_away.popitem(last=False)
