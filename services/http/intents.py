"""The agents' endpoints."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from holdfast.errors import InvalidIntent
from holdfast.intent import Intent
from holdfast.reasons import Mode, ReasonCode
from starlette.routing import Route

from services.authorizer import IdempotencyKeyRequired
from services.credentials import Kind
from services.http.wire import Endpoint, json_response, path_id, query, read_json, while_connected
from services.outbound.guard import Refused
from services.submissions import MAX_WAIT_S, Problem

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from services.http.callers import Callers
    from services.metrics import Metrics
    from services.submissions import Answer, Submissions
    from services.webhooks import Callbacks

_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_QUERY: Final = frozenset({"wait"})
_SECONDS: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3})?")
#: The log keeps a digest of each: more would make a record that is too large for it.
_MAX_PARAMETERS: Final = 1000


class IntentEndpoints:
    """`/v1/intents`."""

    def __init__(self, *, callers: Callers, submissions: Submissions, callbacks: Callbacks, metrics: Metrics) -> None:
        self._callers = callers
        self._callbacks = callbacks
        self._submissions = submissions
        self._metrics = metrics

    def routes(self) -> list[Route]:
        """Return the routes. They are plain ASGI: see docs/adr/0004."""
        return [
            Route("/v1/intents", Endpoint(self._submit), methods=["POST"]),
            Route("/v1/intents/{intent_id}", Endpoint(self._get), methods=["GET"]),
            Route("/v1/intents/{intent_id}", Endpoint(self._cancel), methods=["DELETE"]),
            Route("/v1/intents/{intent_id}/claim", Endpoint(self._claim), methods=["POST"]),
        ]

    async def _submit(self, request: Request) -> Response:
        agent = await self._callers.require(request, Kind.AGENT)
        key, supersedes = _key(request, "Idempotency-Key"), _key(request, "Supersedes")
        started = time.perf_counter()
        try:
            intent = _recordable(Intent.from_json(await read_json(request)))
            if intent.callback_url is not None:
                await self._callbacks.check(intent.callback_url)
            answer = await self._submissions.submit(agent, intent, key, supersedes=supersedes)
        except InvalidIntent as error:
            raise Problem(400, ReasonCode.REQUEST_MALFORMED, str(error)) from error
        except Refused as error:
            raise Problem(400, ReasonCode.CALLBACK_REFUSED, f"`callback_url`: {error}") from error
        except IdempotencyKeyRequired as error:
            detail = f"{error}: send an Idempotency-Key"
            raise Problem(400, ReasonCode.IDEMPOTENCY_KEY_REQUIRED, detail) from error
        self._count(answer, time.perf_counter() - started)
        return _response(answer)

    async def _get(self, request: Request) -> Response:
        agent = await self._callers.require(request, Kind.AGENT, takes=_QUERY)
        intent_id, wait_s = path_id(request, "intent_id"), _wait_s(request)
        looking = self._submissions.get(agent, intent_id, wait_s=wait_s)
        return _response(await while_connected(request, looking) if wait_s > 0 else await looking)

    async def _claim(self, request: Request) -> Response:
        agent = await self._callers.require(request, Kind.AGENT)
        answer = await self._submissions.claim(agent, path_id(request, "intent_id"))
        self._count(answer, None)
        return _response(answer)

    async def _cancel(self, request: Request) -> Response:
        agent = await self._callers.require(request, Kind.AGENT)
        return _response(await self._submissions.cancel(agent, path_id(request, "intent_id")))

    def _count(self, answer: Answer, seconds: float | None) -> None:
        envelope = answer.envelope
        self._metrics.decisions.labels(envelope["decision"], envelope["reason_code"], envelope["mode"]).inc()
        if envelope["mode"] == Mode.FAIL_OPEN and envelope["token"] is not None:
            self._metrics.fail_open.inc()
        if envelope["mode"] == Mode.BREAK_GLASS and envelope["token"] is not None:
            self._metrics.break_glass_uses.inc()
        if seconds is not None:
            self._metrics.decided_in(seconds)


def _recordable(intent: Intent) -> Intent:
    """Refuse what would make a record of a size that no log takes. Raises: InvalidIntent."""
    if len(intent.parameters) > _MAX_PARAMETERS:
        raise InvalidIntent(f"`parameters` has more than {_MAX_PARAMETERS} members")
    return intent


def _key(request: Request, header: str) -> str | None:
    keys = request.headers.getlist(header)
    if not keys:
        return None
    if len(keys) > 1 or _IDEMPOTENCY_KEY.fullmatch(keys[0]) is None:
        raise Problem(400, ReasonCode.REQUEST_MALFORMED, f"`{header}` has 1 to 255 visible ASCII characters")
    return keys[0]


def _wait_s(request: Request) -> float:
    text = query(request, _QUERY).get("wait")
    if text is None:
        return 0.0
    if _SECONDS.fullmatch(text) is None or float(text) > MAX_WAIT_S:
        raise Problem(400, ReasonCode.REQUEST_MALFORMED, f"`wait` is a number of seconds up to {MAX_WAIT_S:.0f}")
    return float(text)


def _response(answer: Answer) -> Response:
    return json_response(answer.status, answer.envelope, retry_after_s=answer.retry_after_s)
