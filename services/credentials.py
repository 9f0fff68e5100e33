"""Who calls: bearer secrets of 256 random bits, kept as a SHA-256, and passwords, kept as a scrypt."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class Kind(StrEnum):
    """What a credential may be used for."""

    AGENT = "agent"
    EXECUTOR = "executor"
    OPERATOR = "operator"


class Role(StrEnum):
    """What an operator may do. A viewer looks; an operator also stops, an approver also permits, an admin all."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


#: Who may stop something, who may permit or start again, and who may say who may.
MAY_STOP: Final = frozenset({Role.OPERATOR, Role.APPROVER, Role.ADMIN})
MAY_PERMIT: Final = frozenset({Role.APPROVER, Role.ADMIN})
MAY_ADMINISTER: Final = frozenset({Role.ADMIN})

PREFIXES: Final[Mapping[Kind, str]] = {Kind.AGENT: "hfa_", Kind.EXECUTOR: "hfx_", Kind.OPERATOR: "hfo_"}
_SCRYPT_N: Final = 2**15
_SECRET: Final = re.compile(r"hf[axo]_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller that proved who it is."""

    kind: Kind
    subject: str
    role: Role | None = None  # of an operator


class Credentials(Protocol):
    """Where credentials are looked up."""

    async def find(self, key_hash: str) -> Principal | None:
        """Return whose credential has this hash. Raises: StoreUnreachable when nobody can tell."""
        ...


def new_secret(kind: Kind) -> str:
    """Return a fresh secret: the prefix of its kind and 256 random bits."""
    return PREFIXES[kind] + secrets.token_urlsafe(32)


def key_hash(secret: str) -> str:
    """Return the SHA-256 that is stored, in hexadecimal."""
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def well_formed(secret: str) -> bool:
    """Return whether this can be a credential at all."""
    return _SECRET.fullmatch(secret) is not None


def new_password() -> str:
    """Return a fresh password of 144 random bits."""
    return secrets.token_urlsafe(18)


def hash_password(password: str) -> str:
    """Return `scrypt$n$salt$hash` with 128 salt bits; takes a tenth of a second. Source: RFC 7914."""
    salt = secrets.token_bytes(16)
    derived = hashlib.scrypt(password.encode(), salt=salt, n=_SCRYPT_N, r=8, p=1, maxmem=64 << 20)
    return f"scrypt${_SCRYPT_N}${salt.hex()}${derived.hex()}"
