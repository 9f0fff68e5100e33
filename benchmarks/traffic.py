"""What is asked of either server, and what counts as the right answer.

Both get the same intents. From Holdfast an answer is right when it is HTTP 200 with a token in the body for an intent
that no other answer is about; from the floor, when it is HTTP 200 with the row it stored.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import orjson
from holdfast import strict_json
from holdfast.errors import TokenRejected
from holdfast.intent import Action, Resource
from holdfast.token import VerifyKey, check_claims, verify_signature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.strict_json import JSON

PATH: Final = "/v1/intents"
ACTION: Final = "kb.search"
EXECUTOR: Final = "knowledge-api"
RESOURCE_TYPE: Final = "knowledge-base"
HTTP_OK: Final = 200
_MAX_LIFETIME_S: Final = 60
_ARTICLES: Final = 997


class Kind(StrEnum):
    """What is measured."""

    FLOOR = "floor"
    HOLDFAST = "holdfast"
    #: With an Idempotency-Key, as the SDK always sends it.
    HOLDFAST_KEYED = "holdfast+key"


class WrongAnswer(Exception):
    """What came is not what a caller could use. The text is a short label to count by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server, and with which credentials it is asked. `agents` holds secrets, `jwks` the public keys."""

    kind: Kind
    base_url: str
    agents: tuple[str, ...]
    jwks: tuple[Mapping[str, str], ...]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port. Raises: ValueError unless the URL names both."""
        url = urlsplit(self.base_url)
        if url.scheme != "http" or url.hostname is None or url.port is None:
            raise ValueError(f"`{self.base_url}` is not http with a host and a port")
        return url.hostname, url.port

    def to_json(self) -> dict[str, object]:
        """Return it for another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Target:
        """Read what `to_json` wrote."""
        agents, jwks = members["agents"], members["jwks"]
        if not isinstance(agents, list) or not isinstance(jwks, list):
            raise TypeError("a target holds lists of agents and keys")
        return cls(
            kind=Kind(str(members["kind"])), base_url=str(members["base_url"]), agents=tuple(agents), jwks=tuple(jwks)
        )


def intent(number: int) -> dict[str, JSON]:
    """Return the intent of request `number`: low impact, a read, never twice the same."""
    return {
        "action": ACTION,
        "resource": {"type": RESOURCE_TYPE, "id": f"article-{number % _ARTICLES}"},
        "parameters": {"query": f"how do I change my delivery address, question {number}", "limit": 1 + number % 100},
        "context": {"environment": "production", "reason": f"ticket {number}", "session": f"s-{number % 50}"},
    }


def request(target: Target, number: int, *, run: str) -> bytes:
    """Return the bytes of request `number`. `run` keeps the idempotency keys of two runs apart."""
    body = orjson.dumps(intent(number))
    head = (
        f"POST {PATH} HTTP/1.1\r\n"
        f"Host: {urlsplit(target.base_url).netloc}\r\n"
        f"Authorization: Bearer {target.agents[number % len(target.agents)]}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
    )
    if target.kind is Kind.HOLDFAST_KEYED:
        head += f"Idempotency-Key: {run}-{number}\r\n"
    return head.encode("ascii") + b"\r\n" + body


def judge(kind: Kind, status: int, body: bytes) -> str:
    """Return the id of the answer, which no other right answer has. Raises: WrongAnswer."""
    if status != HTTP_OK:
        raise WrongAnswer(_refusal(status, body))
    document = _document(body)
    if kind is Kind.FLOOR:
        return _text(document, "row")
    if document.get("status") != "granted" or document.get("decision") != "allow":
        raise WrongAnswer("200 without a grant")
    if _text(document, "token").count(".") != 2:  # noqa: PLR2004 - a compact JWS
        raise WrongAnswer("200 without a token")
    return _text(document, "intent_id")


def verify(target: Target, number: int, body: bytes, *, now: float) -> None:
    """Check the answer's token as the executor would, down to the digest of the action. Raises: WrongAnswer."""
    document, asked = _document(body), intent(number)
    try:
        claims = verify_signature(_text(document, "token"), [VerifyKey.from_jwk(jwk) for jwk in target.jwks])
        check_claims(
            claims,
            issuer=target.base_url,
            audience=EXECUTOR,
            environments=None,
            now=now,
            max_lifetime_s=_MAX_LIFETIME_S,
        )
    except TokenRejected as error:
        raise WrongAnswer(f"token rejected: {error.detail}") from error
    resource, parameters = asked["resource"], asked["parameters"]
    if not isinstance(resource, dict) or not isinstance(parameters, dict):
        raise TypeError("an intent has a resource and parameters")
    action = Action(
        action=ACTION,
        resource=Resource(type=str(resource["type"]), id=str(resource["id"])),
        parameters=parameters,
        executor=EXECUTOR,
    )
    if claims.act_hash != action.digest() or claims.txn != document["intent_id"]:
        raise WrongAnswer("the token is for something else")


def wall_clock(monotonic_ns: int) -> float:
    """Return the seconds since the epoch at a monotonic time of this machine."""
    return time.time() + (monotonic_ns - time.monotonic_ns()) / 1e9


def _document(body: bytes) -> dict[str, JSON]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise WrongAnswer("200 without JSON") from error
    if not isinstance(document, dict):
        raise WrongAnswer("200 without an object")
    return document


def _text(document: Mapping[str, strict_json.JSON], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise WrongAnswer(f"200 without `{name}`")
    return value


def _refusal(status: int, body: bytes) -> str:
    try:
        document = orjson.loads(body)
        return f"{status} {document['reason_code']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return str(status)
