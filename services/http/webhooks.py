"""The public keys that webhooks are signed with."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.routing import Route

from services.http.wire import Endpoint, json_response
from services.outbound.signature import encode_public

if TYPE_CHECKING:
    from holdfast.strict_json import JSON
    from starlette.requests import Request
    from starlette.responses import Response

    from services.webhooks import Callbacks


class WebhookEndpoints:
    """`/.well-known/webhook-keys.json`."""

    def __init__(self, *, callbacks: Callbacks) -> None:
        self._callbacks = callbacks

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/.well-known/webhook-keys.json", Endpoint(self._keys), methods=["GET"])]

    async def _keys(self, request: Request) -> Response:  # noqa: ARG002 - public, the same for everybody
        keys: list[JSON] = [_published(key) for key in self._callbacks.keys]
        response = json_response(200, {"keys": keys})
        response.headers["cache-control"] = "max-age=300"
        return response


def _published(key: bytes) -> JSON:
    x = base64.urlsafe_b64encode(key).rstrip(b"=").decode("ascii")
    # Without `kid`, `alg` and `use`: nobody takes this for a key of tokens.
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "whpk": encode_public(Ed25519PublicKey.from_public_bytes(key))}
