"""The TokenSigner port over the signer's client: tells a signer in trouble from a signer that refuses one token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.ports import SigningFailed, SigningRefused
from signer.client import SignerError, SignerRefused

if TYPE_CHECKING:
    from holdfast.token import Claims, VerifyKey

    from signer.client import SignerClient

#: Answers about the one token that was asked for. Any other speaks of the signer itself.
_ABOUT_THE_TOKEN: Final = frozenset({"malformed", "profile", "conflict"})


class RemoteSigner:
    """The signer process."""

    def __init__(self, client: SignerClient) -> None:
        self._client = client

    async def sign(self, claims: Claims, *, replaces: str | None = None) -> str:
        """Return the compact token. Raises: SigningRefused for this token alone, SigningFailed."""
        try:
            return await self._client.sign(claims, replaces=replaces)
        except SignerRefused as error:
            if error.code in _ABOUT_THE_TOKEN:
                raise SigningRefused(str(error)) from error
            raise SigningFailed(str(error)) from error
        except SignerError as error:
            raise SigningFailed(str(error)) from error

    async def healthy(self) -> None:
        """Return if the signer can sign now. Raises: SigningFailed."""
        try:
            await self._client.healthy()
        except SignerError as error:
            raise SigningFailed(str(error)) from error

    def verify_keys(self) -> tuple[VerifyKey, ...]:
        """Return the keys pinned from the signer. May be empty."""
        return self._client.verify_keys()
