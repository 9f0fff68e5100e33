"""The executors' endpoints, and the public keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import InvalidIntent
from holdfast.intent import Intent
from holdfast.reasons import ReasonCode
from starlette.routing import Route

from services.credentials import Kind
from services.http.wire import Endpoint, json_response, path_id, read_json
from services.submissions import Problem

if TYPE_CHECKING:
    from holdfast.strict_json import JSON
    from starlette.requests import Request
    from starlette.responses import Response

    from services.consumption import Consumption
    from services.http.callers import Callers
    from services.metrics import Metrics
    from services.ports import TokenSigner

_OUTCOMES = frozenset({"succeeded", "failed", "unknown"})
_MAX_DETAIL = 2000
_MAX_MODEL_TOKENS = 10**12


class TokenEndpoints:
    """`/v1/tokens` and the JWKS."""

    def __init__(self, *, callers: Callers, consumption: Consumption, signer: TokenSigner, metrics: Metrics) -> None:
        self._callers = callers
        self._consumption = consumption
        self._signer = signer
        self._metrics = metrics

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/v1/tokens/consume", Endpoint(self._consume), methods=["POST"]),
            Route("/v1/tokens/{jti}/outcome", Endpoint(self._outcome), methods=["POST"]),
            Route("/.well-known/jwks.json", Endpoint(self._jwks), methods=["GET"]),
        ]

    async def _consume(self, request: Request) -> Response:
        executor = await self._callers.require(request, Kind.EXECUTOR)
        body = _object(await read_json(request), {"token", "action", "resource"}, {"parameters"})
        token = body.pop("token")
        if not isinstance(token, str):
            raise _malformed("`token` must be a string")
        try:
            presented = Intent.from_json(body)
        except InvalidIntent as error:
            raise _malformed(str(error)) from error
        try:
            consumed = await self._consumption.consume(
                executor,
                token,
                action=presented.action,
                resource=presented.resource,
                parameters=presented.parameters,
            )
        except Problem as problem:
            self._metrics.consumptions.labels(problem.reason_code).inc()
            raise
        self._metrics.consumptions.labels("consumed").inc()
        return json_response(200, consumed)

    async def _outcome(self, request: Request) -> Response:
        executor = await self._callers.require(request, Kind.EXECUTOR)
        jti = path_id(request, "jti")
        body = _object(await read_json(request), {"status"}, {"detail", "model_tokens"})
        outcome, detail, used = body["status"], body.get("detail"), body.get("model_tokens")
        if not isinstance(outcome, str) or outcome not in _OUTCOMES:
            raise _malformed(f"`status` must be one of {', '.join(sorted(_OUTCOMES))}")
        if detail is not None and (not isinstance(detail, str) or len(detail) > _MAX_DETAIL):
            raise _malformed(f"`detail` must be a string of at most {_MAX_DETAIL} characters")
        if used is not None and (
            not isinstance(used, int) or isinstance(used, bool) or not 0 <= used <= _MAX_MODEL_TOKENS
        ):
            raise _malformed(f"`model_tokens` must be an integer from 0 to {_MAX_MODEL_TOKENS}")
        return json_response(
            200,
            await self._consumption.report(executor, jti, outcome=outcome, detail=detail, model_tokens=used),
        )

    async def _jwks(self, request: Request) -> Response:  # noqa: ARG002 - public, the same for everybody
        keys: list[JSON] = [dict(key.to_jwk()) for key in self._signer.verify_keys()]
        if not keys:
            raise Problem(503, ReasonCode.SIGNING_UNAVAILABLE, "the keys are not known yet", retry_after_s=1)
        response = json_response(200, {"keys": keys})
        response.headers["cache-control"] = "max-age=300"
        return response


def _object(value: JSON, required: set[str], optional: set[str]) -> dict[str, JSON]:
    if not isinstance(value, dict):
        raise _malformed("the body must be an object")
    if missing := required - value.keys():
        raise _malformed(f"the body has no `{min(missing)}`")
    if value.keys() - required - optional:
        raise _malformed("the body has an unknown member")
    return dict(value)


def _malformed(detail: str) -> Problem:
    return Problem(400, ReasonCode.REQUEST_MALFORMED, detail)
