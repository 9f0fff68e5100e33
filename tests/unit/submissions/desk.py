"""The agents' and the executors' side over a real lane, with the database and the disk in memory."""

from __future__ import annotations

from fakes.changes import NoChanges
from fakes.queued import MemoryQueued
from fakes.recording_world import Recorder
from fakes.stores import MemoryIntents
from world import ISSUER, World

from services.consumption import Consumption
from services.hub import Hub
from services.submissions import Submissions, waiting_intent
from services.tending import Tending


class Desk:
    """A `World` whose recorder is a real lane, and whose stores read what that lane wrote."""

    def __init__(self) -> None:
        self.recording = Recorder()
        self.store = MemoryIntents(self.recording.database)
        self.queued = MemoryQueued(self.store)
        self.world = World(deadline_s=1.0, approvals=self.queued, places=self.store)
        self.world.waiting.remembers = True
        self.parked = 0
        self.lane = None

    async def open(self) -> Desk:
        world = self.world
        self.lane = await self.recording.start()
        world.authorizer._recorder = self.lane
        self.submissions = Submissions(
            authorizer=world.authorizer,
            store=self.store,
            clock=world.clock,
            ids=world.ids,
            hub=Hub(NoChanges()),
            on_parked=self._count,
            in_journal=lambda: self.lane.in_journal,
            on_ended=world.waiting.bounds.forget,
        )
        self.consumption = Consumption(
            issuer=ISSUER,
            recorder=self.lane,
            signer=world.signer,
            store=self.store,
            limits=world.limits,
            orders=world.orders,
            audit=world.boundaries.audit,
            clock=world.clock,
        )
        self.tending = Tending(
            authorizer=world.authorizer,
            queued=self.queued,
            policies=world.policies,
            activity=world.authorizer._activity,
            recorder=self.lane,
            audit=world.boundaries.audit,
            clock=world.clock,
            ids=world.ids,
            on_waiting=self._count,
        )
        return self

    def _count(self) -> None:
        self.parked += 1

    async def restart(self) -> None:
        """End the process and start another on the same database and disk."""
        await self.recording.crash(self.lane)
        await self.open()

    async def submit(self, intent, key="k", *, agent="support", supersedes=None):
        return await self.submissions.submit(agent, intent, key, supersedes=supersedes)

    async def make_claimable(self, intent_id: str) -> None:
        """Do what the worker does once everything is back."""
        stored = await self.store.get(intent_id)
        await self.world.authorizer.reconsider(waiting_intent(stored, epoch=None))
