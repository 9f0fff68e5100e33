"""Every error of the contract.

HoldfastError
├── MalformedJSON          the bytes are not strict JSON
├── InvalidIntent          well-formed JSON, but not an intent
├── TokenRejected          the token must not be acted on
├── Refused                the service said no; carries the envelope
│   └── NotDecided         the service could not decide; the intent may be waiting
├── ServiceUnavailable     no usable answer came from the service
├── WebhookInvalid         the webhook's message must not be believed
└── AuditInvalid           a record, proof or checkpoint does not hold
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class HoldfastError(Exception):
    """The root of every error this package raises on purpose."""


class MalformedJSON(HoldfastError):
    """The bytes are not the strict JSON of the contract."""


class InvalidIntent(HoldfastError):
    """The JSON is well formed but is not an intent; the text names the member."""


class TokenRejected(HoldfastError):
    """The token must not be acted on. `code` is a `ReasonCode` value of the consume endpoint."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Refused(HoldfastError):
    """The service answered, and the answer is not a token. `envelope` is the body as sent.

    `retry_after` is in seconds, where the service named one.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        http_status: int,
        envelope: Mapping[str, object],
        retry_after: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.http_status = http_status
        self.envelope = envelope
        self.retry_after = retry_after


class NotDecided(Refused):
    """The service could not decide (HTTP 503). This is a denial, never a permission."""


class ServiceUnavailable(HoldfastError):
    """No usable answer came from the service. Nothing may be executed."""


class WebhookInvalid(HoldfastError):
    """The message must not be believed. The text never quotes it."""


class AuditInvalid(HoldfastError):
    """A record, chain, proof or signature of the log does not hold."""
