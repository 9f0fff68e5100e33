"""The operators' endpoints for reviews: list, close, close many."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from holdfast import strict_json
from holdfast.errors import MalformedJSON
from holdfast.reasons import Mode, ReasonCode
from starlette.routing import Route

from services.credentials import MAY_PERMIT, Kind
from services.decision.review import REVIEWED, ReviewVerdict
from services.http.wire import Endpoint, json_response, line, members, path_id, query, read_json
from services.ports import StoreUnreachable
from services.submissions import Problem

if TYPE_CHECKING:
    from holdfast.strict_json import JSON
    from starlette.requests import Request
    from starlette.responses import Response

    from services.http.callers import Callers
    from services.ports import Clock
    from services.postgres.reviews import PostgresReviews, UseRow
    from services.reviewing import Reviewing

_FILTERS: Final = frozenset({"state", "mode", "limit", "after"})
_MAX_TEXT: Final = 500
_MAX_PAGE: Final = 500
_MAX_BULK: Final = 500
_LIMIT: Final = re.compile(r"[0-9]{1,3}")
_REVIEW_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ReviewEndpoints:
    """`/v1/operator/reviews`."""

    def __init__(self, *, callers: Callers, reviewing: Reviewing, reviews: PostgresReviews, clock: Clock) -> None:
        self._callers = callers
        self._reviewing = reviewing
        self._reviews = reviews
        self._clock = clock

    def routes(self) -> list[Route]:
        """Return the routes."""
        path = "/v1/operator/reviews"
        return [
            Route(path, Endpoint(self._list), methods=["GET"]),
            Route(f"{path}/close", Endpoint(self._close_many), methods=["POST"]),
            Route(path + "/{review_id}/close", Endpoint(self._close), methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        await self._callers.require(request, Kind.OPERATOR, takes=_FILTERS)
        asked = query(request, _FILTERS)
        state, limit = asked.get("state", "open"), asked.get("limit", "100")
        if state not in {"open", "all"}:
            raise _malformed("`state` is open or all")
        if _LIMIT.fullmatch(limit) is None or not 1 <= int(limit) <= _MAX_PAGE:
            raise _malformed(f"`limit` is 1 to {_MAX_PAGE}")
        most = int(limit)
        read = self._reviews.open if state == "open" else self._reviews.latest
        mode, after, now = _mode(asked.get("mode")), _after(asked.get("after"), state), self._clock.now()
        try:
            # One more than asked for tells whether there is another page.
            found = await read(limit=most + 1, mode=mode, after=after)
        except StoreUnreachable as error:
            detail = "the reviews cannot be read now"
            raise Problem(503, ReasonCode.SERVICE_UNAVAILABLE, detail, retry_after_s=2) from error
        following = _end(found[most - 1], state) if len(found) > most else None
        return json_response(200, {"reviews": [use.to_json(now) for use in found[:most]], "next": following})

    async def _close(self, request: Request) -> Response:
        by = await self._callers.require_operator(request, MAY_PERMIT)
        review_id = path_id(request, "review_id")
        verdict, note = _found(members(await read_json(request), {"verdict", "note"}))
        await self._reviewing.close(review_id, by=by, verdict=verdict, note=note)
        return json_response(200, {"review_id": review_id, "verdict": verdict.value, "closed_by": by})

    async def _close_many(self, request: Request) -> Response:
        by = await self._callers.require_operator(request, MAY_PERMIT)
        body = members(await read_json(request), {"review_ids", "verdict", "note"})
        verdict, note = _found(body)
        ids = _ids(body.get("review_ids"))
        problems = await self._reviewing.close_each(ids, by=by, verdict=verdict, note=note)
        results: list[JSON] = []
        for review_id, problem in zip(ids, problems, strict=True):
            if problem is None:
                results.append({"review_id": review_id, "done": True, "verdict": verdict.value, "closed_by": by})
            else:
                code, detail = problem.reason_code.value, problem.detail
                refused: dict[str, JSON] = {"status": problem.status, "reason_code": code, "detail": detail}
                results.append({"review_id": review_id, "done": False, "problem": refused})
        return json_response(200, {"results": results})


def _found(body: dict[str, JSON]) -> tuple[ReviewVerdict, str]:
    verdict = body.get("verdict")
    if not isinstance(verdict, str) or verdict not in set(ReviewVerdict):
        raise _malformed(f"`verdict` is one of {', '.join(ReviewVerdict)}")
    return ReviewVerdict(verdict), line(body, "note", most=_MAX_TEXT)


def _ids(listed: JSON) -> list[str]:
    wrong = _malformed(f"`review_ids` holds 1 to {_MAX_BULK} ids of reviews, each once")
    if not isinstance(listed, list) or not 1 <= len(listed) <= _MAX_BULK:
        raise wrong
    ids = [one for one in listed if isinstance(one, str) and _REVIEW_ID.fullmatch(one) is not None]
    if len(set(ids)) != len(listed):
        raise wrong
    return ids


def _mode(text: str | None) -> Mode | None:
    if text is None:
        return None
    if text not in set(REVIEWED):
        raise _malformed(f"`mode` is one of {', '.join(sorted(REVIEWED))}")
    return Mode(text)


def _end(last: UseRow, state: str) -> str:
    at = last.due_at if state == "open" else last.used_at
    document = f'["{state}","{at.astimezone(UTC).isoformat()}","{last.review_id}"]'
    return base64.urlsafe_b64encode(document.encode("ascii")).rstrip(b"=").decode("ascii")


def _after(text: str | None, state: str) -> tuple[datetime, str] | None:
    """Return where an earlier page of the same list ended. Raises: Problem 400."""
    if text is None:
        return None
    wrong = _malformed("`after` is not from an earlier page of this list")
    try:
        parts = strict_json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        match parts:
            case [str(of), str(at), str(review_id)] if of == state and _REVIEW_ID.fullmatch(review_id) is not None:
                moment = datetime.fromisoformat(at)
            case _:
                raise wrong
        if moment.utcoffset() is None:
            raise wrong
        return moment.astimezone(UTC), review_id
    except (binascii.Error, ValueError, OverflowError, MalformedJSON) as error:
        raise wrong from error


def _malformed(detail: str) -> Problem:
    return Problem(400, ReasonCode.REQUEST_MALFORMED, detail)
