"""What the authorizer needs from outside, and what each answer must prove.

A port's docstring is its contract: the fake and the real adapter pass the same suite in `tests/contract`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias

from services.credential_effects import CredentialEffect
from services.decision.review import ReviewEffect
from services.order_effects import OrderEffect
from services.queue_effects import QueueEffect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from holdfast.audit.record import Receipt
    from holdfast.intent import Intent
    from holdfast.strict_json import JSON
    from holdfast.token import Claims, VerifyKey

    from services.decision.manifest import RateLimit
    from services.decision.orders import Order, Orders
    from services.decision.policy import Classified, Policy, Request
    from services.decision.review import Use
    from services.decision.risk import Signals
    from services.decision.verdict import Deny, Verdict
    from services.notices.notice import Notice


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
class Superseded:
    """How a waiting intent ends because its agent put another in its place."""

    intent_id: str
    expect_version: int
    envelope: Mapping[str, JSON]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIntent:
    """Effect: store a newly decided intent, and park it if `queue` is given.

    Refused when the intent, or another of this agent with this idempotency key, is stored already; and when it would
    wait while the agent's same action waits already. With `supersedes` another intent ends with it, and it is refused
    if that one moved on. With `over_jti` it replaces the same intent's granted row that carries that token, which was
    never released.

    With `use` the use is stored beside it, both or neither; one of break-glass is refused like the intent unless its
    activation is in force then and below its cap. What comes from a journal is stored in any case: its token has left.
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
    supersedes: Superseded | None = None
    use: Use | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveIntent:
    """Effect: bring a stored intent into another status, if nobody moved it in between.

    Refused unless `expect_version` is the row's version and, where `epoch` is given, the queue row is leased in that
    epoch. `queue_state=None` removes the queue row; otherwise it takes that state, and `not_before` if given. With
    `use` the use is stored beside it, both or neither.
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
    use: Use | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBundle:
    """Effect: store a policy bundle, or more signatures of a stored one. `archive` is its packed files.

    Refused if all of it is stored.
    """

    digest: str
    archive: bytes
    uploaded_at: datetime
    uploaded_by: str
    signatures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivateBundle:
    """Effect: make a stored bundle the active one.

    Refused unless `digest` is stored, is not active, and `expect_active` is (None: nothing was ever activated).
    `rolled_back_from` is the number of the activation that this takes back.
    """

    digest: str
    expect_active: str | None
    activated_at: datetime
    activated_by: str
    reason: str
    rolled_back_from: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetShadow:
    """Effect: evaluate a stored bundle beside the active one from now on, or with None no more. Refused if unknown."""

    digest: str | None
    started_at: datetime
    started_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutNotice:
    """Effect: put a notice into the outbox. Refused if its id is stored. To tell of another effect: `Entry.notices`."""

    notice: Notice


Effect: TypeAlias = (
    OpenIntent
    | MoveIntent
    | ConsumeToken
    | ReportOutcome
    | PutCredential
    | PutOperator
    | CredentialEffect
    | PutBundle
    | ActivateBundle
    | SetShadow
    | PutNotice
    | OrderEffect
    | ReviewEffect
    | QueueEffect
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing to record, with the state change that rides in the same transaction.

    `journal_may_release` says what the entry's answer may rest on: a journal's fsync (denials, waiting intents) or a
    PostgreSQL commit alone (permissions, tokens, configuration).

    `notices` go into the outbox in the same transaction, if the effect is applied, and are never a reason to refuse it.
    """

    kind: str
    at: datetime
    members: Mapping[str, JSON] = field(default_factory=dict)
    effect: Effect | Callable[[Receipt], Effect] | None = None  # a callable where the effect names its own receipt
    journal_may_release: bool = False
    notices: tuple[Notice, ...] = ()


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


class Notices(Protocol):
    """Tells people, for whoever records nothing of its own; whoever records puts its notices into the Entry."""

    def publish(self, notice: Notice) -> None:
        """Record the notice and tell it. Returns at once, and never raises."""
        ...


# --- evaluation -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A verdict, with proof of what it is about: the digests of the action judged and of the bundle that judged.

    `approvals` are the ids of those that it rests on.
    """

    verdict: Verdict
    act_hash: str
    bundle: str
    approvals: tuple[str, ...] = ()


class Evaluator(Protocol):
    """Manifest, limits and Cedar policies of the active bundle, in that order."""

    async def evaluate(self, policy: Policy, request: Request, act_hash: str, *, charge: bool) -> Evaluated:
        """Judge one request; with `charge` it counts against the agent's limits.

        Raises: StoreUnreachable when evaluation may not be attempted at all.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One intent to be counted against its agent's limits."""

    agent: str
    intent_id: str
    limit: RateLimit
    model_tokens: int
    now: datetime

    def __post_init__(self) -> None:
        """Refuse what would be counted as one with others."""
        if not self.intent_id:
            raise ValueError("a charge names its intent")


class Limits(Protocol):
    """Counters shared by every replica."""

    async def charge(self, charge: Charge) -> int:
        """Count the intent and return 0, or return the seconds to wait and count nothing.

        The same intent counts once in a minute, and its model tokens once a day. Raises: LimitsUnreachable.
        """
        ...

    async def correct(self, agent: str, intent_id: str, *, model_tokens: int) -> bool:
        """Put the model tokens really used in place of those charged for the intent, on the day of the charge.

        Once per intent: returns False, and changes nothing, when there is no uncorrected charge of today's.
        Raises: LimitsUnreachable.
        """
        ...


class LimitsUnreachable(Exception):
    """The counters cannot be read: whoever is limited is refused."""


