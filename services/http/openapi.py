"""The description of the API that `/openapi.json` serves. Normative text: docs/protocol.md."""

from __future__ import annotations

from functools import cache
from typing import Any

from holdfast.reasons import Cause, Decision, Mode, ReasonCode, Status

_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_ENVELOPE = {"application/json": {"schema": {"$ref": "#/components/schemas/Envelope"}}}


@cache
def describe() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Holdfast", "version": "1", "description": "Signed authority tokens for AI agents."},
        "paths": {
            "/v1/intents": {"post": _submit()},
            "/v1/intents/{intent_id}": {
                "get": _operation("Look at an intent", "agent", {"200": _ENVELOPE}, parameters=[_ID, _WAIT]),
                "delete": _operation("Cancel a waiting intent", "agent", {"200": _ENVELOPE}, parameters=[_ID]),
            },
            "/v1/intents/{intent_id}/claim": {
                "post": _operation(
                    "Claim a late allow: 200 holds a token",
                    "agent",
                    {"200": _ENVELOPE, "403": _ENVELOPE, "503": _ENVELOPE},
                    parameters=[_ID],
                )
            },
            **_event_paths(),
            "/v1/tokens/consume": {
                "post": _operation(
                    "Consume a token exactly once", "executor", {"200": _json("Consumed")}, body="Consume"
                )
            },
            "/v1/tokens/{jti}/outcome": {
                "post": _operation(
                    "Report what became of it",
                    "executor",
                    {"200": _json("Recorded")},
                    body="Outcome",
                    parameters=[_JTI],
                )
            },
            **_queue_paths(),
            **_policy_paths(),
            **_order_paths(),
            **_staff_paths(),
            **_break_glass_paths(),
            **_review_paths(),
            "/.well-known/jwks.json": {"get": _operation("The public keys", None, {"200": _json("JWKS")})},
            "/livez": {"get": _operation("Whether the process lives", None, {"200": _json("Live")})},
            "/readyz": {"get": _operation("Whether it may be sent traffic", None, {"200": _json("Ready")})},
        },
        "components": {"schemas": _SCHEMAS, "securitySchemes": _SECURITY},
    }


def _event_paths() -> dict[str, Any]:
    events = {"200": {"text/event-stream": {"schema": _TEXT}}}
    return {
        "/v1/events": {
            "get": _operation("Follow all intents of one's own", "agent", events, parameters=[_LAST_EVENT_ID])
        },
        "/v1/intents/{intent_id}/events": {
            "get": _operation("Follow an intent", "agent", {**events, "204": {}}, parameters=[_ID, _LAST_EVENT_ID])
        },
        "/.well-known/webhook-keys.json": {
            "get": _operation("The public keys of webhooks", None, {"200": _json("WebhookKeys")})
        },
    }


def _queue_paths() -> dict[str, Any]:
    queue = "/v1/operator/queue"
    one: dict[str, Any] = {"200": _json("Document")}

    def change(summary: str, body: str) -> dict[str, Any]:
        return {"post": _operation(summary, "operator", one, body=body, parameters=[_ID])}

    listed = _operation("List what waits", "operator", {"200": _json("QueuePage")}, parameters=_QUEUE_FILTERS)
    bulk = _operation(
        "Change up to 500 intents, each by itself", "operator", {"200": _json("BulkResults")}, body="Bulk"
    )
    return {
        queue: {"get": listed},
        f"{queue}/bulk": {"post": bulk},
        f"{queue}/{{intent_id}}": {
            "get": _operation("All of a waiting intent", "operator", one, parameters=[_ID]),
        },
        f"{queue}/{{intent_id}}/approve": change("Approve an intent, and judge it again", "Approve"),
        f"{queue}/{{intent_id}}/deny": change("End an intent with a no", "Deny"),
        f"{queue}/{{intent_id}}/cancel": change("End an intent that nobody needs", "Change"),
        f"{queue}/{{intent_id}}/reprioritize": change("Move an intent to a lane", "Reprioritize"),
        f"{queue}/{{intent_id}}/retry": change("Try a parked intent again, judge a held one again", "Change"),
    }


