"""Whatever is broken and whatever people do, no break-glass token leaves without an activation that covers it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from holdfast.reasons import Mode
from holdfast.token import verify_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from world import BUNDLE, Fault, World

from services.break_glass import BreakGlass
from services.decision.fail_open import DEPENDENCY_GONE
from services.submissions import Problem

MAX_USES = 2
SETTINGS = f"""
version: 1
approvals: {{roles: {{finance: [alice, bob]}}}}
break_glass:
  - {{name: money, categories: [finance.refund], agents: [support], environments: [production], people: 2,
     max_minutes: 10, max_uses: {MAX_USES}, review_hours: 1}}
""".encode()
PEOPLE = st.sampled_from(["alice", "bob", "carol"])
FAULTS = {port: list(Fault) for port in ("policies", "classifier", "evaluator", "store", "recorder", "signer")}
# Where a use may rest on the journal, a recorder that says it is there is believed.
FAULTS["recorder"].remove(Fault.SILENT)
STEP = st.one_of(
    st.tuples(st.just("activate"), PEOPLE),
    st.tuples(st.just("confirm"), PEOPLE),
    st.tuples(st.just("revoke"), PEOPLE),
    st.tuples(st.just("wait"), st.sampled_from([1, 60, 601, 3601])),
    st.tuples(
        st.just("break"),
        st.fixed_dictionaries({port: st.just(Fault.NONE) | st.sampled_from(faults) for port, faults in FAULTS.items()}),
    ),
    st.tuples(st.just("journal"), st.booleans()),
    st.tuples(st.just("refund"), st.sampled_from(["production", "staging"])),
    st.tuples(st.just("search"), st.none()),
    st.tuples(st.just("claim"), st.none()),
)


class Story:
    """A world, what people did to it, and by what right a token left."""

    def __init__(self) -> None:
        self.world = World(deadline_s=0.005, bundle={**BUNDLE, "holdfast.yaml": SETTINGS})
        world = self.world
        self.desk = BreakGlass(
            orders=world.orders,
            ledger=world.glass,
            policies=world.policies,
            recorder=world.recorder,
            audit=world.boundaries.audit,
            clock=world.clock,
            ids=world.ids,
        )
        self.left: dict[str, int] = {}

    async def step(self, name: str, what) -> None:
        world, last = self.world, next(iter(reversed(self.world.glass.activations)), "brk_none")
        try:
            if name == "activate":
                await self.desk.activate("money", by=what, reason="r", incident="i", minutes=10)
            elif name == "confirm":
                await self.desk.confirm(last, by=what)
            elif name == "revoke":
                await self.desk.revoke(last, by=what, note="n")
        except Problem:
            pass
        if name == "wait":
            world.clock.advance(what)
        elif name == "break":
            for port, fault in what.items():
                getattr(world, port).fault = fault
        elif name == "journal":
            world.recorder.in_journal = world.glass.away = what
        elif name in {"refund", "search", "claim"}:
            await self.ask(name, what)

    async def ask(self, name: str, environment: str | None) -> None:
        world = self.world
        intent = world.search() if name == "search" else world.refund()
        if environment == "staging":
            intent = world.refund(context=type(intent.context)(environment="staging"))
        if name == "claim":
            outcome = await world.authorizer.claim(world.waiting_intent(intent, epoch=None))
        else:
            outcome = await world.submit(intent)
        assert (outcome.http_status == 200) == (outcome.token is not None)
        if outcome.token is None or outcome.mode is Mode.NORMAL:
            return
        self.by_right(outcome, name)

    def by_right(self, outcome, name: str) -> None:
        world = self.world
        claims = verify_signature(outcome.token, world.signer.verify_keys())
        activation = world.glass.activations[claims.brk]
        assert (name, claims.mode, claims.category, claims.env) == (
            "refund",
            "break_glass",
            "finance.refund",
            "production",
        )
        assert activation.ended_at is None
        assert activation.in_force_at <= world.clock.now() < activation.in_force_at + timedelta(minutes=10)
        assert len(activation.behind()) >= 2
        assert activation.behind() - set(activation.document["earlier"])
        record = next(p for p in world.recorder.durable if str(p.receipt) == claims.rcp)
        assert record.entry.members["instead_of"] in {cause.value for cause in DEPENDENCY_GONE}
        use = record.entry.effect.use
        assert (use.mode, use.activation, record.entry.effect.jti) == (Mode.BREAK_GLASS, claims.brk, claims.jti)
        assert record.entry.members["review_id"] == use.review_id
        self.left[claims.brk] = self.left.get(claims.brk, 0) + 1
        assert self.left[claims.brk] <= MAX_USES


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(STEP, min_size=1, max_size=25))
def test_no_break_glass_token_leaves_without_an_activation_in_force_that_covers_it(steps):
    async def story() -> None:
        tale = Story()
        for name, what in steps:
            await tale.step(name, what)

    asyncio.run(story())


@settings(max_examples=50, deadline=None)
@given(
    prelude=st.lists(STEP, max_size=6),
    uses=st.integers(min_value=1, max_value=4),
)
def test_after_two_people_agreed_in_an_outage_it_is_let_through_up_to_the_cap(prelude, uses):
    """The counterpart: the first property is not vacuous."""

    async def story() -> None:
        tale = Story()
        await tale.step("break", dict.fromkeys(("store",), Fault.DOWN))
        await tale.step("journal", what=True)
        await tale.step("activate", "alice")
        await tale.step("confirm", "bob")
        for _ in range(uses):
            await tale.step("refund", "production")
        assert sum(tale.left.values()) == min(uses, MAX_USES)
        for name, what in prelude:
            await tale.step(name, what)

    asyncio.run(story())
