"""The IntentStore and TokenStore ports over the tables of the database in memory."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import TYPE_CHECKING

from fakes.recording import UNDECIDED

from services.ports import Consumed, StoredIntent, StoreUnreachable, TokenState

if TYPE_CHECKING:
    from fakes.recording import MemoryDatabase


class MemoryIntents:
    """Reads what recorders wrote. Away while the database is down."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def get(self, intent_id):
        row = self._tables().intents.get(intent_id)
        return None if row is None else self._stored(row)

    async def by_key(self, agent, idempotency_key):
        rows = self._tables().intents.values()
        found = (row for row in rows if row["agent"] == agent and row["idempotency_key"] == idempotency_key)
        row = next(found, None)
        return None if row is None else self._stored(row)

    async def waiting_for(self, agent, act_hash):
        tables = self._tables()
        found = (tables.intents[name] for name, row in tables.queue.items() if row["state"] in UNDECIDED)
        row = next((row for row in found if row["agent"] == agent and row["act_hash"] == act_hash), None)
        return None if row is None else self._stored(row)

    async def position(self, intent_id):
        queue = self._tables().queue
        waiting = [
            (row["lane"], datetime.fromisoformat(row["rank_at"]), name)
            for name, row in queue.items()
            if row["state"] in {"waiting", "leased"}
        ]
        places = {name: place for place, (_, _, name) in enumerate(sorted(waiting), start=1)}
        return places.get(intent_id)

    async def state(self, iss, txn, jti):
        tables = self._tables()
        if any(i == iss and (t == txn or row["jti"] == jti) for (i, t), row in tables.consumptions.items()):
            return TokenState.CONSUMED
        if jti in tables.revoked:
            return TokenState.REVOKED
        row = tables.intents.get(txn)
        granted = row is not None and row["jti"] == jti and row["status"] == "granted"
        return TokenState.FRESH if granted else TokenState.UNKNOWN

    async def consumed(self, iss, jti):
        tables = self._tables()
        for (issuer, txn), row in tables.consumptions.items():
            if issuer == iss and row["jti"] == jti:
                agent = tables.intents[txn]["agent"] if txn in tables.intents else None
                return Consumed(executor=row["executor"], intent_id=txn, agent=agent)
        return None

    def _tables(self):
        if not self._database.up:
            raise StoreUnreachable("the database is down")
        return self._database.tables

    def _stored(self, row) -> StoredIntent:
        tables = self._tables()
        iss = (row["claims"] or {}).get("iss")
        return StoredIntent(
            intent_id=row["intent_id"],
            agent=row["agent"],
            request_digest=row["request_digest"],
            idempotency_key=row["idempotency_key"],
            submission=base64.b64decode(row["submission"]),
            status=row["status"],
            reason_code=row["reason_code"],
            envelope=row["envelope"],
            claims=row["claims"],
            version=row["version"],
            created_at=datetime.fromisoformat(row["created_at"]),
            claim_by=None if row["claim_by"] is None else datetime.fromisoformat(row["claim_by"]),
            consumed=(iss, row["intent_id"]) in tables.consumptions,
            revoked=row["jti"] in tables.revoked,
        )
