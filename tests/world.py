"""A small world around the real authorizer: every port has a stand-in that can be broken in one way at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from holdfast.audit import record
from holdfast.audit.record import GENESIS, Receipt, leaf_hash
from holdfast.intent import Context, Intent, Resource
from holdfast.reasons import Cause, Mode, ReasonCode
from holdfast.token import TYP, VerifyKey

from intent_queue.bounds import Bounds
from services.activity import RecentActivity
from services.authorizer import Authorizer, Boundaries
from services.boundary import Boundary
from services.decision.bundle import read_bundle
from services.decision.orders import Order, Orders
from services.decision.policy import Policy
from services.decision.review import Use
from services.decision.verdict import Allow
from services.evaluation import CatalogueClassifier, PolicyEvaluator
from services.judgement import Ask, WaitingIntent
from services.ports import (
    BundleStale,
    Entry,
    Evaluated,
    OpenIntent,
    RecordingFailed,
    Settled,
    SigningFailed,
    StoreUnreachable,
)

if TYPE_CHECKING:
    from holdfast.token import Claims

    from services.decision.approvals import Approval
    from services.decision.review import OpenReview
    from services.ports import Charge

START = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)  # a Friday, in working hours
ISSUER = "http://holdfast.test"

BUNDLE: dict[str, bytes] = {
    "catalog.yaml": b"""
version: 1
categories:
  finance.refund: {description: Return money, impact: high, effect: external, reversible: false}
  support.read: {description: Read knowledge, impact: low, effect: read, reversible: true}
executors:
  payments-api: {description: Payments service, max_token_seconds: 60}
  kb-api: {description: Knowledge base}
actions:
  payments.refund.create:
    category: finance.refund
    executor: payments-api
    resource: payment
    parameters:
      amount_cents: {type: integer, required: true, min: 1, max: 100000000, log: true}
      note: {type: string, personal: true}
  kb.search: {category: support.read, executor: kb-api, resource: "*"}
""",
    "agents/support.yaml": b"""
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: support}
spec:
  tools: [payments.refund.create, kb.search]
""",
    "agents/limited.yaml": b"""
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: limited}
spec:
  tools: [kb.search]
  rateLimit: {maxCallsPerMinute: 2}
""",
    "rules/refunds.cedar": b"""
@id("no-huge-refunds") @reason("refunds over 5,000.00 are never automatic")
forbid (principal, action == Action::"payments.refund.create", resource)
when { context.parameters.amount_cents > 500000 };

@id("big-refunds") @reason("refunds over 500.00 need finance") @requires_approval("finance")
forbid (principal, action == Action::"payments.refund.create", resource)
when { context.parameters.amount_cents > 50000 };
""",
    "holdfast.yaml": b"""
