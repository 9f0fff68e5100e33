"""The feed of changes in memory."""

from __future__ import annotations

import orjson

from services.changes import UNDECIDED, Change, Page, Position
from services.ports import StoreUnreachable

LIMIT = 1_000


class MemoryChanges:
    """Changes that a test makes. Those of `running` transactions hold back what comes after them."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.removed = Position(0, 0)
        self.running: set[int] = set()
        self.next_xid = 100
        self.away = False
        self.asked = 0
        self.stored: dict[str, Change] = {}

    def begin(self) -> int:
        """Start a transaction that stays open."""
        self.next_xid += 1
        self.running.add(self.next_xid)
        return self.next_xid

    def commit(self, xid: int, *moves: tuple[str, str, str]) -> None:
        """End a transaction that moved intents: agent, intent and status each."""
        self.running.discard(xid)
        for number, (agent, intent_id, status) in enumerate(moves, start=1):
            envelope = {"intent_id": intent_id, "status": status, "queue": None}
            change = Change(
                position=Position(xid, number),
                agent=agent,
                intent_id=intent_id,
                version=1,
                status=status,
                stored=orjson.dumps(envelope).decode(),
            )
            self.changes.append(change)
            self.stored[intent_id] = change
        self.changes.sort(key=lambda change: change.position)

    def move(self, agent: str, intent_id: str, status: str) -> None:
        """Move an intent in a transaction of its own."""
        self.commit(self.begin(), (agent, intent_id, status))

    async def head(self) -> Position:
        self._ask()
        return Position(self._oldest(), 0)

    async def after(self, position: Position) -> Page:
        self._ask()
        found = [change for change in self.changes if change.position > position][:LIMIT]
        settled = [change for change in found if change.position.xid < self._oldest()]
        full = len(found) == LIMIT
        end = (settled[-1].position if settled else position) if full else Position(self._oldest(), 0)
        early = found[len(settled) :]
        return Page(settled=settled, early=early, next=max(position, end), more=full and not early)

    async def missed(self, position: Position, *, agent: str, intent_id: str | None) -> Page | None:
        self._ask()
        if position < self.removed or position.xid > self.next_xid + 1:
            return None
        found = [
            change
            for change in self.changes
            if change.position > position
            and change.position.xid < self._oldest()
            and change.agent == agent
            and intent_id in (None, change.intent_id)
        ][:LIMIT]
        return Page(settled=found, early=(), next=found[-1].position if found else position, more=len(found) == LIMIT)

    async def decided(self, intent_ids):
        self._ask()
        stored = (self.stored.get(intent_id) for intent_id in intent_ids)
        return [change for change in stored if change is not None and change.status not in UNDECIDED]

    def _oldest(self) -> int:
        return min(self.running, default=self.next_xid + 1)

    def _ask(self) -> None:
        self.asked += 1
        if self.away:
            raise StoreUnreachable("the feed is away")


class NoChanges(MemoryChanges):
    """A feed on which nothing ever happens."""
