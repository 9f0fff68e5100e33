"""What every envelope and every problem must look like, whoever asked for what."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from holdfast.reasons import Cause, Decision, Mode, ReasonCode, Status, http_status

if TYPE_CHECKING:
    import httpx2

MEMBERS = {
    *("intent_id", "status", "decision", "reason_code", "cause", "detail", "mode", "category", "impact", "risk"),
    *("policy", "token", "token_expires_at", "queue", "retry_after", "status_url", "receipt", "decided_at"),
}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def envelope(answer: httpx2.Response, status: int, reason_code: str, /, **members: Any) -> dict[str, Any]:
    """Check an answer to a submission or a claim against the contract, and return its envelope."""
    assert (answer.status_code, answer.json().get("reason_code")) == (status, reason_code), answer.text
    assert answer.headers["content-type"] == "application/json"
    assert _REQUEST_ID.fullmatch(answer.headers["x-request-id"])
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    check_members(body)
    assert (answer.status_code == 200) is (body["token"] is not None), "200 means a token, and nothing else does"
    if answer.status_code in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
    for name, value in members.items():
        assert body[name] == value, f"{name}: {body[name]!r}"
    return body


def check_members(body: dict[str, Any]) -> None:
    """Check an envelope's members and their types."""
    assert body.keys() == MEMBERS
    assert re.fullmatch(r"int_[0-9a-z]{26}", body["intent_id"])
    assert body["status_url"] == f"/v1/intents/{body['intent_id']}"
    Status(body["status"])
    Decision(body["decision"])
    Mode(body["mode"])
    code = ReasonCode(body["reason_code"])
    if body["cause"] is not None:
        Cause(body["cause"])
    assert (body["cause"] is not None) == (code is ReasonCode.EVALUATION_UNAVAILABLE)
    assert isinstance(body["detail"], str)
    assert _TIME.fullmatch(body["decided_at"])
    assert (body["token"] is not None) <= (body["token_expires_at"] is not None)
    if body["token"] is not None:
        assert (body["decision"], body["status"], code) == ("allow", "granted", "ALLOWED")
        assert body["token"].count(".") == 2
    if body["receipt"] is not None:
        assert body["receipt"].keys() == {"stream", "seq", "hash"}
    if body["queue"] is not None:
        assert body["queue"].keys() == {"state", "lane", "position", "expires_at"}
        assert body["queue"]["state"] in {"durable", "journal"}
    if body["risk"] is not None:
        assert body["risk"].keys() == {"score", "tier", "factors"}
        assert 0 <= body["risk"]["score"] <= 100
        assert all(factor.keys() == {"name", "points", "why"} for factor in body["risk"]["factors"])
    assert body["policy"].keys() == {"bundle", "determining"}
    http_status(code)


def problem(answer: httpx2.Response, status: int, reason_code: str) -> dict[str, Any]:
    """Check that an answer is a problem of the contract, and return it."""
    assert answer.status_code == status, answer.text
    check_problem(status, answer.headers["content-type"], answer.content)
    assert _REQUEST_ID.fullmatch(answer.headers["x-request-id"])
    assert answer.json()["reason_code"] == reason_code, answer.text
    if status == 401 and reason_code == "UNAUTHENTICATED":
        assert answer.headers["www-authenticate"] == "Bearer"
    if status == 503:
        assert int(answer.headers["retry-after"]) >= 1
    return answer.json()


def check_problem(status: int, content_type: str, body: bytes) -> None:
    """Check the bytes of a problem: RFC 9457 with a reason code, and nothing that could be a token."""
    assert content_type == "application/problem+json"
    document = json.loads(body)
    more = {"version"} if document.get("reason_code") == "CONFLICT" else set()  # of an operator's change
    assert document.keys() - more == {"type", "title", "status", "detail", "reason_code"}
    assert document["status"] == status
    ReasonCode(document["reason_code"])
    assert b"eyJ" not in body
