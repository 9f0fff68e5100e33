"""Holdfast for agents, executors and auditors: the wire contract, the client, the guard and the log verifier.

The names below are loaded when they are first used, so that a verifier of logs loads no HTTP client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.asgi import AuthorityMiddleware as AuthorityMiddleware
    from holdfast.asgi import authority_dependency as authority_dependency
    from holdfast.client import AsyncClient as AsyncClient
    from holdfast.client import Client as Client
    from holdfast.errors import AuditInvalid as AuditInvalid
    from holdfast.errors import HoldfastError as HoldfastError
    from holdfast.errors import InvalidIntent as InvalidIntent
    from holdfast.errors import MalformedJSON as MalformedJSON
    from holdfast.errors import NotDecided as NotDecided
    from holdfast.errors import Refused as Refused
    from holdfast.errors import ServiceUnavailable as ServiceUnavailable
    from holdfast.errors import TokenRejected as TokenRejected
    from holdfast.errors import WebhookInvalid as WebhookInvalid
    from holdfast.executor import Guard as Guard
    from holdfast.gate import Grant as Grant
    from holdfast.gate import Wanted as Wanted
    from holdfast.intent import Action as Action
    from holdfast.intent import Context as Context
    from holdfast.intent import Intent as Intent
    from holdfast.intent import Priority as Priority
    from holdfast.intent import Resource as Resource
    from holdfast.jwks import PinnedKeys as PinnedKeys
    from holdfast.reasons import ReasonCode as ReasonCode
    from holdfast.replay import ReplayStore as ReplayStore
    from holdfast.submission import Authority as Authority
    from holdfast.submission import Patience as Patience

_WHERE = {
    "Action": "intent",
    "AsyncClient": "client",
    "AuditInvalid": "errors",
    "Authority": "submission",
    "AuthorityMiddleware": "asgi",
    "Client": "client",
    "Context": "intent",
    "Grant": "gate",
    "Guard": "executor",
    "HoldfastError": "errors",
    "Intent": "intent",
    "InvalidIntent": "errors",
    "MalformedJSON": "errors",
    "NotDecided": "errors",
    "Patience": "submission",
    "PinnedKeys": "jwks",
    "Priority": "intent",
    "ReasonCode": "reasons",
    "Refused": "errors",
    "ReplayStore": "replay",
    "Resource": "intent",
    "ServiceUnavailable": "errors",
    "TokenRejected": "errors",
    "Wanted": "gate",
    "WebhookInvalid": "errors",
    "authority_dependency": "asgi",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module `holdfast` has no attribute `{name}`")
    return getattr(import_module(f"holdfast.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_WHERE)
