"""From a boundary's breaker to what is published."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest
from fakes.notices import FakeClock, MemoryOutbox
from fakes.recording_entries import notice
from holdfast.reasons import ReasonCode

from services.boundary import Boundary, BoundaryUnavailable
from services.notices.incident import IncidentSettings
from services.notices.notice import Kind, Severity
from services.notices.watch import IncidentWatch
from services.system import SystemIds


class Post:
    """One boundary under watch."""

    def __init__(self) -> None:
        self.clock, self.outbox, self.published = FakeClock(), MemoryOutbox(), []
        self.in_journal = False
        self.watch = IncidentWatch(
            IncidentSettings(),
            self,
            self.outbox,
            origin="api",
            in_journal=lambda: self.in_journal,
            clock=self.clock,
            ids=SystemIds(),
        )
        self.boundary = Boundary(
            "evaluation",
            reason_code=ReasonCode.EVALUATION_UNAVAILABLE,
            deadline_s=1.0,
            clock=self.clock,
            on_transition=lambda name, transition: self.watch.look(name),
        )
        self.watch.watch([self.boundary])

    def publish(self, one) -> None:
        self.published.append(one)

    def after(self, seconds: float) -> None:
        self.clock.time += seconds
        self.watch.look("evaluation")

    async def ask(self, answer=True) -> None:  # noqa: FBT002 - what the dependency says
        async def attempt():
            if not answer:
                raise OSError("gone")

        with contextlib.suppress(BoundaryUnavailable):
            await self.boundary.call(attempt, proves=lambda _: None)

    async def heal(self) -> None:
        async def canary():
            return True

        self.boundary.dependency_is_back()
        for _ in range(3):
            await self.boundary.probe(canary, proves=lambda _: None)


async def test_an_outage_is_published_under_one_key_from_its_beginning_to_its_end():
    post = Post()
    post.after(0)
    for _ in range(3):
        await post.ask(answer=False)
    post.after(2.9)
    assert post.published == []
    post.after(0.2)
    for _ in range(8):
        await post.ask()
    post.after(1)
    await post.heal()
    post.after(59)
    post.after(2)

    opened, grown, ended = post.published
    assert [one.kind for one in post.published] == [
        Kind.INCIDENT_OPENED,
        Kind.INCIDENT_UPDATED,
        Kind.INCIDENT_RESOLVED,
    ]
    assert len({one.dedupe_key for one in post.published}) == 1
    assert {one.severity for one in post.published} == {Severity.CRITICAL}
    assert (opened.details["affected"], grown.details["affected"], ended.details["affected"]) == ("3", "11", "11")
    assert opened.summary == "api: the evaluation boundary is open, 3 intents refused"
    assert ended.summary == "api: the evaluation boundary is closed again, 11 intents refused"


async def test_the_next_outage_is_another_incident():
    post = Post()
    for _ in range(2):
        post.boundary.dependency_is_gone("silence")
        post.after(5)
        await post.heal()
        post.after(60)
    first, _, second, _ = post.published
    assert first.dedupe_key != second.dedupe_key


async def test_canaries_are_no_intents():
    post = Post()
    post.boundary.dependency_is_gone("silence")
    post.boundary.dependency_is_back()

    async def canary():
        raise OSError

    await post.boundary.probe(canary, proves=lambda _: None)
    assert post.boundary.refused == 0
    await post.ask()
    assert post.boundary.refused == 1


@pytest.mark.parametrize("away_first", [False, True])
async def test_what_an_earlier_process_left_open_is_resolved_once_the_store_can_say_so(away_first):
    """Nobody else would ever end it: the breaker that opened it died with its process."""
    post = Post()
    left = replace(notice(), dedupe_key="incident:api:evaluation:inc_old")
    post.outbox.put(left, "api")
    post.outbox.put(replace(notice(2), dedupe_key="incident:worker:evaluation:inc_old"), "worker")
    post.outbox.up = not away_first
    async with running(post):
        await asyncio.sleep(0.05)
        post.outbox.up = True
        ended = await told(post)
    assert (ended.kind, ended.dedupe_key) == (Kind.INCIDENT_RESOLVED, left.dedupe_key)


async def test_what_an_earlier_process_opened_in_an_outage_is_resolved_once_its_journal_is_stored():
    """The store answers before it has what that process recorded in the outage."""
    post = Post()
    post.in_journal = True
    async with running(post):
        await asyncio.sleep(0.05)
        left = replace(notice(), dedupe_key="incident:api:evaluation:inc_old")
        post.outbox.put(left, "api")
        post.in_journal = False
        ended = await told(post)
    assert (ended.kind, ended.dedupe_key) == (Kind.INCIDENT_RESOLVED, left.dedupe_key)


@contextlib.asynccontextmanager
async def running(post):
    task = asyncio.create_task(post.watch.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def told(post):
    async with asyncio.timeout(10):
        while not post.published:
            post.clock.time += 61
            await asyncio.sleep(0.02)
    (only,) = post.published
    return only
