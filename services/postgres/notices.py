"""The outbox in PostgreSQL."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from services.notices.notice import Kind, Notice, Severity
from services.notices.outbox import Delivery, Standing, Unresolved

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from services.notices.outbox import Route
    from services.postgres.pool import ReadPool

_log = logging.getLogger(__name__)

_SQL: Final = Path(__file__).resolve().parent / "sql"
_LEASE: Final = (_SQL / "lease_notices.sql").read_text(encoding="utf-8")
_UNRESOLVED: Final = (_SQL / "unresolved_incidents.sql").read_text(encoding="utf-8")

_FANNED_AT_ONCE: Final = 100
_LEFT_BEHIND: Final = timedelta(seconds=30)
_KEPT: Final = timedelta(days=30)
_A_DAY: Final = timedelta(days=1)
_LONGEST_ERROR: Final = 200
#: A newer version's process may store what this one does not know; it delivers that itself.
_KNOWN: Final = [kind.value for kind in Kind]

_NEW: Final = """
    SELECT notice_id, kind, severity, dedupe_key, summary, details, at FROM notices
     WHERE fanned_out_at IS NULL AND kind = ANY ($4)
       AND (origin IS NULL OR origin = $1 OR stored_at < now() - $2::interval)
     ORDER BY notice_id LIMIT $3 FOR UPDATE SKIP LOCKED"""
_CLOSED: Final = "SELECT channel, address FROM notice_channels"
_PLACE: Final = """
    INSERT INTO notice_deliveries (notice_id, channel, state, attempts, due_at, settled_at)
    SELECT p.notice_id, p.channel, CASE WHEN p.delivered THEN 'delivered' ELSE 'due' END, p.attempts, now(),
           CASE WHEN p.delivered THEN now() END
      FROM unnest($1::text[], $2::text[], $3::int[], $4::bool[]) AS p (notice_id, channel, attempts, delivered)
        ON CONFLICT DO NOTHING"""
_FANNED: Final = "UPDATE notices SET fanned_out_at = now() WHERE notice_id = ANY ($1)"
_DELIVERED: Final = """
    UPDATE notice_deliveries SET state = 'delivered', settled_at = now(), lease_until = NULL, last_error = NULL
     WHERE notice_id = $1 AND channel = $2"""
_POSTPONE: Final = """
    UPDATE notice_deliveries SET due_at = now() + $3::interval, lease_until = NULL, last_error = $4
     WHERE notice_id = $1 AND channel = $2 AND state = 'due'"""
_GIVE_UP: Final = """
    UPDATE notice_deliveries SET state = 'dead', settled_at = now(), lease_until = NULL, last_error = $3
     WHERE notice_id = $1 AND channel = $2 AND state = 'due'"""
_CLOSE: Final = """
    INSERT INTO notice_channels (channel, address, disabled_at, reason) VALUES ($1, $2, now(), $3)
        ON CONFLICT (channel) DO UPDATE SET address = excluded.address, disabled_at = now(), reason = excluded.reason"""
_GIVE_UP_ALL: Final = """
    UPDATE notice_deliveries SET state = 'dead', settled_at = now(), lease_until = NULL, last_error = $2
     WHERE channel = $1 AND state = 'due'"""
_STANDINGS: Final = """
    SELECT d.channel, count(*) FILTER (WHERE d.state = 'due') AS due,
           coalesce(extract(epoch FROM now() - min(n.fanned_out_at) FILTER (WHERE d.state = 'due')), 0)::float8
               AS oldest_s,
           count(*) FILTER (WHERE d.state = 'dead') AS dead
      FROM notice_deliveries AS d JOIN notices AS n USING (notice_id)
     WHERE d.state = 'due' OR (d.state = 'dead' AND d.settled_at > now() - $1::interval)
     GROUP BY d.channel"""
_PRUNE: Final = """
    DELETE FROM notices WHERE notice_id IN (
        SELECT notice_id FROM notices AS n WHERE fanned_out_at < now() - $1::interval
           AND NOT EXISTS (SELECT FROM notice_deliveries AS d WHERE d.notice_id = n.notice_id AND d.state = 'due')
         LIMIT 1000)"""
_LATEST: Final = """
    SELECT n.notice_id, n.kind, n.severity, n.summary, n.at, n.fanned_out_at, d.channel, d.state, d.attempts, d.due_at,
           d.last_error
      FROM (SELECT * FROM notices ORDER BY notice_id DESC LIMIT $1) AS n
      LEFT JOIN notice_deliveries AS d USING (notice_id)
     ORDER BY n.notice_id DESC, d.channel"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One notice on one channel, for people. `channel` is None where no channel wanted it, or none was asked yet."""

    notice_id: str
    kind: str
    severity: str
    summary: str
    at: datetime
    fanned_out: bool
    channel: str | None
    state: str | None
    attempts: int | None
    last_error: str | None


