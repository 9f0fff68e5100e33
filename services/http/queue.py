"""The operators' endpoints for what waits: list, look, approve, deny, cancel, reprioritize, retry, in bulk."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from holdfast import strict_json
from holdfast.errors import MalformedJSON
from holdfast.reasons import Decision, ReasonCode
from starlette.routing import Route

from intent_queue.item import Cursor, Filters
from intent_queue.order import Lane
from intent_queue.states import STORED, State
from intent_queue.store import QueueUnavailable
from services.credentials import MAY_PERMIT, MAY_STOP, Kind
from services.decision.verdict import Allow, Deny, Hold, Unavailable
from services.http.wire import Endpoint, json_response, line, members, path_id, query, read_json
from services.outcome import LANE_NAMES, rfc3339
from services.submissions import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from collections.abc import Set as AbstractSet

    from holdfast.strict_json import JSON
    from starlette.requests import Request
    from starlette.responses import Response

    from intent_queue.item import QueuedItem
    from intent_queue.store import QueueStore
    from services.credentials import Role
    from services.decision.approvals import Approval, Need
    from services.http.callers import Callers
    from services.queued import Glance
    from services.tending import Case, Tended, Tending

_FILTERS: Final = frozenset(
    {"state", "lane", "agent", "category", "reason_code", "queued_before", "queued_after", "limit", "after"}
)
_LIMIT: Final = re.compile(r"[0-9]{1,3}")
_MAX_PAGE: Final = 500
_MAX_BULK: Final = 500
_MAX_NOTE: Final = 2_000
_MAX_VERSION: Final = 2**31 - 2
_INTENT_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

#: What each action takes beside the intent, its version and a note, and who may do it.
_ACTIONS: Final[Mapping[str, tuple[frozenset[str], AbstractSet[Role]]]] = {
    "approve": (frozenset({"act_hash", "bundle"}), MAY_PERMIT),
    "deny": (frozenset(), MAY_STOP),
    "cancel": (frozenset(), MAY_STOP),
    "reprioritize": (frozenset({"lane"}), MAY_STOP),
    "retry": (frozenset(), MAY_STOP),
}
_DECISIONS: Final[Mapping[type, Decision]] = {
    Allow: Decision.ALLOW,
    Deny: Decision.DENY,
    Hold: Decision.HOLD,
    Unavailable: Decision.DENY,
}


class QueueEndpoints:
    """`/v1/operator/queue`."""

    def __init__(self, *, callers: Callers, queue: QueueStore, tending: Tending) -> None:
        self._callers = callers
        self._queue = queue
        self._tending = tending

    def routes(self) -> list[Route]:
        """Return the routes."""
        queue = "/v1/operator/queue"
        return [
            Route(queue, Endpoint(self._list), methods=["GET"]),
            Route(f"{queue}/bulk", Endpoint(self._bulk), methods=["POST"]),
            Route(queue + "/{intent_id}", Endpoint(self._look), methods=["GET"]),
            *(
                Route(queue + "/{intent_id}/" + action, Endpoint(partial(self._one, action)), methods=["POST"])
                for action in _ACTIONS
            ),
        ]

    # --- looking --------------------------------------------------------------------------------------------------

    async def _list(self, request: Request) -> Response:
        await self._callers.require(request, Kind.OPERATOR, takes=_FILTERS)
        asked = query(request, _FILTERS)
        limit = asked.get("limit", "100")
        if _LIMIT.fullmatch(limit) is None or not 1 <= int(limit) <= _MAX_PAGE:
            raise _malformed(f"`limit` is 1 to {_MAX_PAGE}")
        filters = Filters(
            state=_state(asked.get("state")),
            lane=_lane(asked["lane"]) if "lane" in asked else None,
            agent=asked.get("agent"),
            category=asked.get("category"),
            reason_code=asked.get("reason_code"),
            queued_before=_time(asked, "queued_before"),
            queued_after=_time(asked, "queued_after"),
        )
        after = _cursor(asked.get("after"))
        try:
            page = await self._queue.page(after=after, limit=int(limit), filters=filters)
        except QueueUnavailable as error:
            raise Problem(
                503, ReasonCode.SERVICE_UNAVAILABLE, "the queue cannot be read now", retry_after_s=2
            ) from error
        glances = await self._tending.glance([item.intent_id for item in page.items])
        return json_response(
            200,
            {
                "items": [_item(item, *glances.get(item.intent_id, (None, None))) for item in page.items],
                "next": None if page.after is None else _text(page.after),
            },
        )

    async def _look(self, request: Request) -> Response:
        await self._callers.require(request, Kind.OPERATOR)
        return json_response(200, _whole(await self._tending.look(path_id(request, "intent_id"))))

    # --- changing -------------------------------------------------------------------------------------------------

    async def _one(self, action: str, request: Request) -> Response:
        takes, roles = _ACTIONS[action]
        by = await self._callers.require_operator(request, roles)
        body = members(await read_json(request), {"version", "note"} | takes)
        change = self._change(action, path_id(request, "intent_id"), body, by=by, note=_note(body))
        return json_response(200, _tended(await change()))

    async def _bulk(self, request: Request) -> Response:
        by, role = await self._callers.operator(request)
        body = members(await read_json(request), {"action", "items", "note"})
        action, items = body.get("action"), body.get("items")
        if not isinstance(action, str) or action not in _ACTIONS:
            raise _malformed(f"`action` is one of {', '.join(_ACTIONS)}")
        roles = _ACTIONS[action][1]
        if role not in roles:
            raise Problem(403, ReasonCode.FORBIDDEN, f"this needs one of the roles {', '.join(sorted(roles))}")
        if not isinstance(items, list) or not 1 <= len(items) <= _MAX_BULK:
            raise _malformed(f"`items` holds 1 to {_MAX_BULK} intents")
        note = line(body, "note", most=_MAX_NOTE)
        changes = [partial(self._listed, action, item, by=by, note=note) for item in items]
        results: list[JSON] = []
        for item, result in zip(items, await self._tending.each(changes), strict=True):
            intent_id = item.get("intent_id") if isinstance(item, dict) else None
            if isinstance(result, Problem):
                refused = {"status": result.status, "reason_code": result.reason_code.value, "detail": result.detail}
                results.append({"intent_id": intent_id, "done": False, "problem": {**refused, **result.members}})
            else:
                results.append({"intent_id": intent_id, "done": True, "intent": _tended(result)})
        return json_response(200, {"results": results})

    async def _listed(self, action: str, item: JSON, *, by: str, note: str) -> Tended:
        body = members(item, {"intent_id", "version"} | _ACTIONS[action][0])
        intent_id = body.get("intent_id")
        if not isinstance(intent_id, str) or _INTENT_ID.fullmatch(intent_id) is None:
            raise _malformed("`intent_id` is that of an intent")
        return await self._change(action, intent_id, body, by=by, note=note)()

    def _change(
        self, action: str, intent_id: str, body: dict[str, JSON], *, by: str, note: str | None
    ) -> Callable[[], Awaitable[Tended]]:
        """Return the change that a body asks for. Raises: Problem 400."""
        version = _version(body)
        match action:
            case "approve":
                act_hash, bundle = line(body, "act_hash", most=128), line(body, "bundle", most=128)
                return partial(
                    self._tending.approve,
                    intent_id,
                    by=by,
                    version=version,
                    act_hash=act_hash,
                    bundle=bundle,
                    note=note,
                )
            case "deny":
                return partial(self._tending.deny, intent_id, by=by, version=version, note=note)
            case "cancel":
                return partial(self._tending.cancel, intent_id, by=by, version=version, note=note)
            case "reprioritize":
                lane = _lane(line(body, "lane", most=16))
                return partial(self._tending.reprioritize, intent_id, by=by, version=version, lane=lane, note=note)
            case _:
                return partial(self._tending.retry, intent_id, by=by, version=version, note=note)


# --- what is shown ----------------------------------------------------------------------------------------------------


def _item(item: QueuedItem, glance: Glance | None, needs: tuple[Need, ...] | None) -> JSON:
    shown: dict[str, JSON] = {
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
    if glance is not None:
        shown |= {
            "act_hash": glance.act_hash,
            "bundle": glance.bundle,
            "category": glance.category,
            "impact": glance.impact,
            "needed": None if needs is None else [_need(need) for need in needs],
            "approvals": [_approval(approval) for approval in glance.approvals],
        }
    return shown


def _whole(case: Case) -> dict[str, JSON]:
    """Return all of an intent. `version`, `act_hash` and `bundle` are what an approval names."""
    stored, entry, risk = case.queued.stored, case.queued.entry, case.risk
    people = [approval.approved_by for approval in case.counted]
    return {
        "intent_id": stored.intent_id,
        "agent": stored.agent,
        "owner": case.policy.owner(stored.agent),
        "version": stored.version,
        "act_hash": case.act_hash,
        "bundle": case.policy.digest,
        "status": stored.status,
        "intent": case.intent.to_json(),
        "envelope": {**stored.envelope, "token": None},
        "queue": None
        if entry is None
        else {
            "state": entry.state,
            "leased": entry.leased,
            "lane": LANE_NAMES[entry.lane],
            "rank_at": rfc3339(entry.rank_at),
            "enqueued_at": rfc3339(entry.enqueued_at),
            "expires_at": rfc3339(entry.expires_at),
            "attempts": entry.attempts,
        },
        "claim_by": None if stored.claim_by is None else rfc3339(stored.claim_by),
        "impact": case.impact,
        "risk": None
        if risk is None
        else {
            "score": risk.score,
            "tier": risk.tier,
            "factors": [{"name": f.name, "points": f.points, "why": f.why} for f in risk.factors],
        },
        "now": {
            "decision": _DECISIONS[type(case.verdict)].value,
            "detail": "permitted" if isinstance(case.verdict, Allow) else case.verdict.detail,
            "rules": [{"id": rule, "reason": reason} for rule, reason in case.rules],
        },
        "needed": [_need(need) for need in case.needs],
        "needed_in_outage": None
        if case.people_in_outage is None
        else {
            "count": case.people_in_outage,
            "approved_by": [*people],
            "missing": max(0, case.people_in_outage - len(people)),
        },
        "approvals": [
            {**_approval(approval), "counts": approval in case.counted} for approval in case.queued.approvals
        ],
    }


def _tended(tended: Tended) -> dict[str, JSON]:
    whole, outcome = _whole(tended.case), tended.outcome
    kept = ("intent_id", "status", "version", "queue", "claim_by", "needed", "needed_in_outage", "approvals")
    return {
        **{name: whole[name] for name in kept},
        "approval_id": tended.approval_id,
        "outcome": None
        if outcome is None
        else {
            "status": outcome.status.value,
            "decision": outcome.decision.value,
            "reason_code": outcome.reason_code.value,
            "mode": outcome.mode.value,
            "detail": outcome.detail,
            "determining": list(outcome.determining),
        },
    }


def _need(need: Need) -> JSON:
    return {
        "rule": need.rule,
        "reason": need.reason,
        "role": need.role,
        "count": need.count,
        "approved_by": list(need.approved_by),
        "missing": need.missing,
    }


def _approval(approval: Approval) -> dict[str, JSON]:
    return {
        "approval_id": approval.approval_id,
        "by": approval.approved_by,
        "roles": list(approval.roles),
        "at": rfc3339(approval.approved_at),
        "note": approval.note,
        "act_hash": approval.act_hash,
        "bundle": approval.bundle,
    }


# --- what is asked ----------------------------------------------------------------------------------------------------


def _version(body: dict[str, JSON]) -> int:
    version = body.get("version")
    if type(version) is not int or not 1 <= version <= _MAX_VERSION:
        raise _malformed("`version` is that of the intent as it was shown")
    return version


def _note(body: dict[str, JSON]) -> str | None:
    return None if body.get("note") is None else line(body, "note", most=_MAX_NOTE)


def _time(asked: dict[str, str], name: str) -> datetime | None:
    if name not in asked:
        return None
    try:
        moment = datetime.fromisoformat(asked[name])
        if moment.utcoffset() is None:
            raise ValueError("a naive time")  # noqa: TRY301 - one way out for what is no time
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise _malformed(f"`{name}` is a time with its offset, as in RFC 3339") from error


def _state(text: str | None) -> State | None:
    if text is None:
        return None
    if text not in STORED:
        raise _malformed(f"`state` is one of {', '.join(state for state in State if state in STORED)}")
    return State(text)


def _lane(text: str) -> Lane:
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
