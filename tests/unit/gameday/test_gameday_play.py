"""A game day never blames a boundary for what policy, limits or the queue say."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from holdfast.intent import Intent, Resource

from console.gameday.drills import DRILLS
from console.gameday.judging import Verdict
from console.gameday.play import play
from console.gameday.samples import Sample
from console.gameday.twin import Answer
from services.decision.catalog import Effect, Impact
from services.decision.settings import FailModes

BY_NAME = {drill.name: drill for drill in DRILLS}
SAMPLE = Sample(
    agent="one",
    intent=Intent(action="a.get", resource=Resource(type="thing", id="gameday")),
    executor="x",
    impact=Impact.LOW,
    effect=Effect.READ,
    held=False,
    limited=False,
    origin="a test",
)
WAITS = {"decision": "deny", "status": "queued", "reason_code": "EVALUATION_UNAVAILABLE", "token": None}
HELD = {"decision": "hold", "status": "held", "reason_code": "APPROVAL_REQUIRED", "token": None}


class Twin:
    """Behaves as the service does, in memory: one place for each action, and limits for agents that have some."""

    def __init__(self, *, calls_left=1_000) -> None:
        self.receipts = {"s:1:h": None}
        self.broken = self.noticed = False
        self.calls_left = self.limit = calls_left
        self.intents: dict[str, dict] = {}
        self.consumed: set[str] = set()

    async def submit(self, sample, *, key=None, intent=None):
        undecided = [one for one in self.intents.values() if one["status"] in {"queued", "held"}]
        if undecided and (self.broken or sample.held):
            return Answer(403 if undecided[0]["status"] == "held" else 503, undecided[0])
        body = {"intent_id": f"int_{len(self.intents)}", "receipt": {"stream": "s", "seq": 1, "hash": "h"}}
        if self.broken:
            body |= WAITS if self.noticed else {**WAITS, "reason_code": "AUDIT_UNAVAILABLE"}
            if not (intent or sample.intent).queue:
                return Answer(503, {**body, "status": "unqueued"})
        elif sample.limited and self.calls_left == 0:
            return Answer(429, {**body, "status": "denied", "reason_code": "RATE_LIMITED"})
        elif sample.held:
            body |= HELD
        else:
            body |= {"status": "granted", "reason_code": "ALLOWED", "token": body["intent_id"]}
            self.calls_left -= 1
        self.intents[body["intent_id"]] = body
        return Answer({"queued": 503, "held": 403, "granted": 200}[body["status"]], dict(body))

    async def look(self, sample, intent_id):
        one = self.intents[intent_id]
        if one["status"] == "queued":
            one["status"] = "held" if sample.held else "claimable"
        return Answer(200, one)

    async def claim(self, sample, intent_id):
        self.intents[intent_id]["status"] = "granted"
        return Answer(200, {"token": intent_id})

    async def cancel(self, sample, intent_id):
        self.intents[intent_id]["status"] = "cancelled"
        return Answer(200, {})

    async def consume(self, sample, token):
        fresh = token not in self.consumed
        self.consumed.add(token)
        return Answer(200 if fresh else 409, {})

    async def forget_limits(self):
        self.calls_left = self.limit

    async def verify(self, receipts):
        return None if list(receipts) == list(self.receipts) else "another log"

    async def until_open(self, boundary):
        assert boundary == "evaluation"
        self.noticed = True

    async def until_ready(self, *, ready=True):
        assert ready is not self.broken


@contextlib.asynccontextmanager
async def breaking(twin, samples):
    twin.broken = twin.noticed = True
    yield
    twin.broken = False


@contextlib.asynccontextmanager
async def breaking_unnoticed(twin, samples):
    twin.broken, twin.noticed = True, False
    yield
    twin.broken = False


async def played(twin, sample):
    drill = replace(BY_NAME["evaluation-held-open"], trip=breaking)
    results = await play(twin, [sample], [drill, drill], FailModes(), lambda _: None)
    return {result.name: result.why() or result.verdict for result in results}


async def test_an_action_that_is_asked_for_twice_in_one_fault_waits_once_and_is_followed_once():
    assert set((await played(Twin(), SAMPLE)).values()) == {Verdict.PASS}


async def test_limits_that_a_gameday_would_reach_fail_nothing():
    assert set((await played(Twin(calls_left=1), replace(SAMPLE, limited=True))).values()) == {Verdict.PASS}


async def test_what_a_human_must_look_at_is_asked_for_anew_in_each_drill():
    assert set((await played(Twin(), replace(SAMPLE, held=True))).values()) == {Verdict.PASS}


async def test_the_drill_of_the_store_waits_until_its_own_boundary_is_open():
    """Readiness ends with the record's boundary as well, and until the heartbeat is lost intents get as far as that."""
    drill = replace(BY_NAME["evaluation-store"], trip=breaking_unnoticed, tokens_die=False)
    results = await play(Twin(), [SAMPLE], [drill], FailModes(), lambda _: None)
    assert [result.why() or result.verdict for result in results] == [Verdict.PASS] * 3


async def test_a_drill_that_can_show_nothing_is_skipped():
    results = await play(Twin(), [SAMPLE], [BY_NAME["evaluation-limits"]], FailModes(), lambda _: None)
    assert [result.verdict for result in results] == [Verdict.PASS, Verdict.SKIPPED, Verdict.PASS]


def test_a_drill_is_skipped_where_a_human_is_asked_before_the_fault_can_be_met():
    held = replace(SAMPLE, held=True)
    assert BY_NAME["token"].concerns([SAMPLE, held])
    assert not BY_NAME["token"].concerns([held])
    assert BY_NAME["evaluation-store"].concerns([held])
    assert not BY_NAME["evaluation-limits"].concerns([SAMPLE])
