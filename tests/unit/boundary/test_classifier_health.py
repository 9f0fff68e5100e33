"""A remote classifier that was away is heard of without waiting out the breaker's open time."""

from __future__ import annotations

import asyncio

import pytest
from world import World

from services.breaker import State
from services.remote_classifier import ClassifierUnreachable
from services.upkeep import Upkeep


class AwayAtFirst:
    """A classifier that answers from the second question on."""

    def __init__(self) -> None:
        self.asked = 0

    async def check(self, policy) -> None:
        self.asked += 1
        if self.asked == 1:
            raise ClassifierUnreachable("a test says so")


class Policies:
    def current(self):
        return object()


def upkeep_of(boundaries, classifier):
    upkeep = Upkeep(lane=None, signer=None, clock=None)
    upkeep.watch(boundaries, None, policies=Policies(), classifier=classifier, bounds=None)
    return upkeep


async def watched(upkeep, until):
    watching = asyncio.create_task(upkeep.watch_classifier())
    try:
        async with asyncio.timeout(20):
            while not until():  # noqa: ASYNC110 - only the breaker knows
                await asyncio.sleep(0.05)
    finally:
        watching.cancel()


async def test_an_open_boundary_is_probed_as_soon_as_its_classifier_answers():
    boundaries, classifier = World().boundaries, AwayAtFirst()
    boundaries.intent.dependency_is_gone("a test says so")

    await watched(upkeep_of(boundaries, classifier), lambda: boundaries.intent.state.state is not State.OPEN)

    assert boundaries.intent.state.state is State.HALF_OPEN
    assert classifier.asked == 2


async def test_a_boundary_that_is_closed_costs_the_classifier_no_question(monkeypatch):
    monkeypatch.setattr("services.upkeep._CLASSIFIER_CHECK_INTERVAL_S", 0.01)
    boundaries, classifier = World().boundaries, AwayAtFirst()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await watched(upkeep_of(boundaries, classifier), lambda: classifier.asked > 0)


async def test_without_a_remote_classifier_there_is_nothing_to_watch():
    await upkeep_of(World().boundaries, None).watch_classifier()
