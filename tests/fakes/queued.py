"""What operators change about waiting intents, in the database in memory; and the ports that read it back."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from services.decision.approvals import Approval
from services.queued import Glance, QueuedIntent, QueueEntry

if TYPE_CHECKING:
    from fakes.recording import Tables
    from fakes.stores import MemoryIntents


def approve(tables: Tables, e) -> bool:
    same = ("intent_id", "act_hash", "bundle", "approved_by")
    if e["approval_id"] in tables.approvals or any(
        all(row[name] == e[name] for name in same) for row in tables.approvals.values()
    ):
        return False
    if not _take(tables, e, {"held", "waiting"}, e["approved_at"]):
        return False
    tables.approvals[e["approval_id"]] = e
    return True


def reorder(tables: Tables, e) -> bool:
    if not _take(tables, e, {"waiting", "held", "parked"}, e["at"]):
        return False
    tables.queue[e["intent_id"]] |= {"lane": e["lane"], "rank_at": e["rank_at"]}
    envelope = tables.intents[e["intent_id"]]["envelope"]
    if isinstance(envelope.get("queue"), dict):
        envelope["queue"]["lane"] = e["lane_name"]
    return True


def requeue(tables: Tables, e) -> bool:
    if not _take(tables, e, {"parked"}, e["at"]):
        return False
    tables.queue[e["intent_id"]] |= {"state": "waiting", "attempts": 0, "not_before": e["at"]}
    return True


def _take(tables: Tables, e, states: set[str], at: str) -> bool:
    intent, entry = tables.intents.get(e["intent_id"]), tables.queue.get(e["intent_id"])
    if intent is None or entry is None or intent["version"] != e["expect_version"]:
        return False
    state = entry.get("leased_from", "waiting") if entry["state"] == "leased" else entry["state"]
    if state not in states or datetime.fromisoformat(entry["expires_at"]) <= datetime.fromisoformat(at):
        return False
    intent["version"] += 1
    if entry["state"] == "leased":
        entry |= {"state": state, "epoch": entry["epoch"] + 1}
    return True


class MemoryQueued:
    """The QueuedIntents and Approvals ports over the tables of the database in memory."""

    def __init__(self, intents: MemoryIntents) -> None:
        self._intents = intents

    async def get(self, intent_id):
        stored = await self._intents.get(intent_id)
        if stored is None:
            return None
        entry = self._intents._tables().queue.get(intent_id)
        return QueuedIntent(
            stored=stored, entry=None if entry is None else _entry(entry), approvals=await self.given(intent_id)
        )

    async def given(self, intent_id):
        rows = self._intents._tables().approvals.values()
        return tuple(_approval(row) for row in rows if row["intent_id"] == intent_id)

    async def glances(self, intent_ids):
        rows = {intent_id: self._intents._tables().intents[intent_id] for intent_id in intent_ids}
        return {intent_id: await self._glance(row) for intent_id, row in rows.items()}

    async def _glance(self, row) -> Glance:
        envelope = row["envelope"]
        return Glance(
            act_hash=row["act_hash"],
            category=envelope["category"],
            impact=envelope["impact"],
            bundle=envelope["policy"]["bundle"],
            determining=tuple(envelope["policy"]["determining"]),
            approvals=await self.given(row["intent_id"]),
        )


def _entry(row) -> QueueEntry:
    leased = row["state"] == "leased"
    return QueueEntry(
        state=row.get("leased_from", "waiting") if leased else row["state"],
        leased=leased,
        lane=row["lane"],
        rank_at=datetime.fromisoformat(row["rank_at"]),
        enqueued_at=datetime.fromisoformat(row["enqueued_at"]),
        expires_at=datetime.fromisoformat(row["expires_at"]),
        attempts=row.get("attempts", 0),
    )


def _approval(row) -> Approval:
    names = ("approval_id", "intent_id", "act_hash", "bundle", "approved_by", "note")
    return Approval(
        **{name: row[name] for name in names},
        roles=tuple(row["roles"]),
        approved_at=datetime.fromisoformat(row["approved_at"]),
    )