class StoreUnreachable(Exception):
    """The store's heartbeat is lost: nothing may be decided."""


class PolicySource(Protocol):
    """The active bundle, and whether it may still be believed."""

    def current(self) -> Policy:
        """Return the last good policy: enough to classify and to park by, never enough to decide by."""
        ...

    def check_lease(self) -> None:
        """Return while `current` may decide. Raises: BundleStale when its lease has run out."""
        ...


class BundleStale(Exception):
    """The source of the bundle has not been heard for longer than its lease."""


class StandingOrders(Protocol):
    """What operators ordered, on any replica, as last heard; and what they ordered here since."""

    def current(self) -> Orders:
        """Return what stands, as last heard. Nothing may be allowed on it alone before `check` or `are_known`."""
        ...

    def check(self) -> None:
        """Return while the picture is fresh enough to allow by. Raises: StoreUnreachable."""
        ...

    def are_known(self) -> bool:
        """Return whether there is a picture at all, if only from before an outage."""
        ...


class OrderLedger(StandingOrders, Protocol):
    """The orders, as whoever gives them sees them."""

    async def note(self, order: Order, *, recorded: bool) -> None:
        """Let an order given here count here at once, in its newest state, and survive a restart in an outage.

        Until it is `recorded` it counts whatever the store says; who notes it so must note it again.
        """
        ...


class Classifier(Protocol):
    """Says which category an intent falls into. The catalogue is the arbiter, whoever is asked first."""

    async def classify(self, policy: Policy, intent: Intent) -> Classified | Deny:
        """Return the classification, or the denial of what the catalogue does not know."""
        ...


class Activity(Protocol):
    """What this service has seen of each agent lately. Feeds the risk; can only add to it. Never raises."""

    async def recall(self, agent: str) -> None:
        """Let `signals` know what others know of the agent, as far as that takes no more than 50 ms."""
        ...

    def signals(self, agent: str, intent: Intent, now: datetime) -> Signals:
        """Return the signals as of now, this intent not counted."""
        ...

    def note(self, agent: str, intent: Intent, now: datetime, verdict: Verdict) -> None:
        """Count one recorded verdict. Returns at once."""
        ...


class Waiting(Protocol):
    """How many wait, as last seen. Approximate by up to a second; never blocks."""

    def full(self, agent: str, *, max_per_agent: int, max_total: int) -> bool:
        """Return whether another intent of this agent may not be parked."""
        ...

    def parked(self, agent: str, lane: int) -> int:
        """Count one parked intent and return its approximate 1-based position."""
        ...

    def waits(self, agent: str, lane: int, intent_id: str, *, in_journal: str | None) -> None:
        """Take note that a parked intent is stored; with `in_journal`, the digest of its action, in a journal only."""
        ...

    def same(self, agent: str, act_hash: str, *, instead_of: str | None) -> str | None:
        """Return another intent than `instead_of` that this process parked in its journal for the same action."""
        ...


# --- reading back -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIntent:
    """An intent as the database has it."""

    intent_id: str
    agent: str
    request_digest: str
    idempotency_key: str | None
    submission: bytes
    status: str
    reason_code: str
    envelope: dict[str, JSON]
    claims: dict[str, JSON] | None
    version: int
    created_at: datetime
    claim_by: datetime | None
    consumed: bool
    revoked: bool


class Places(Protocol):
    """Who waits for an action. Raises: StoreUnreachable."""

    async def waiting_for(self, agent: str, act_hash: str) -> StoredIntent | None:
        """Return the agent's intent that waits, undecided and in time, for this action."""
        ...


class IntentStore(Places, Protocol):
    """Reads of stored intents. Raises: StoreUnreachable."""

    async def get(self, intent_id: str) -> StoredIntent | None:
        """Return the intent, whoever asked for it."""
        ...

    async def by_key(self, agent: str, idempotency_key: str) -> StoredIntent | None:
        """Return the agent's intent with this key."""
        ...

    async def position(self, intent_id: str) -> int | None:
        """Return the 1-based place of a waiting intent, None if it does not wait."""
        ...


class TokenState(StrEnum):
    """What is known of a token when an executor presents it."""

    FRESH = "fresh"
    CONSUMED = "consumed"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumed:
    """Who consumed a token, and whose intent it was. `agent` is None when the intent is no longer stored."""

    executor: str
    intent_id: str
    agent: str | None


class TokenStore(Protocol):
    """Reads of what became of a token. Raises: StoreUnreachable."""

    async def state(self, iss: str, txn: str, jti: str) -> TokenState:
        """Return the token's state; UNKNOWN when no granted intent carries it."""
        ...

    async def consumed(self, iss: str, jti: str) -> Consumed | None:
        """Return who consumed the token; None when nobody did."""
        ...


# --- signing ----------------------------------------------------------------------------------------------------------


class SigningFailed(Exception):
    """The signer could not be reached, refused, or answered too late."""


class SigningRefused(Exception):
    """The signer works, and will not sign this one token."""


class TokenSigner(Protocol):
    """The signer process, or a stand-in for it."""

    async def sign(self, claims: Claims, *, replaces: str | None = None) -> str:
        """Return the compact token. `replaces` names a token of the same intent that was never released.

        The caller verifies what comes back. Raises: SigningFailed, SigningRefused.
        """
        ...

    async def healthy(self) -> None:
        """Return if the signer can sign now. Raises: SigningFailed."""
        ...

    def verify_keys(self) -> tuple[VerifyKey, ...]:
        """Return the keys whose tokens may be released, as pinned from the signer at start. May be empty."""
        ...
