"""What the authorizer needs from outside, and what each answer must prove.

A port's docstring is its contract: the fake and the real adapter pass the same suite in `tests/contract`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from holdfast.audit.record import Receipt
    from holdfast.strict_json import JSON
    from holdfast.token import Claims, VerifyKey


class Clock(Protocol):
    """Time, twice: for people and for deadlines."""

    def now(self) -> datetime:
        """Return the time of day, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never move backwards."""
        ...


class Ids(Protocol):
    """Fresh identifiers."""

    def new(self, prefix: str) -> str:
        """Return `prefix` and 26 characters that sort by time, e.g. `int_01k…`."""
        ...

    def token_id(self) -> str:
        """Return `jti_` and 128 random bits in hexadecimal."""
        ...


# --- recording ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """A row of the waiting queue, as parked. Times are aware UTC."""

    lane: int
    rank_at: datetime
    enqueued_at: datetime
    expires_at: datetime
    not_before: datetime
    state: str  # waiting | held


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIntent:
    """Effect: store a newly decided intent, and park it if `queue` is given.

    Refused when the intent, or another of this agent with this idempotency key, is stored already. With `over_jti`
    it replaces the same intent's granted row that carries that token, which was never released.
    """

    intent_id: str
    agent: str
    idempotency_key: str | None
    request_digest: str  # 64 hexadecimal digits
    submission: bytes
    act_hash: str
    status: str
    reason_code: str
    envelope: Mapping[str, JSON]
    claims: Mapping[str, JSON] | None
    jti: str | None
    created_at: datetime
    decided_at: datetime
    queue: QueueRow | None = None
    over_jti: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveIntent:
    """Effect: bring a stored intent into another status, if nobody moved it in between.

    Refused unless `expect_version` is the row's version and, where `epoch` is given, the queue row is leased in that
    epoch. `queue_state=None` removes the queue row; otherwise it takes that state, and `not_before` if given.
    """

    intent_id: str
    expect_version: int
    status: str
    reason_code: str
    envelope: Mapping[str, JSON]
    decided_at: datetime
    claims: Mapping[str, JSON] | None = None
    jti: str | None = None
    claim_by: datetime | None = None
    epoch: int | None = None
    queue_state: str | None = None
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeToken:
    """Effect: consume a token. Refused when (iss, txn) or (iss, jti) was consumed, or jti is revoked."""

    iss: str
    txn: str
    jti: str
    executor: str
    consumed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOutcome:
    """Effect: close the loop. Refused unless `executor` consumed `jti` and no other outcome stands."""

    iss: str
    jti: str
    executor: str
    outcome: str
    outcome_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PutCredential:
    """Effect: store the SHA-256 of a new credential. `key_hash` is 64 hexadecimal digits. Refused if stored."""

    kind: str
    subject: str
    key_hash: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOperator:
    """Effect: store an operator. Refused if the name is taken."""

    username: str
    password_hash: str
    role: str
    created_at: datetime


Effect: TypeAlias = OpenIntent | MoveIntent | ConsumeToken | ReportOutcome | PutCredential | PutOperator


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing to record, with the state change that rides in the same transaction.

    `journal_may_release` says what the entry's answer may rest on: a journal's fsync (denials, waiting intents) or a
    PostgreSQL commit alone (permissions, tokens, configuration).
    """

    kind: str
    at: datetime
    members: Mapping[str, JSON] = field(default_factory=dict)
    effect: Effect | None = None
    journal_may_release: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Proof that a record is durable. `applied` is False when the effect was refused; a void record then follows."""

    receipt: Receipt
    applied: bool
    in_journal: bool


class Pending(Protocol):
    """A record that is chained, and may not be durable yet."""

    @property
    def receipt(self) -> Receipt:
        """Its place and hash, final as of now."""
        ...

    @property
    def body(self) -> bytes:
        """The exact bytes whose leaf hash the receipt carries."""
        ...

    async def settled(self) -> Settled:
        """Return once the record is durable. Raises: RecordingFailed; the record may stand, and is then voided."""
        ...


class RecordingFailed(Exception):
    """The record could not be made durable in a place that may release its entry."""


class Recorder(Protocol):
    """The hash-chained log. Safe for concurrent use on one event loop."""

    def append(self, entry: Entry) -> Pending:
        """Chain the entry at once. Raises: RecordingFailed when nothing that may release it can be reached."""
        ...


# --- signing ----------------------------------------------------------------------------------------------------------


class SigningFailed(Exception):
    """The signer could not be reached, refused, or answered too late."""


class TokenSigner(Protocol):
    """The signer process, or a stand-in for it."""

    async def sign(self, claims: Claims, *, replaces: str | None = None) -> str:
        """Return the compact token. `replaces` names a token of the same intent that was never released.

        The caller verifies what comes back. Raises: SigningFailed.
        """
        ...

    async def healthy(self) -> None:
        """Return if the signer can sign now. Raises: SigningFailed."""
        ...

    def verify_keys(self) -> tuple[VerifyKey, ...]:
        """Return the keys whose tokens may be released, as pinned from the signer at start. May be empty."""
        ...