class PostgresOutbox:
    """The Outbox port."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def fan_out(self, origin: str, route: Route) -> tuple[str, ...]:
        """Give new notices their deliveries. Raises: StoreUnreachable."""
        async with self._pool.connection() as connection, connection.transaction():
            rows = await connection.fetch(_NEW, origin, _LEFT_BEHIND, _FANNED_AT_ONCE, _KNOWN)
            if not rows:
                return ()
            closed = {row["channel"]: row["address"] for row in await connection.fetch(_CLOSED)}
            fanned, placed = [], []
            for row in rows:
                notice = _readable(row)
                places = () if notice is None else route(notice, closed)
                if places is not None:
                    fanned.append(row["notice_id"])
                    placed += [(row["notice_id"], place) for place in places]
            await connection.execute(
                _PLACE,
                [notice_id for notice_id, _ in placed],
                [place.channel for _, place in placed],
                [place.attempts for _, place in placed],
                [place.delivered for _, place in placed],
            )
            await connection.execute(_FANNED, fanned)
        return tuple(fanned)

    async def lease(self, channel: str, *, limit: int, lease_s: float) -> tuple[Delivery, ...]:
        """Take due deliveries of a channel. Raises: StoreUnreachable."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_LEASE, channel, limit, timedelta(seconds=lease_s), _KNOWN)
        leased = []
        for row in sorted(rows, key=itemgetter("notice_id")):
            notice = _readable(row)
            if notice is not None:
                leased.append(Delivery(notice=notice, channel=channel, attempts=row["attempts"], age_s=row["age_s"]))
        return tuple(leased)

    async def delivered(self, delivery: Delivery) -> None:
        """Settle a delivery that was taken. Raises: StoreUnreachable."""
        await self._execute(_DELIVERED, delivery.notice.notice_id, delivery.channel)

    async def postpone(self, delivery: Delivery, *, pause_s: float, why: str) -> None:
        """Have a delivery tried again later. Raises: StoreUnreachable."""
        pause = timedelta(seconds=pause_s)
        await self._execute(_POSTPONE, delivery.notice.notice_id, delivery.channel, pause, why[:_LONGEST_ERROR])

    async def give_up(self, delivery: Delivery, *, why: str) -> None:
        """Settle a delivery that will not be tried again. Raises: StoreUnreachable."""
        await self._execute(_GIVE_UP, delivery.notice.notice_id, delivery.channel, why[:_LONGEST_ERROR])

    async def close_channel(self, channel: str, *, address: str, why: str) -> None:
        """Send nothing more to this address. Raises: StoreUnreachable."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_CLOSE, channel, address, why[:_LONGEST_ERROR])
            await connection.execute(_GIVE_UP_ALL, channel, why[:_LONGEST_ERROR])

    async def unresolved(self, origin: str) -> tuple[Unresolved, ...]:
        """Return the incidents of this instance that stand open. Raises: StoreUnreachable."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_UNRESOLVED, origin)
        return tuple(Unresolved(dedupe_key=row["dedupe_key"], boundary=row["boundary"]) for row in rows)

    async def standings(self) -> dict[str, Standing]:
        """Return how each channel is doing. Raises: StoreUnreachable."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_STANDINGS, _A_DAY)
        return {row["channel"]: Standing(due=row["due"], oldest_s=row["oldest_s"], dead=row["dead"]) for row in rows}

    async def prune(self) -> None:
        """Forget settled notices that are older than a month. Raises: StoreUnreachable."""
        await self._execute(_PRUNE, _KEPT)

    async def latest(self, limit: int) -> tuple[Listed, ...]:
        """Return the newest notices and what became of them, newest first. Raises: StoreUnreachable."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_LATEST, limit)
        return tuple(
            Listed(
                notice_id=row["notice_id"],
                kind=row["kind"],
                severity=row["severity"],
                summary=row["summary"],
                at=row["at"],
                fanned_out=row["fanned_out_at"] is not None,
                channel=row["channel"],
                state=row["state"],
                attempts=row["attempts"],
                last_error=row["last_error"],
            )
            for row in rows
        )

    async def _execute(self, statement: str, *values: object) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(statement, *values)


def _readable(row: asyncpg.Record) -> Notice | None:
    """Return the stored notice. One that nothing of ours wrote goes nowhere, and stands in nobody's way."""
    try:
        return Notice(
            notice_id=row["notice_id"],
            kind=Kind(row["kind"]),
            severity=Severity(row["severity"]),
            dedupe_key=row["dedupe_key"],
            summary=row["summary"],
            at=row["at"],
            details=orjson.loads(row["details"]),
        )
    except (ValueError, TypeError, AttributeError) as error:
        _log.error("the stored notice %s cannot be read: %s", row["notice_id"], error)
        return None