def _policy_paths() -> dict[str, Any]:
    found: dict[str, Any] = {"200": _json("Document")}
    policy = "/v1/operator/policy"
    explained = _operation("Explain a decision", "operator", found, parameters=[_ID])
    return {
        "/v1/intents/{intent_id}/explain": {
            "get": _operation("Explain a decision on an intent of one's own", "agent", found, parameters=[_ID])
        },
        policy: {
            "get": _operation("The active bundle, the stored ones, the history", "operator", found),
            "post": _operation("Upload a bundle", "operator", {**found, "201": _json("Document")}, body="Upload"),
        },
        f"{policy}/{{digest}}": {"get": _operation("A bundle's files", "operator", found, parameters=[_DIGEST])},
        f"{policy}/{{digest}}/activate": {
            "post": _operation("Activate a bundle", "operator", found, body="Activate", parameters=[_DIGEST])
        },
        f"{policy}/rollback": {"post": _operation("Activate what was before", "operator", found, body="Rollback")},
        f"{policy}/shadow": {
            "get": _operation("What the candidate in the shadow answered", "operator", found),
            "put": _operation("Run a candidate in the shadow", "operator", found, body="Shadow"),
            "delete": _operation("Run nothing in the shadow", "operator", found),
        },
        "/v1/operator/decisions/{intent_id}": {"get": explained},
        "/v1/operator/decisions/{intent_id}/explain": {"get": explained},
    }


def _order_paths() -> dict[str, Any]:
    found: dict[str, Any] = {"200": _json("Document")}
    made = {**found, "201": _json("Document")}
    operator = "/v1/operator"
    named = [_NAME]
    return {
        f"{operator}/halt": {
            "get": _operation("The halts in force", "operator", found),
            "post": _operation("Halt everything, an agent, a category or an executor", "operator", made, body="Halt"),
        },
        f"{operator}/resume": {"post": _operation("End a halt", "operator", found, body="Resume")},
        f"{operator}/overrides": {
            "get": _operation("The overrides in force", "operator", found),
            "post": _operation("Let reads of a tier pass unevaluated", "operator", made, body="Override"),
        },
        f"{operator}/overrides/{{order_id}}/end": {
            "post": _operation("End an override", "operator", found, body="Note", parameters=[_ORDER_ID])
        },
        f"{operator}/boundaries": {"get": _operation("The boundaries", "operator", found)},
        f"{operator}/boundaries/{{name}}/force-open": {
            "post": _operation("Hold a boundary open", "operator", made, body="Reason", parameters=named)
        },
        f"{operator}/boundaries/{{name}}/reset": {
            "post": _operation("Let go of a boundary and probe it", "operator", found, body="Reason", parameters=named)
        },
        f"{operator}/agents/{{name}}/suspend": {
            "post": _operation("Suspend an agent", "operator", made, body="Reason", parameters=named)
        },
        f"{operator}/agents/{{name}}/resume": {
            "post": _operation("End an agent's suspension", "operator", found, body="Note", parameters=named)
        },
    }


def _staff_paths() -> dict[str, Any]:
    found: dict[str, Any] = {"200": _json("Document")}
    made, named = {"201": _json("Document")}, [_NAME]
    operators = "/v1/operator/operators"
    paths: dict[str, Any] = {
        operators: {
            "get": _operation("The operators", "operator", found),
            "post": _operation("Add an operator: their secrets, once", "operator", made, body="NewOperator"),
        },
        f"{operators}/{{name}}/role": {
            "post": _operation("Give an operator another role", "operator", found, body="ChangeRole", parameters=named)
        },
        f"{operators}/{{name}}/rotate": {
            "post": _operation("Make a new token", "operator", found, body="MayNote", parameters=named)
        },
        f"{operators}/{{name}}/disable": {
            "post": _operation("Shut an operator out", "operator", found, body="Note", parameters=named)
        },
        f"{operators}/{{name}}/enable": {
            "post": _operation("Let an operator in again", "operator", found, body="Note", parameters=named)
        },
    }
    for plural in ("agents", "executors"):
        path = f"/v1/operator/{plural}"
        paths[path] = {
            "get": _operation(f"The {plural}", "operator", found),
            "post": _operation("Make a first key, shown once", "operator", made, body="NewKey"),
        }
        rotate = _operation("Make a new key, shown once", "operator", found, body="RotateKey", parameters=named)
        paths[f"{path}/{{name}}/rotate"] = {"post": rotate}
    return paths


