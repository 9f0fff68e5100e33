"""A candidate in the shadow changes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from policy_bundles import LOOSER, asked, files

from services.decision.replay import request_of
from services.decision.verdict import Allow
from services.policies import Candidate
from services.ports import Evaluated, StoreUnreachable
from services.publishing import compile_files
from services.shadow import ShadowEvaluator


class Inner:
    async def evaluate(self, policy, request, act_hash, *, charge):
        return Evaluated(verdict=policy.evaluate(request), act_hash=act_hash, bundle=policy.digest)


class Faulty:
    """A candidate that fails on everything."""

    digest = "sha256:faulty"

    def classify(self, intent):
        raise ValueError("broken")


class Shadows:
    def __init__(self):
        self.away = False
        self.counts = {}
        self.differences = []

    async def add(self, instance, counts, differences):
        if self.away:
            raise StoreUnreachable("away")
        for key, count in counts.items():
            self.counts[key[1]] = self.counts.get(key[1], 0) + count
        self.differences.extend(differences)


POLICY = compile_files(files())


async def evaluated(shadow, cents):
    recorded = asked(cents)
    classified = POLICY.classify(recorded.intent)
    risk = POLICY.assess(recorded.intent, classified, agent="bot", now=recorded.at)
    request = replace(request_of(recorded, classified, risk), intent_id=f"int_{cents}")
    found = await shadow.evaluate(POLICY, request, "sha-256:x", charge=True)
    await asyncio.sleep(0)
    return found


def beside(policy):
    return ShadowEvaluator(Inner(), lambda: Candidate(run=1, policy=policy))


async def test_agreement_and_difference_are_counted_and_the_verdict_is_the_active_one():
    shadow, shadows = beside(compile_files(files(rules=LOOSER))), Shadows()

    for cents in (100, 2000, 6000):
        alone = POLICY.evaluate(
            request_of(
                asked(cents),
                c := POLICY.classify(asked(cents).intent),
                POLICY.assess(asked(cents).intent, c, agent="bot", now=asked(cents).at),
            )
        )
        assert (await evaluated(shadow, cents)).verdict == alone
    await shadow.flush(shadows, instance="a")

    assert shadows.counts == {"same": 1, "stricter": 1, "looser": 1}
    assert {found.action for found in shadows.differences} == {"refund.create"}
    assert [found.intent_id for found in shadows.differences] == ["int_2000", "int_6000"]


async def test_a_candidate_that_fails_is_counted_and_harms_nothing():
    shadow, shadows = beside(Faulty()), Shadows()

    assert isinstance((await evaluated(shadow, 100)).verdict, Allow)
    await shadow.flush(shadows, instance="a")

    assert shadows.counts == {"errors": 1}


async def test_the_verdict_does_not_wait_for_the_candidate():
    """Whatever the candidate does happens on another turn of the loop, outside of the evaluation's deadline."""
    seen = []

    class Slow(Faulty):
        def classify(self, intent):
            seen.append("asked")
            raise ValueError("broken")

    shadow = beside(Slow())
    recorded = asked(100)
    classified = POLICY.classify(recorded.intent)
    risk = POLICY.assess(recorded.intent, classified, agent="bot", now=recorded.at)
    await shadow.evaluate(POLICY, request_of(recorded, classified, risk), "sha-256:x", charge=True)

    assert seen == []
    await asyncio.sleep(0)
    assert seen == ["asked"]


async def test_counts_survive_a_store_that_is_away():
    shadow, shadows = beside(compile_files(files(rules=LOOSER))), Shadows()
    await evaluated(shadow, 2000)
    shadows.away = True
    await shadow.flush(shadows, instance="a")
    await evaluated(shadow, 2000)
    shadows.away = False

    await shadow.flush(shadows, instance="a")

    assert shadows.counts == {"stricter": 2}
    assert len(shadows.differences) == 2


async def test_without_a_candidate_nothing_is_counted():
    shadow, shadows = ShadowEvaluator(Inner(), lambda: None), Shadows()

    await evaluated(shadow, 100)
    await shadow.flush(shadows, instance="a")

    assert shadows.counts == {}
