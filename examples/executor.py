# ruff: noqa: INP001 - a script
"""A payments API that refunds nothing without a token for exactly that refund.

HOLDFAST_URL=http://127.0.0.1:8420 HOLDFAST_EXECUTOR_KEY=hfx_… uvicorn --factory --port 9000 executor:build
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from holdfast import AuthorityMiddleware, Grant, Guard, InvalidIntent, Resource, Wanted, strict_json

if TYPE_CHECKING:
    from holdfast.asgi import App, Receive, Scope, Send

PREFIX = "/refunds/"


def bind(scope: Scope, body: bytes) -> Wanted:
    """Say what a request will run: the payment from its path, the rest from its body."""
    parameters = strict_json.loads(body)
    if scope["method"] != "POST" or not scope["path"].startswith(PREFIX) or not isinstance(parameters, dict):
        raise InvalidIntent("only POST /refunds/{payment} with an object runs anything")
    return Wanted(
        action="payments.refund.create",
        resource=Resource(type="payment", id=scope["path"].removeprefix(PREFIX)),
        parameters=parameters,
    )


async def refund(scope: Scope, receive: Receive, send: Send) -> None:
    """Refund what the grant says. It runs once a token, and only after the token was consumed."""
    del receive
    grant: Grant = scope["holdfast.grant"]
    body = json.dumps({"refunded": grant.resource.id, **grant.parameters, "intent": grant.intent_id}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


def build() -> App:
    """Return the guarded application."""
    guard = Guard(os.environ["HOLDFAST_URL"], os.environ["HOLDFAST_EXECUTOR_KEY"], "payments-api")
    return AuthorityMiddleware(refund, guard, bind)
