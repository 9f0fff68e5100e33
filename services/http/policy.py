"""The operators' endpoints for policy, and explanations for operators and agents."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from holdfast.reasons import ReasonCode
from starlette.routing import Route

from services.credentials import MAY_PERMIT, Kind
from services.decision.bundle import MAX_FILES, read_bundle
from services.decision.explain import NotExplained
from services.decision.finding import BundleInvalid
from services.decision.policy import Policy
from services.explaining import NoSuchDecision, NotDecided
from services.http.wire import MAX_BODY_BYTES, Endpoint, json_response, line, members, path_id, read_json
from services.policy_keys import SignaturesMalformed, read_signatures
from services.ports import StoreUnreachable
from services.postgres.decisions import DecisionDamaged
from services.publishing import (
    NothingToRollBack,
    NotVouchedFor,
    PublishingFailed,
    StaleActivation,
    UnknownBundle,
    stored_files,
)
from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from holdfast.strict_json import JSON
    from starlette.requests import Request
    from starlette.responses import Response

    from services.decision.bundle import Bundle
    from services.explaining import Explainer
    from services.http.callers import Callers
    from services.policies import ActivePolicies
    from services.postgres.bundles import PostgresBundles
    from services.postgres.shadows import PostgresShadows
    from services.publishing import Activated, Publisher

#: A bundle as JSON text; larger ones are applied with the command line.
MAX_UPLOAD_BYTES: Final = 32 * MAX_BODY_BYTES
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_REASON: Final = 500


class PolicyEndpoints:
    """`/v1/operator/policy`, `/v1/operator/decisions`, `/v1/intents/{id}/explain`."""

    def __init__(
        self,
        *,
        callers: Callers,
        policies: ActivePolicies,
        bundles: PostgresBundles,
        publisher: Publisher,
        shadows: PostgresShadows,
        explainer: Explainer,
    ) -> None:
        self._callers = callers
        self._policies = policies
        self._bundles = bundles
        self._publisher = publisher
        self._shadows = shadows
        self._explainer = explainer

    def routes(self) -> list[Route]:
        """Return the routes."""
        policy = "/v1/operator/policy"
        return [
            Route(policy, _endpoint(self._list), methods=["GET"]),
            Route(policy, _endpoint(self._upload), methods=["POST"]),
            Route(f"{policy}/rollback", _endpoint(self._rollback), methods=["POST"]),
            Route(f"{policy}/shadow", _endpoint(self._report), methods=["GET"]),
            Route(f"{policy}/shadow", _endpoint(self._start_shadow), methods=["PUT"]),
            Route(f"{policy}/shadow", _endpoint(self._stop_shadow), methods=["DELETE"]),
            Route(policy + "/{digest}", _endpoint(self._show), methods=["GET"]),
            Route(policy + "/{digest}/activate", _endpoint(self._activate), methods=["POST"]),
            Route("/v1/operator/decisions/{intent_id}", _endpoint(self._explain), methods=["GET"]),
            Route("/v1/operator/decisions/{intent_id}/explain", _endpoint(self._explain), methods=["GET"]),
            Route("/v1/intents/{intent_id}/explain", _endpoint(self._explain_own), methods=["GET"]),
        ]

    # --- looking ----------------------------------------------------------------------------------------------------

    async def _list(self, request: Request) -> Response:
        await self._callers.require(request, Kind.OPERATOR)
        standing = await self._bundles.standing()
        return json_response(
            200,
            {
                "active": standing.active,
                "in_use": self._policies.current().digest,
                "trouble": self._policies.trouble(),
                "warnings": [str(warning) for warning in self._policies.current().warnings],
                "shadow": standing.candidate,
                "bundles": [row.to_json() for row in await self._bundles.bundles()],
                "history": [row.to_json() for row in await self._bundles.activations()],
            },
        )

    async def _show(self, request: Request) -> Response:
        await self._callers.require(request, Kind.OPERATOR)
        digest = _digest(request.path_params["digest"])
        files = await stored_files(self._bundles, digest)
        texts: dict[str, JSON] = {path: data.decode("utf-8", "replace") for path, data in sorted(files.items())}
        return json_response(200, {"digest": digest, "files": texts})

    async def _report(self, request: Request) -> Response:
        await self._callers.require(request, Kind.OPERATOR)
        report = await self._shadows.report()
        if report is None:
            raise Problem(404, ReasonCode.NOT_FOUND, "no candidate ever ran in the shadow")
        return json_response(200, report)

    async def _explain(self, request: Request) -> Response:
        await self._callers.require(request, Kind.OPERATOR)
        explained = await self._explainer.explain(path_id(request, "intent_id"))
        return json_response(200, explained.to_json())

    async def _explain_own(self, request: Request) -> Response:
        agent = await self._callers.require(request, Kind.AGENT)
        explained = await self._explainer.explain(path_id(request, "intent_id"), agent=agent)
        return json_response(200, explained.to_json())

    # --- changing ---------------------------------------------------------------------------------------------------

    async def _upload(self, request: Request) -> Response:
        by = await self._may_change(request)
        body = members(await read_json(request, max_bytes=MAX_UPLOAD_BYTES), {"files", "signatures"})
        files, signatures = _files(body), _signatures(body)
        bundle = await asyncio.to_thread(_checked, files)
        new = await self._publisher.upload(bundle, by=by, signatures=signatures)
        return json_response(201 if new else 200, {"digest": bundle.digest, "new": new})

    async def _activate(self, request: Request) -> Response:
        by = await self._may_change(request)
        digest = _digest(request.path_params["digest"])
        body = members(await read_json(request), {"reason", "expect_active"})
        if "expect_active" not in body:
            raise _malformed("`expect_active` says which bundle is believed to be active")
        expected = body["expect_active"]
        if expected is not None and not isinstance(expected, str):
            raise _malformed("`expect_active` is a digest, or null while nothing is active")
        expect_active = None if expected is None else _digest(expected)
        reason = _reason(body)
        return _activated(await self._publisher.activate(digest, by=by, reason=reason, expect_active=expect_active))

    async def _rollback(self, request: Request) -> Response:
        by = await self._may_change(request)
        body = members(await read_json(request), {"reason"})
        return _activated(await self._publisher.rollback(by=by, reason=_reason(body)))

    async def _start_shadow(self, request: Request) -> Response:
        by = await self._may_change(request)
        digest = _digest(members(await read_json(request), {"digest"}).get("digest"))
        await self._publisher.shadow(digest, by=by)
        return json_response(200, {"candidate": digest})

    async def _stop_shadow(self, request: Request) -> Response:
        by = await self._may_change(request)
        await self._publisher.shadow(None, by=by)
        return json_response(200, {"candidate": None})

    async def _may_change(self, request: Request) -> str:
        """Return the operator's name. Raises: Problem 401, 403."""
        return f"operator:{await self._callers.require_operator(request, MAY_PERMIT)}"