def _break_glass_paths() -> dict[str, Any]:
    found: dict[str, Any] = {"200": _json("Document")}
    path = "/v1/operator/break-glass"
    one, named = f"{path}/{{activation_id}}", [_ACTIVATION_ID]
    return {
        path: {
            "get": _operation("The activations of the last day", "operator", found),
            "post": _operation("Activate break-glass", "operator", {"201": _json("Document")}, body="Activation"),
        },
        one: {"get": _operation("An activation and its uses", "operator", found, parameters=named)},
        f"{one}/confirm": {
            "post": _operation("Be the next person behind it", "operator", found, body="Nothing", parameters=named)
        },
        f"{one}/revoke": {"post": _operation("End it", "operator", found, body="Note", parameters=named)},
    }


def _review_paths() -> dict[str, Any]:
    found: dict[str, Any] = {"200": _json("Document")}
    path = "/v1/operator/reviews"
    close = _operation("Close a review", "operator", found, body="Review", parameters=[_REVIEW_ID])
    answers: dict[str, Any] = {"200": _json("BulkResults")}
    return {
        path: {"get": _operation("Reviews of uses", "operator", {"200": _json("Reviews")}, parameters=_REVIEW_QUERY)},
        f"{path}/close": {"post": _operation("Close many reviews", "operator", answers, body="Reviewed")},
        f"{path}/{{review_id}}/close": {"post": close},
    }


def _submit() -> dict[str, Any]:
    answers: dict[str, dict[str, Any]] = dict.fromkeys(("200", "202", "403", "429", "503"), _ENVELOPE)
    key = {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"}
    headers = [
        {"name": name, "in": "header", "required": False, "schema": key} for name in ("Idempotency-Key", "Supersedes")
    ]
    answers |= dict.fromkeys(("404", "409"), _PROBLEM)
    return _operation("Submit an intent: 200 holds a token", "agent", answers, body="Intent", parameters=headers)


def _operation(
    summary: str,
    caller: str | None,
    answers: dict[str, dict[str, Any]],
    *,
    body: str | None = None,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            **{status: {"description": summary, "content": content} for status, content in answers.items()},
            "default": {"description": "a problem", "content": _PROBLEM},
        },
    }
    if caller is not None:
        operation["security"] = [{caller: []}]
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    if parameters:
        operation["parameters"] = parameters
    return operation


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _object(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


_TEXT: dict[str, Any] = {"type": "string"}
_TIME: dict[str, Any] = {"type": "string", "format": "date-time"}
_INTEGER: dict[str, Any] = {"type": "integer"}
_BOOLEAN: dict[str, Any] = {"type": "boolean"}
_ANY_OBJECT: dict[str, Any] = {"type": "object"}
_ID: dict[str, Any] = {"name": "intent_id", "in": "path", "required": True, "schema": _TEXT}
_JTI: dict[str, Any] = {"name": "jti", "in": "path", "required": True, "schema": _TEXT}
_NAME: dict[str, Any] = {"name": "name", "in": "path", "required": True, "schema": _TEXT}
_ACTIVATION_ID: dict[str, Any] = {"name": "activation_id", "in": "path", "required": True, "schema": _TEXT}
_REVIEW_ID: dict[str, Any] = {"name": "review_id", "in": "path", "required": True, "schema": _TEXT}
_REVIEW_QUERY: list[dict[str, Any]] = [
    {"name": "state", "in": "query", "schema": {"enum": ["open", "all"]}},
    {"name": "mode", "in": "query", "schema": {"enum": ["break_glass", "fail_open", "operator"]}},
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 500}},
    {"name": "after", "in": "query", "schema": _TEXT},
]
_ORDER_ID: dict[str, Any] = {"name": "order_id", "in": "path", "required": True, "schema": _TEXT}
_DIGEST: dict[str, Any] = {"name": "digest", "in": "path", "required": True, "schema": _TEXT}
_WAIT: dict[str, Any] = {"name": "wait", "in": "query", "schema": {"type": "number", "minimum": 0, "maximum": 60}}

