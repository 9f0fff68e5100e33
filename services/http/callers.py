"""Who is calling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.reasons import ReasonCode

from services.credentials import PREFIXES, Kind, key_hash, well_formed
from services.ports import StoreUnreachable
from services.submissions import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

    from services.credentials import Credentials


class Callers:
    """Tells agents, executors and operators by their bearer secret."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def require(self, request: Request, kind: Kind) -> str:
        """Return the caller's name. One text for every way to be nobody.

        Raises: Problem 401, and 503 while nobody can tell.
        """
        headers = request.headers.getlist("authorization")
        scheme, _, secret = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
        nobody = Problem(401, ReasonCode.UNAUTHENTICATED, f"this needs the bearer secret of an {kind}")
        if scheme.lower() != "bearer" or not well_formed(secret) or not secret.startswith(PREFIXES[kind]):
            raise nobody
        try:
            principal = await self._credentials.find(key_hash(secret))
        except StoreUnreachable as error:
            detail = "the credential cannot be checked now"
            raise Problem(503, ReasonCode.SERVICE_UNAVAILABLE, detail, retry_after_s=2) from error
        if principal is None or principal.kind is not kind:
            raise nobody
        return principal.subject