def _endpoint(handler: Callable[[Request], Awaitable[Response]]) -> Endpoint:
    """Return an endpoint that translates what the policy's parts raise."""

    async def translated(request: Request) -> Response:
        try:
            return await handler(request)
        except BundleInvalid as error:
            findings: list[JSON] = [str(found) for found in error.findings]
            problem: dict[str, JSON] = {
                "type": "about:blank",
                "title": "Bad Request",
                "status": 400,
                "detail": "the policies are not valid",
                "reason_code": ReasonCode.REQUEST_MALFORMED.value,
                "findings": findings,
            }
            response = json_response(400, problem)
            response.headers["content-type"] = "application/problem+json"
            return response
        except (UnknownBundle, NothingToRollBack, NoSuchDecision, NotDecided) as error:
            raise Problem(404, ReasonCode.NOT_FOUND, str(error)) from error
        except NotVouchedFor as error:
            raise Problem(403, ReasonCode.FORBIDDEN, str(error)) from error
        except StaleActivation as error:
            raise Problem(409, ReasonCode.SUPERSEDED, str(error)) from error
        except (PublishingFailed, StoreUnreachable, NotExplained, DecisionDamaged) as error:
            raise Problem(503, ReasonCode.SERVICE_UNAVAILABLE, str(error), retry_after_s=2) from error

    return Endpoint(translated)


def _checked(files: Mapping[str, bytes]) -> Bundle:
    """Return the bundle, once it compiles. Raises: BundleInvalid."""
    bundle = read_bundle(files)
    Policy.compile(bundle)
    return bundle


def _activated(activated: Activated) -> Response:
    executors: list[JSON] = [*sorted(activated.policy.executors)]
    return json_response(200, {"active": activated.policy.digest, "before": activated.before, "executors": executors})


def _files(body: dict[str, JSON]) -> dict[str, bytes]:
    files = body.get("files")
    if not isinstance(files, dict) or not files or len(files) > MAX_FILES:
        raise _malformed(f"`files` is an object from path to text, with 1 to {MAX_FILES} members")
    found: dict[str, bytes] = {}
    for path, text in files.items():
        if not isinstance(text, str):
            raise _malformed(f"the file `{path[:100]}` is not text")
        found[path] = text.encode("utf-8", "surrogatepass")
    return found


def _signatures(body: dict[str, JSON]) -> tuple[str, ...]:
    given = body.get("signatures", [])
    lines = [line for line in given if isinstance(line, str)] if isinstance(given, list) else []
    if not isinstance(given, list) or len(lines) != len(given):
        raise _malformed("`signatures` is a list of texts")
    try:
        return read_signatures("\n".join(lines))
    except SignaturesMalformed as error:
        raise _malformed(str(error)) from error


def _reason(body: dict[str, JSON]) -> str:
    return line(body, "reason", most=_MAX_REASON)


def _digest(given: object) -> str:
    if not isinstance(given, str) or _DIGEST.fullmatch(given) is None:
        raise _malformed("a digest is `sha256:` and 64 hexadecimal digits")
    return given


def _malformed(detail: str) -> Problem:
    return Problem(400, ReasonCode.REQUEST_MALFORMED, detail)