_LAST_EVENT_ID: dict[str, Any] = {"name": "Last-Event-ID", "in": "header", "required": False, "schema": _TEXT}


_VERSION: dict[str, Any] = {"type": "integer", "minimum": 1}
_LINE: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 2000}
_LANE: dict[str, Any] = {"enum": ["safety", "critical", "normal", "bulk"]}
_QUEUE_FILTERS: list[dict[str, Any]] = [
    {"name": name, "in": "query", "schema": schema}
    for name, schema in (
        ("state", {"enum": ["waiting", "leased", "held", "parked", "claimable"]}),
        ("lane", _LANE),
        ("agent", _TEXT),
        ("category", _TEXT),
        ("reason_code", _TEXT),
        ("queued_before", _TIME),
        ("queued_after", _TIME),
        ("limit", {"type": "integer", "minimum": 1, "maximum": 500}),
        ("after", _TEXT),
    )
]


def _closed(values: list[str], *, nullable: bool = False) -> dict[str, Any]:
    return {"enum": [*values, None]} if nullable else {"enum": values}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_RESOURCE = _object(["type", "id"], type=_TEXT, id=_TEXT)
_SECURITY = {name: {"type": "http", "scheme": "bearer"} for name in ("agent", "executor", "operator")}
_ROLE = _closed(["viewer", "operator", "approver", "admin"])
_HALT_SCOPE = _closed(["all", "agent", "category", "executor"])
_SCHEMAS: dict[str, Any] = {
    "Problem": _object(
        ["type", "title", "status", "detail", "reason_code"],
        type=_TEXT,
        title=_TEXT,
        status=_INTEGER,
        detail=_TEXT,
        reason_code=_closed(list(ReasonCode)),
        version=_VERSION,
    ),
    "Intent": _object(
        ["action", "resource"],
        action=_TEXT,
        resource=_RESOURCE,
        parameters=_ANY_OBJECT,
        executor=_or_null(_TEXT),
        context=_object(
            [],
            environment=_or_null(_TEXT),
            reason=_or_null(_TEXT),
            on_behalf_of=_or_null(_TEXT),
            model=_or_null(_TEXT),
            session=_or_null(_TEXT),
            model_tokens=_or_null(_INTEGER),
        ),
        priority=_closed(["low", "normal", "high", "critical"]),
        queue=_BOOLEAN,
        expires_in=_or_null(_INTEGER),
        callback_url=_or_null({"type": "string", "format": "uri", "maxLength": 2048}),
    ),
    "Envelope": _object(
        ["intent_id", "status", "decision", "reason_code"],
        intent_id=_TEXT,
        status=_closed(list(Status)),
        decision=_closed(list(Decision)),
        reason_code=_closed(list(ReasonCode)),
        cause=_closed(list(Cause), nullable=True),
        detail=_TEXT,
        mode=_closed(list(Mode)),
        category=_or_null(_TEXT),
        impact=_or_null(_TEXT),
        risk=_or_null(_ANY_OBJECT),
        policy=_ANY_OBJECT,
        token=_or_null(_TEXT),
        token_expires_at=_or_null(_TIME),
        queue=_or_null(_ANY_OBJECT),
        retry_after=_or_null(_INTEGER),
        status_url=_TEXT,
        receipt=_or_null(_object(["stream", "seq", "hash"], stream=_TEXT, seq=_INTEGER, hash=_TEXT)),
        decided_at=_TIME,
    ),
    "Consume": _object(
        ["token", "action", "resource"], token=_TEXT, action=_TEXT, resource=_RESOURCE, parameters=_ANY_OBJECT
    ),
    "Consumed": {"type": "object", "required": ["consumed", "txn", "jti", "sub"]},
    "Outcome": _object(
        ["status"],
        status=_closed(["succeeded", "failed", "unknown"]),
        detail=_or_null(_TEXT),
        model_tokens=_or_null({"type": "integer", "minimum": 0, "maximum": 10**12}),
    ),
    "Recorded": {"type": "object", "required": ["recorded"]},
    "QueuePage": _object(["items", "next"], items={"type": "array", "items": _ANY_OBJECT}, next=_or_null(_TEXT)),
    "Approve": _object(
        ["version", "act_hash", "bundle"], version=_VERSION, act_hash=_TEXT, bundle=_TEXT, note=_or_null(_LINE)
    ),
    "Deny": _object(["version", "note"], version=_VERSION, note=_LINE),
    "Change": _object(["version"], version=_VERSION, note=_or_null(_LINE)),
    "Reprioritize": _object(["version", "lane"], version=_VERSION, lane=_LANE, note=_or_null(_LINE)),
    "Bulk": _object(
        ["action", "items", "note"],
        action=_closed(["approve", "deny", "cancel", "reprioritize", "retry"]),
        items={
            "type": "array",
            "minItems": 1,
            "maxItems": 500,
            "items": _object(
                ["intent_id", "version"],
                intent_id=_TEXT,
                version=_VERSION,
                act_hash=_TEXT,
                bundle=_TEXT,
                lane=_LANE,
            ),
        },
        note=_LINE,
    ),
    "BulkResults": _object(["results"], results={"type": "array", "items": _ANY_OBJECT}),
    "Document": _ANY_OBJECT,
    "Upload": _object(
        ["files"],
        files={"type": "object", "additionalProperties": _TEXT},
        signatures={"type": "array", "items": _TEXT},
    ),
    "Activate": _object(["reason", "expect_active"], reason=_TEXT, expect_active=_or_null(_TEXT)),
    "Rollback": _object(["reason"], reason=_TEXT),
    "Shadow": _object(["digest"], digest=_TEXT),
    "Activation": _object(
        ["policy", "reason", "incident", "minutes"],
        policy=_TEXT,
        reason=_TEXT,
        incident=_TEXT,
        minutes={"type": "integer", "minimum": 1, "maximum": 1440},
    ),
    "Review": _object(["verdict", "note"], verdict=_closed(["justified", "unjustified"]), note=_TEXT),
    "Reviewed": _object(
        ["review_ids", "verdict", "note"],
        review_ids={"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 500, "uniqueItems": True},
        verdict=_closed(["justified", "unjustified"]),
        note=_TEXT,
    ),
    "Reviews": _object(["reviews", "next"], reviews={"type": "array", "items": _ANY_OBJECT}, next=_or_null(_TEXT)),
    "Nothing": _object([]),
    "Halt": _object(["scope", "reason"], scope=_HALT_SCOPE, subject=_or_null(_TEXT), reason=_TEXT),
    "Resume": _object(["scope", "note"], scope=_HALT_SCOPE, subject=_or_null(_TEXT), note=_TEXT),
    "Override": _object(
        ["tier", "reason", "expires_in"],
        tier=_closed(["low", "medium"]),
        reason=_TEXT,
        expires_in={"type": "integer", "minimum": 1, "maximum": 86_400},
        max_per_minute={"type": "integer", "minimum": 1, "maximum": 100_000},
    ),
    "Reason": _object(["reason"], reason=_TEXT),
    "Note": _object(["note"], note=_TEXT),
    "MayNote": _object([], note=_TEXT),
    "NewOperator": _object(["username", "role"], username=_TEXT, role=_ROLE, note=_TEXT),
    "ChangeRole": _object(["role", "note"], role=_ROLE, note=_TEXT),
    "NewKey": _object(["name"], name=_TEXT, note=_TEXT),
    "RotateKey": _object([], overlap_seconds={"type": "integer", "minimum": 1, "maximum": 86_400}, note=_TEXT),
    "WebhookKeys": _object(["keys"], keys={"type": "array", "items": _ANY_OBJECT}),
    "JWKS": _object(["keys"], keys={"type": "array", "items": _ANY_OBJECT}),
    "Live": _object(["alive"], alive=_BOOLEAN),
    "Ready": _object(
        ["ready", "boundaries", "open", "troubles"],
        ready=_BOOLEAN,
        boundaries=_ANY_OBJECT,
        open={"type": "array", "items": _TEXT},
        troubles={"type": "array", "items": _TEXT},
    ),
}
