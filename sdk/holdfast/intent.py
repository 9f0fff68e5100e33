"""The action an agent wants to take, and the digest that binds a token to it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import rfc8785

from holdfast.errors import InvalidIntent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.strict_json import JSON

_DOMAIN: Final = b"holdfast-action/v1\n"
RESOURCE_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MAX_RESOURCE_TEXT: Final = 512
MAX_NAME: Final = 128
MAX_EXPIRES_IN_S: Final = 7 * 24 * 3600

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class _Required:
    """Marks a member that has no default."""


REQUIRED: Final = _Required()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What an action touches, written `type/id` in policies."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Exactly what will be executed: the members that the action digest covers."""

    action: str
    resource: Resource
    parameters: Mapping[str, JSON]
    executor: str

    def canonical(self) -> bytes:
        """Return the RFC 8785 bytes of the action. Raises: InvalidIntent if a value has none."""
        document: dict[str, JSON] = {
            "action": self.action,
            "resource": {"type": self.resource.type, "id": self.resource.id},
            "parameters": dict(self.parameters),
            "executor": self.executor,
        }
        try:
            return rfc8785.dumps(document)
        except (ValueError, RecursionError) as error:  # rfc8785 and codec errors are ValueErrors
            raise InvalidIntent(f"the action has no canonical form: {error}") from error

    def digest(self) -> str:
        """Return `sha-256:` and 43 base64url characters over the canonical action. Source: design 4.2."""
        hashed = hashlib.sha256(_DOMAIN + self.canonical()).digest()
        return "sha-256:" + base64.urlsafe_b64encode(hashed).rstrip(b"=").decode("ascii")


class Priority(StrEnum):
    """The agent's hint. Policy caps it: it moves an intent inside its lane, never into another."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the agent says of the circumstances. It can raise the risk, never lower it."""

    environment: str | None = None
    reason: str | None = None
    on_behalf_of: str | None = None
    model: str | None = None
    session: str | None = None
    model_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What an agent wants to do. Who the agent is comes from its credential, never from here."""

    action: str
    resource: Resource
    parameters: Mapping[str, JSON] = field(default_factory=dict)
    executor: str | None = None
    context: Context = field(default_factory=Context)
    priority: Priority = Priority.NORMAL
    queue: bool = True
    expires_in: int | None = None
    callback_url: str | None = None

    def to_json(self) -> dict[str, JSON]:
        """Return the wire form, with what was not said left out."""
        context: dict[str, JSON] = {name: value for name, value in asdict(self.context).items() if value is not None}
        document: dict[str, JSON] = {
            "action": self.action,
            "resource": {"type": self.resource.type, "id": self.resource.id},
            "parameters": dict(self.parameters),
            "context": context,
            "priority": self.priority.value,
            "queue": self.queue,
        }
        for name in ("executor", "expires_in", "callback_url"):
            if (value := getattr(self, name)) is not None:
                document[name] = value
        return document

    @classmethod
    def from_json(cls, value: JSON) -> Intent:
        """Read the wire form strictly: unknown members and wrong types are refused, nothing is coerced.

        Raises: InvalidIntent, naming the member.
        """
        document = _Members(value, "the intent")
        resource = _Members(document.take("resource"), "`resource`")
        intent = cls(
            action=document.text("action", max_length=MAX_NAME),
            resource=Resource(
                type=resource.text("type", pattern=RESOURCE_TYPE),
                id=resource.text("id", max_length=MAX_RESOURCE_TEXT),
            ),
            parameters=document.mapping("parameters"),
            executor=document.optional_text("executor", max_length=MAX_NAME),
            context=_context(document.take("context", default={})),
            priority=document.choice("priority", Priority, Priority.NORMAL),
            queue=document.boolean("queue", default=True),
            expires_in=document.optional_integer("expires_in", low=1, high=MAX_EXPIRES_IN_S),
            callback_url=document.optional_text("callback_url", max_length=2048),
        )
        resource.finish()
        document.finish()
        return intent


def _context(value: JSON) -> Context:
    members = _Members(value, "`context`")
    context = Context(
        environment=members.optional_text("environment", max_length=MAX_NAME),
        reason=members.optional_text("reason", max_length=2000),
        on_behalf_of=members.optional_text("on_behalf_of", max_length=256),
        model=members.optional_text("model", max_length=128),
        session=members.optional_text("session", max_length=256),
        model_tokens=members.optional_integer("model_tokens", low=0, high=10**12),
    )
    members.finish()
    return context


class _Members:
    """Takes the members of one JSON object one by one; what is left over at the end is refused."""

    def __init__(self, value: JSON, where: str) -> None:
        if not isinstance(value, dict):
            raise InvalidIntent(f"{where} must be an object")
        self._left = dict(value)
        self._where = where

    def take(self, name: str, *, default: JSON | _Required = REQUIRED) -> JSON:
        value = self._left.pop(name, default)
        if isinstance(value, _Required):
            raise InvalidIntent(f"{self._where} has no `{name}`")
        return value

    def finish(self) -> None:
        if self._left:
            name = ascii(min(self._left)[:64])[1:-1]
            raise InvalidIntent(f"{self._where} has an unknown member `{name}`")

    def text(self, name: str, *, pattern: re.Pattern[str] | None = None, max_length: int = 512) -> str:
        value = self.take(name)
        if not isinstance(value, str):
            raise InvalidIntent(f"`{name}` must be a string")
        return _check_text(value, name, pattern, max_length)

    def optional_text(self, name: str, *, max_length: int) -> str | None:
        value = self.take(name, default=None)
        if value is None:
            return None
        if not isinstance(value, str):
            raise InvalidIntent(f"`{name}` must be a string")
        return _check_text(value, name, None, max_length)

    def optional_integer(self, name: str, *, low: int, high: int) -> int | None:
        value = self.take(name, default=None)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidIntent(f"`{name}` must be an integer from {low} to {high}")
        return value

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self.take(name, default=default)
        if not isinstance(value, bool):
            raise InvalidIntent(f"`{name}` must be true or false")
        return value

    def choice(self, name: str, choices: type[Priority], default: Priority) -> Priority:
        value = self.take(name, default=default.value)
        if not isinstance(value, str) or value not in choices.__members__.values():
            raise InvalidIntent(f"`{name}` must be one of {', '.join(choices)}")
        return choices(value)

    def mapping(self, name: str) -> dict[str, JSON]:
        value = self.take(name, default={})
        if not isinstance(value, dict):
            raise InvalidIntent(f"`{name}` must be an object")
        return value


def _check_text(value: str, name: str, pattern: re.Pattern[str] | None, max_length: int) -> str:
    if not value or len(value) > max_length:
        raise InvalidIntent(f"`{name}` must have 1 to {max_length} characters")
    if pattern is not None and pattern.fullmatch(value) is None:
        raise InvalidIntent(f"`{name}` has characters that are not allowed")
    if _CONTROL.search(value):
        raise InvalidIntent(f"`{name}` has control characters")
    return value
