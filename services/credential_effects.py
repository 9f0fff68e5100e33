"""What administrators change about operators and keys. Each rides with its record.

All are refused unless `by` is an administrator who is not shut out when the change is made (an operator may also rotate
a token of their own). They come one after another, whichever replica makes them. Source: 0045_operators.sql.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AddOperator:
    """Effect: store an operator and a token. Refused if the name is taken, in whatever letter case."""

    username: str
    password_hash: str
    role: str
    key_hash: str
    at: datetime
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRole:
    """Effect: give an operator another role than `expect_role`, which they have. Refused for one's own."""

    username: str
    role: str
    expect_role: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DisableOperator:
    """Effect: shut an operator out, and revoke every token of theirs. Refused for the last administrator."""

    username: str
    at: datetime
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnableOperator:
    """Effect: let an operator in again, with a new token."""

    username: str
    key_hash: str
    at: datetime
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddKey:
    """Effect: store a key of an agent or executor. Refused if it has one that is good."""

    kind: str
    subject: str
    key_hash: str
    at: datetime
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateKey:
    """Effect: store a key in place of the old ones, which die at once, or at `old_until`.

    Refused if there is none that is good, and for an operator who is shut out.
    """

    kind: str
    subject: str
    key_hash: str
    at: datetime
    by: str
    old_until: datetime | None = None


CredentialEffect: TypeAlias = AddOperator | ChangeRole | DisableOperator | EnableOperator | AddKey | RotateKey