version: 1
approvals: {roles: {finance: [alice, bob]}}
queue: {max_per_agent: 3, max_total: 5}
""",
}


class Fault(StrEnum):
    """How a dependency may misbehave."""

    NONE = "none"
    DOWN = "down"  # raises at once
    SLOW = "slow"  # never answers
    WRONG = "wrong"  # answers about something else
    SILENT = "silent"  # claims success without evidence
    LATE = "late"  # answers rightly, and `clock.lag_s` have gone by


class FakeClock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.moment = START
        self.seconds = 0.0  # sums from zero are exact
        self.lag_s = 3600.0

    def lag(self, fault: Fault) -> None:
        """Let the time go by that a late answer takes while it blocks the loop."""
        if fault is Fault.LATE:
            self.advance(self.lag_s)

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)
        self.seconds += seconds


class FakeIds:
    """Identifiers that count."""

    def __init__(self) -> None:
        self._next = 0

    def new(self, prefix: str) -> str:
        self._next += 1
        return f"{prefix}{self._next:026d}"

    def token_id(self) -> str:
        self._next += 1
        return f"jti_{self._next:032x}"


@dataclass(slots=True)
class FakePending:
    recorder: FakeRecorder
    entry: Entry
    receipt: Receipt
    body: bytes

    async def settled(self) -> Settled:
        return await self.recorder.settle(self)


@dataclass(slots=True)
class FakeRecorder:
    """A hash chain in memory. `durable` holds what an answer may rest on."""

    clock: FakeClock = field(default_factory=FakeClock)
    fault: Fault = Fault.NONE
    in_journal: bool = False
    refuse_effects: bool = False
    refuse_uses: bool = False  # of break-glass, as a store does whose count is at the cap
    yields: int = 0  # how often a commit lets others run before it is durable
    chained: list[FakePending] = field(default_factory=list)
    durable: list[FakePending] = field(default_factory=list)

    def append(self, entry: Entry) -> FakePending:
        if self.fault is Fault.DOWN or (self.in_journal and not entry.journal_may_release):
            raise RecordingFailed("nothing takes records")
        prev = self.chained[-1].receipt.hash if self.chained else GENESIS
        stream, seq = "str_" + "0" * 26, len(self.chained)
        members = {
            **entry.members,
            "stream": stream,
            "seq": seq,
            "prev": prev,
            "at": record.timestamp(entry.at),
            "kind": entry.kind,
        }
        record.check_profile(members)
        body = record.canonical(members)
        receipt = Receipt(stream=stream, seq=seq, hash=leaf_hash(body))
        if callable(entry.effect):
            entry = replace(entry, effect=entry.effect(receipt))
        pending = FakePending(self, entry, receipt, body)
        self.chained.append(pending)
        return pending

    async def settle(self, pending: FakePending) -> Settled:
        receipt = pending.receipt
        for _ in range(self.yields):
            await asyncio.sleep(0)
        if self.fault is Fault.SLOW and not pending.entry.journal_may_release:
            await asyncio.Event().wait()
        if self.fault is Fault.WRONG:
            return Settled(receipt=replace(receipt, hash="0" * 64), applied=True, in_journal=False)
        if self.fault is Fault.SILENT:
            return Settled(receipt=receipt, applied=True, in_journal=True)
        if self.fault is not Fault.SLOW or pending.entry.journal_may_release:
            self.durable.append(pending)
        self.clock.lag(self.fault)
        effect = pending.entry.effect
        refused = self.refuse_effects and effect is not None
        used = isinstance(effect, OpenIntent) and effect.use is not None and effect.use.mode is Mode.BREAK_GLASS
        applied = not (refused or (self.refuse_uses and used))
        return Settled(receipt=receipt, applied=applied, in_journal=self.in_journal)

    def entries(self, kind: str | None = None) -> list[Entry]:
        return [pending.entry for pending in self.durable if kind is None or pending.entry.kind == kind]


class FakeSigner:
    """A signer with a real key."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.fault = Fault.NONE
        self._private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
        self._key = VerifyKey.from_public_bytes(self._private.public_key().public_bytes_raw())
        self.signed: list[str] = []

    async def sign(self, claims: Claims, *, replaces: str | None = None) -> str:
        if self.fault is Fault.DOWN:
            raise SigningFailed("the signer is away")
        if self.fault is Fault.SLOW:
            await asyncio.Event().wait()
        if self.fault is Fault.SILENT:
            return ""
        if self.fault is Fault.WRONG:
            claims = replace(claims, action="another.action")
        token = jwt.encode(
            claims.to_json(),
            self._private,
            algorithm="EdDSA",
            headers={"kid": self._key.kid, "typ": TYP},
            sort_headers=True,
        )
        self.signed.append(token)
        self.clock.lag(self.fault)
        return token

    async def healthy(self) -> None:
        if self.fault is not Fault.NONE:
            raise SigningFailed("the signer is away")

    def verify_keys(self) -> tuple[VerifyKey, ...]:
        return (self._key,)


class FakeStore:
    """The store's heartbeat."""

    def __init__(self) -> None:
        self.fault = Fault.NONE

    def check(self) -> None:
        if self.fault is not Fault.NONE:
            raise StoreUnreachable("the store's heartbeat is lost")


