"""Reads of the changes of waiting intents, and the removal of old ones."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from services.changes import Change, Page, Position
from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from services.postgres.pool import ReadPool

_log = logging.getLogger(__name__)

#: Changes in one page.
LIMIT: Final = 1_000
#: How long changes are kept: longer than a delivery is tried, and than a client is expected to be away.
KEPT_HOURS: Final = 72
_REMOVE_EVERY_S: Final = 60.0
_REMOVE_LIMIT: Final = 5_000

_HEAD: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
# One row at least: the oldest transaction that still runs. What lies below it is complete.
_AFTER: Final = """
SELECT h.xmin::text AS xmin, e.xid::text AS xid, e.id, e.agent, e.intent_id, e.version, e.status, e.envelope,
       e.claim_by, e.xid < h.xmin AS settled
  FROM (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS xmin) AS h
  LEFT JOIN LATERAL (SELECT * FROM intent_events AS n WHERE (n.xid, n.id) > ($1::text::xid8, $2::bigint)
                      ORDER BY n.xid, n.id LIMIT $3) AS e ON true
 ORDER BY e.xid, e.id
"""
_BOUNDS: Final = """
SELECT r.xid::text AS xid, r.id, pg_snapshot_xmax(pg_current_snapshot())::text AS xmax FROM intent_events_removed AS r
"""
_OF_AGENT: Final = """
SELECT e.xid::text AS xid, e.id, e.agent, e.intent_id, e.version, e.status, e.envelope, e.claim_by
  FROM intent_events AS e
 WHERE e.agent = $1 AND (e.xid, e.id) > ($2::text::xid8, $3::bigint)
   AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
 ORDER BY e.xid, e.id LIMIT $4
"""
_OF_INTENT: Final = """
SELECT e.xid::text AS xid, e.id, e.agent, e.intent_id, e.version, e.status, e.envelope, e.claim_by
  FROM intent_events AS e
 WHERE e.agent = $1 AND e.intent_id = $5 AND (e.xid, e.id) > ($2::text::xid8, $3::bigint)
   AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
 ORDER BY e.xid, e.id LIMIT $4
"""
_DECIDED: Final = """
SELECT '0' AS xid, 0 AS id, i.agent, i.intent_id, i.version, i.status, i.envelope, i.claim_by
  FROM intents AS i WHERE i.intent_id = ANY($1) AND i.status NOT IN ('queued', 'held')
"""
_REMOVE: Final = "SELECT remove_old_events(now() - make_interval(hours => $1), $2)"


class PostgresChanges:
    """The ChangeFeed port on PostgreSQL."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def head(self) -> Position:
        """Return a position that every change which is not committed yet comes after."""
        async with self._pool.connection() as connection:
            return Position(int(await connection.fetchval(_HEAD)), 0)

    async def after(self, position: Position) -> Page:
        """Return what came after `position`, of all agents."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_AFTER, str(position.xid), position.number, LIMIT)
        found = [(_change(row), row["settled"]) for row in rows if row["xid"] is not None]
        settled = [change for change, is_settled in found if is_settled]
        full = len(found) == LIMIT
        # Below the oldest running transaction nothing is left, unless the page was too small for it.
        end = Position(int(rows[0]["xmin"]), 0)
        if full:
            end = settled[-1].position if settled else position
        early = [change for change, is_settled in found if not is_settled]
        return Page(settled=settled, early=early, next=max(position, end), more=full and not early)

    async def missed(self, position: Position, *, agent: str, intent_id: str | None) -> Page | None:
        """Return an agent's settled changes after `position`."""
        arguments = (agent, str(position.xid), position.number, LIMIT)
        async with self._pool.connection() as connection:
            if intent_id is None:
                rows = await connection.fetch(_OF_AGENT, *arguments)
            else:
                rows = await connection.fetch(_OF_INTENT, *arguments, intent_id)
            # Asked after the rows: what was removed meanwhile is noticed.
            bounds = await connection.fetchrow(_BOUNDS)
        if bounds is None or position < Position(int(bounds["xid"]), bounds["id"]):
            return None
        if position.xid > int(bounds["xmax"]):
            return None  # a position of another database
        changes = [_change(row) for row in rows]
        end = changes[-1].position if changes else position
        return Page(settled=changes, early=(), next=end, more=len(changes) == LIMIT)

    async def decided(self, intent_ids: Sequence[str]) -> Sequence[Change]:
        """Return which of these intents are no longer undecided."""
        async with self._pool.connection() as connection:
            return [_change(row) for row in await connection.fetch(_DECIDED, list(intent_ids))]

    async def remove_old(self) -> int:
        """Remove a bounded number of changes that are old enough, and return how many."""
        async with self._pool.connection() as connection:
            return int(await connection.fetchval(_REMOVE, KEPT_HOURS, _REMOVE_LIMIT))

    async def run(self) -> None:
        """Remove old changes until cancelled."""
        while True:
            removed = 0
            try:
                removed = await self.remove_old()
            except StoreUnreachable as error:
                _log.info("old events are kept for now: %s", error)
            await asyncio.sleep(_REMOVE_EVERY_S if removed < _REMOVE_LIMIT else 1.0)


def _change(row: asyncpg.Record) -> Change:
    return Change(
        position=Position(int(row["xid"]), row["id"]),
        agent=row["agent"],
        intent_id=row["intent_id"],
        version=row["version"],
        status=row["status"],
        stored=row["envelope"],
        claim_by=row["claim_by"],
    )
