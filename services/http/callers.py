"""Who is calling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.reasons import ReasonCode

from services.credentials import PREFIXES, Kind, key_hash, well_formed
from services.http.wire import query
from services.ports import StoreUnreachable
from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from starlette.requests import Request

    from services.credentials import Credentials, Principal, Role


class Callers:
    """Tells agents, executors and operators by their bearer secret, and refuses queries that nothing reads."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def require(self, request: Request, kind: Kind, *, takes: AbstractSet[str] = frozenset()) -> str:
        """Return the caller's name. One text for every way to be nobody.

        Raises: Problem 401, 503 while nobody can tell, 400 for a parameter of the query that is not one of `takes`.
        """
        return (await self._principal(request, kind, takes=takes)).subject

    async def require_operator(self, request: Request, roles: AbstractSet[Role]) -> str:
        """Return the name of an operator with one of `roles`. Raises: Problem 401, 403, 503."""
        principal = await self._principal(request, Kind.OPERATOR)
        if principal.role is None or principal.role not in roles:
            raise Problem(403, ReasonCode.FORBIDDEN, f"this needs one of the roles {', '.join(sorted(roles))}")
        return principal.subject

    async def operator(self, request: Request) -> tuple[str, Role | None]:
        """Return an operator's name and role, for who decides later what the role may do. Raises: Problem 401, 503."""
        principal = await self._principal(request, Kind.OPERATOR)
        return principal.subject, principal.role

    async def _principal(self, request: Request, kind: Kind, *, takes: AbstractSet[str] = frozenset()) -> Principal:
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
        if request.scope.get("query_string"):
            query(request, takes)
        return principal