class FakeLimits:
    """Counters in memory, without a window: a test is shorter than a minute."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    async def charge(self, charge: Charge) -> int:
        allowed = charge.limit.max_calls_per_minute
        used = self.calls.get(charge.agent, 0)
        if allowed is not None and used >= allowed:
            return 60
        self.calls[charge.agent] = used + 1
        return 0

    async def correct(self, agent: str, intent_id: str, *, model_tokens: int) -> bool:
        return False


class BreakablePolicies:
    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.fault = Fault.NONE

    def current(self) -> Policy:
        return self.policy

    def check_lease(self) -> None:
        if self.fault is not Fault.NONE:
            raise BundleStale("the bundle's lease has run out")


class FakeOrders:
    """Orders that a test writes down."""

    def __init__(self) -> None:
        self.fault = Fault.NONE
        self.known = True
        self.standing = Orders()

    def current(self) -> Orders:
        return self.standing

    def check(self) -> None:
        if self.fault is not Fault.NONE:
            raise StoreUnreachable("the operators' orders have not been heard lately")

    def are_known(self) -> bool:
        return self.known

    async def note(self, order: Order, *, recorded: bool) -> None:
        others = [other for other in self.standing if other.order_id != order.order_id]
        self.standing = Orders([*others, order])


class FakeGlass:
    """The ledger of break-glass in memory: one replica, `instance`, and a store that is away when told so."""

    def __init__(self) -> None:
        self.instance = "api"
        self.away = False
        self.known = True
        self.activations: dict[str, Order] = {}
        self.reviews: list[OpenReview] = []
        self.closed: set[str] = set()  # reviews that were closed, and nobody has heard of it here
        self.elsewhere: list[Order] = []  # activations that another replica took in, and nobody has heard of here
        self.taken: dict[str, str] = {}

    def are_known(self) -> bool:
        return self.known

    async def look(self) -> None:
        if self.away:
            raise StoreUnreachable("away")
        self.reviews = [review for review in self.reviews if review.review_id not in self.closed]
        self.activations |= {order.order_id: order for order in self.elsewhere}

    def recent(self) -> list[Order]:
        return list(self.activations.values())

    def used(self, activation: str) -> int:
        return list(self.taken.values()).count(activation)

    def open_reviews(self) -> list[OpenReview]:
        return self.reviews

    async def note(self, activation: Order) -> None:
        self.activations[activation.order_id] = activation

    async def take(self, activation, terms, request, *, idempotency_key):
        at_home = activation.document.get("home") == self.instance
        if not self.known or (self.away and not at_home) or self.used(activation.order_id) >= terms.max_uses:
            return None
        self.taken[request.intent_id] = activation.order_id
        return Use(
            mode=Mode.BREAK_GLASS,
            activation=activation.order_id,
            review_id=f"rev_{request.intent_id}",
            instance=self.instance,
            category=request.classified.category,
            environment=request.classified.environment,
            max_uses=terms.max_uses,
            review_due_at=request.now + timedelta(hours=terms.review_hours),
            at_home=at_home,
        )

    async def give_back(self, intent_id: str) -> None:
        self.taken.pop(intent_id, None)


class FakeApprovals:
    """What people approved, as a test writes it down."""

    def __init__(self) -> None:
        self.fault = Fault.NONE
        self.stored: list[Approval] = []

    async def given(self, intent_id: str) -> tuple[Approval, ...]:
        if self.fault is not Fault.NONE:
            raise StoreUnreachable("the approvals cannot be read")
        return tuple(approval for approval in self.stored if approval.intent_id == intent_id)


class BreakableClassifier(CatalogueClassifier):
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.fault = Fault.NONE

    async def classify(self, policy, intent):
        if self.fault is Fault.DOWN:
            raise ConnectionError("the classifier is away")
        if self.fault is Fault.SLOW:
            await asyncio.Event().wait()
        if self.fault is Fault.SILENT:
            return None
        if self.fault is Fault.WRONG:
            return "finance.refund"
        self.clock.lag(self.fault)
        return await super().classify(policy, intent)


class BreakableEvaluator(PolicyEvaluator):
    fault = Fault.NONE
    completed = 0
    clock: FakeClock

    async def evaluate(self, policy, request, act_hash, *, charge):
        if self.fault is Fault.DOWN:
            raise StoreUnreachable("gone in the middle")
        if self.fault is Fault.SLOW:
            await asyncio.Event().wait()
        if self.fault is Fault.SILENT:
            return None
        if self.fault is Fault.WRONG:
            verdict = Allow(determining=("of-another-intent",))
            return Evaluated(verdict=verdict, act_hash="sha-256:" + "A" * 43, bundle=policy.digest)
        evaluated = await super().evaluate(policy, request, act_hash, charge=charge)
        self.completed += 1
        self.clock.lag(self.fault)
        return evaluated


class NoRoomLeft:
    """The Waiting port with switches. It remembers nobody unless asked: the fake recorder's queue never empties."""

    def __init__(self) -> None:
        self.is_full = False
        self.remembers = False
        self.bounds = Bounds()
        self.waits = self.bounds.waits

    def same(self, agent: str, act_hash: str, *, instead_of: str | None) -> str | None:
        return self.bounds.same(agent, act_hash, instead_of=instead_of) if self.remembers else None

    def full(self, agent: str, *, max_per_agent: int, max_total: int) -> bool:
        return self.is_full

    def parked(self, agent: str, lane: int) -> int:
        return 1


