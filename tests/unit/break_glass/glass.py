"""A world with break-glass policies, and people who use them."""

from __future__ import annotations

from datetime import timedelta

from world import BUNDLE, START, Fault, World

from services.break_glass import BreakGlass
from services.decision.bundle import read_bundle
from services.decision.orders import Order, OrderKind, Orders
from services.decision.policy import Policy

PAIR = "pair"  # two people
SOLO = "solo"  # one person is enough

SETTINGS = """
version: 1
approvals: {{roles: {{finance: [alice, bob]}}}}
break_glass:
  - {{name: pair, categories: [finance.refund], agents: ["sup*"], environments: [production], people: 2,
     max_minutes: 30, max_uses: {max_uses}, review_hours: 24}}
  - {{name: solo, categories: [support.read], agents: [support], environments: [production], people: 1,
     max_minutes: 30, max_uses: 3, review_hours: 24}}
"""


def a_bundle(settings: str = SETTINGS, *, max_uses: int = 3) -> dict[str, bytes]:
    return {**BUNDLE, "holdfast.yaml": settings.format(max_uses=max_uses).encode()}


class GlassWorld(World):
    """A world whose store is away, and the people's desk."""

    def __init__(self, bundle: dict[str, bytes] | None = None, *, away: bool = True, **more) -> None:
        super().__init__(bundle=bundle or a_bundle(), **more)
        self.desk = BreakGlass(
            orders=self.orders,
            ledger=self.glass,
            policies=self.policies,
            recorder=self.recorder,
            audit=self.boundaries.audit,
            clock=self.clock,
            ids=self.ids,
        )
        if away:
            self.leave()

    def leave(self) -> None:
        """Let PostgreSQL go away."""
        self.store.fault = Fault.DOWN
        self.recorder.in_journal = self.glass.away = True

    def back(self) -> None:
        """Let it return."""
        self.store.fault = Fault.NONE
        self.recorder.in_journal = self.glass.away = False

    def publish(self, bundle: dict[str, bytes]) -> None:
        """Activate another bundle."""
        self.policies.policy = Policy.compile(read_bundle(bundle))

    async def activated(self, policy: str = PAIR, *, by: str = "alice", and_by: str = "bob", minutes: int = 10) -> str:
        """Activate, with a second person where it needs one, and return the id."""
        changed = await self.activate(policy, by=by, minutes=minutes)
        if changed.activation.in_force_at is None:
            await self.desk.confirm(changed.activation.order_id, by=and_by)
        return changed.activation.order_id

    async def activate(self, policy: str = PAIR, *, by: str = "alice", minutes: int = 10):
        return await self.desk.activate(policy, by=by, reason="the store is away", incident="INC-7", minutes=minutes)


def an_activation(**changes) -> Order:
    """Return an activation of `pair` in force, as if it had come from elsewhere."""
    given = {
        "order_id": "brk_elsewhere",
        "kind": OrderKind.BREAK_GLASS,
        "scope": PAIR,
        "reason": "incident 7",
        "issued_at": START,
        "issued_by": "alice",
        "people": 2,
        "confirmed_by": ("bob",),
        "in_force_at": START,
        "expires_at": START + timedelta(minutes=10),
        "document": {
            "home": "api",
            "minutes": 10,
            "earlier": [],
            "categories": ["finance.refund"],
            "agents": ["support"],
            "environments": ["production"],
            "max_uses": 3,
            "review_hours": 24,
        },
    }
    return Order(**given | changes)


def standing(*activations: Order) -> Orders:
    return Orders(activations)
