"""The operators' endpoints."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from holdfast import strict_json
from holdfast.errors import MalformedJSON
from holdfast.reasons import ReasonCode
from starlette.routing import Route

from intent_queue.item import Cursor, Filters
from intent_queue.order import Lane
from intent_queue.states import State
from intent_queue.store import QueueUnavailable
from services.credentials import Kind
from services.http.wire import Endpoint, json_response, query
from services.outcome import LANE_NAMES, rfc3339
from services.submissions import Problem

if TYPE_CHECKING:
    from holdfast.strict_json import JSON
    from starlette.requests import Request
    from starlette.responses import Response

    from intent_queue.item import QueuedItem
    from intent_queue.store import QueueStore
    from services.http.callers import Callers

_FILTERS: Final = frozenset({"state", "lane", "agent", "reason_code", "limit", "after"})
_LIMIT: Final = re.compile(r"[0-9]{1,3}")
_MAX_PAGE: Final = 500
_INTENT_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class OperatorEndpoints:
    """`/v1/operator`."""

    def __init__(self, *, callers: Callers, queue: QueueStore) -> None:
        self._callers = callers
        self._queue = queue

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/v1/operator/queue", Endpoint(self._list), methods=["GET"])]

    async def _list(self, request: Request) -> Response:
        await self._callers.require(request, Kind.OPERATOR)
        asked = query(request, _FILTERS)
        limit = asked.get("limit", "100")
        if _LIMIT.fullmatch(limit) is None or not 1 <= int(limit) <= _MAX_PAGE:
            raise _malformed(f"`limit` is 1 to {_MAX_PAGE}")
        filters = Filters(
            state=_state(asked.get("state")),
            lane=_lane(asked.get("lane")),
            agent=asked.get("agent"),
            reason_code=asked.get("reason_code"),
        )
        after = _cursor(asked.get("after"))
        try:
            page = await self._queue.page(after=after, limit=int(limit), filters=filters)
        except QueueUnavailable as error:
            raise Problem(
                503, ReasonCode.SERVICE_UNAVAILABLE, "the queue cannot be read now", retry_after_s=2
            ) from error
        return json_response(
            200,
            {
                "items": [_item(item) for item in page.items],
                "next": None if page.after is None else _text(page.after),
            },
        )


def _item(item: QueuedItem) -> JSON:
    return {
        "intent_id": item.intent_id,
        "agent": item.agent,
        "state": item.state.value,
        "lane": LANE_NAMES[item.lane],
        "rank_at": rfc3339(item.rank_at),
        "enqueued_at": rfc3339(item.enqueued_at),
        "expires_at": rfc3339(item.expires_at),
        "attempts": item.attempts,
        "reason_code": item.reason_code,
        "version": item.version,
    }


def _state(text: str | None) -> State | None:
    if text is None:
        return None
    try:
        return State(text)
    except ValueError as error:
        raise _malformed("`state` is not known") from error


def _lane(text: str | None) -> Lane | None:
    if text is None:
        return None
    if text not in LANE_NAMES:
        raise _malformed(f"`lane` is one of {', '.join(LANE_NAMES)}")
    return Lane(LANE_NAMES.index(text))


def _text(cursor: Cursor) -> str:
    document = f'["{int(cursor.lane)}","{cursor.rank_at.astimezone(UTC).isoformat()}","{cursor.intent_id}"]'
    return base64.urlsafe_b64encode(document.encode("ascii")).rstrip(b"=").decode("ascii")


def _cursor(text: str | None) -> Cursor | None:
    if text is None:
        return None
    wrong = _malformed("`after` is not from an earlier page")
    try:
        parts = strict_json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, MalformedJSON) as error:
        raise wrong from error
    match parts:
        case [str(lane), str(rank_at), str(intent_id)]:
            try:
                moment = datetime.fromisoformat(rank_at)
                if moment.utcoffset() is None or _INTENT_ID.fullmatch(intent_id) is None:
                    raise wrong
                return Cursor(lane=Lane(int(lane)), rank_at=moment.astimezone(UTC), intent_id=intent_id)
            except (ValueError, OverflowError) as error:
                raise wrong from error
        case _:
            raise wrong


def _malformed(detail: str) -> Problem:
    return Problem(400, ReasonCode.REQUEST_MALFORMED, detail)