class FakePlaces:
    """The Places port of a queue in which nobody waits."""

    async def waiting_for(self, agent: str, act_hash: str) -> None:
        return None


class World:
    """Break one thing, then ask."""

    def __init__(
        self,
        *,
        deadline_s: float = 0.02,
        bundle: dict[str, bytes] | None = None,
        activity=None,
        approvals=None,
        places=None,
    ) -> None:
        self.clock = FakeClock()
        self.ids = FakeIds()
        self.recorder = FakeRecorder(clock=self.clock)
        self.signer = FakeSigner(self.clock)
        self.store = FakeStore()
        self.limits = FakeLimits()
        self.policies = BreakablePolicies(Policy.compile(read_bundle(bundle or BUNDLE)))
        self.orders = FakeOrders()
        self.glass = FakeGlass()
        self.classifier = BreakableClassifier(self.clock)
        self.evaluator = BreakableEvaluator(store=self.store, limits=self.limits)
        self.evaluator.clock = self.clock
        self.approvals = FakeApprovals() if approvals is None else approvals
        self.waiting = NoRoomLeft()
        self.boundaries = Boundaries(
            intent=self._boundary("intent", ReasonCode.CLASSIFICATION_UNAVAILABLE, deadline_s),
            evaluation=Boundary(
                "evaluation",
                reason_code=ReasonCode.EVALUATION_UNAVAILABLE,
                deadline_s=deadline_s,
                clock=self.clock,
                causes={
                    StoreUnreachable: Cause.STORE_UNREACHABLE,
                    BundleStale: Cause.STALE_BUNDLE,
                    TimeoutError: Cause.TIMEOUT,
                    Exception: Cause.POLICY_ERROR,
                },
                counts=(StoreUnreachable,),
                open_cause=Cause.CIRCUIT_OPEN,
            ),
            token=self._boundary("token", ReasonCode.SIGNING_UNAVAILABLE, deadline_s),
            audit=self._boundary("audit", ReasonCode.AUDIT_UNAVAILABLE, deadline_s),
        )
        self.authorizer = Authorizer(
            issuer=ISSUER,
            policies=self.policies,
            orders=self.orders,
            uses=self.glass,
            classifier=self.classifier,
            evaluator=self.evaluator,
            approvals=self.approvals,
            activity=RecentActivity() if activity is None else activity,
            waiting=self.waiting,
            places=FakePlaces() if places is None else places,
            recorder=self.recorder,
            signer=self.signer,
            boundaries=self.boundaries,
            clock=self.clock,
            ids=self.ids,
        )

    def _boundary(self, name: str, reason_code: ReasonCode, deadline_s: float) -> Boundary:
        return Boundary(name, reason_code=reason_code, deadline_s=deadline_s, clock=self.clock)

    def refund(self, *, cents: int = 4_200, **changes: object) -> Intent:
        intent = Intent(
            action="payments.refund.create",
            resource=Resource(type="payment", id="pay_123"),
            parameters={"amount_cents": cents},
            context=Context(environment="production"),
        )
        return replace(intent, **changes)  # type: ignore[arg-type] # a test names what it changes

    def search(self, **changes: object) -> Intent:
        intent = Intent(action="kb.search", resource=Resource(type="kb", id="handbook"))
        return replace(intent, **changes)  # type: ignore[arg-type] # a test names what it changes

    def ask(self, intent: Intent, *, agent: str = "support", key: str | None = "key-1") -> Ask:
        return Ask(
            intent_id=self.ids.new("int_"),
            agent=agent,
            intent=intent,
            submission=orjson.dumps(intent.to_json(), option=orjson.OPT_SORT_KEYS),
            request_digest="0" * 64,
            idempotency_key=key,
            received_at=self.clock.now(),
        )

    async def submit(self, intent: Intent, *, agent: str = "support", key: str | None = "key-1"):
        return await self.authorizer.submit(self.ask(intent, agent=agent, key=key))

    def waiting_intent(self, intent: Intent, *, agent: str = "support", epoch: int | None = 1) -> WaitingIntent:
        return WaitingIntent(ask=self.ask(intent, agent=agent), version=1, epoch=epoch)
