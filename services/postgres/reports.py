"""What each process sees of its boundaries, for the others to read; and who holds an old snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from intent_queue.pace import Live

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from services.postgres.pool import ReadPool

#: A report older than this is of a process that is gone, or cannot reach the store, and decides nothing either.
FRESH_S: Final = 5.0

_PUT: Final = """
INSERT INTO boundary_reports (process, not_closed, live, live_slow, reported_at)
VALUES ($1, $2, $3, $4, clock_timestamp())
ON CONFLICT (process) DO UPDATE
   SET not_closed = excluded.not_closed, live = excluded.live, live_slow = excluded.live_slow,
       reported_at = excluded.reported_at
"""
_FORGET: Final = """
DELETE FROM boundary_reports WHERE process = $1 OR reported_at < clock_timestamp() - interval '1 hour'
"""
_FRESH: Final = """
SELECT process, not_closed, live, live_slow FROM boundary_reports
 WHERE reported_at > clock_timestamp() - make_interval(secs => $1)
"""
_HOLDERS: Final = "SELECT kind, name, horizon, held_s FROM snapshot_holders()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One process's own view. `not_closed` names boundaries; `live` is said of its live submissions of late."""

    process: str
    not_closed: frozenset[str]
    live: Live


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Something that keeps row versions from being cleaned away that ended after `horizon`, a transaction's number.

    `held_s` is None where PostgreSQL does not say since when.
    """

    kind: str
    name: str
    horizon: str
    held_s: float | None


class PostgresReports:
    """The tables behind both. Every method raises StoreUnreachable."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def put(self, report: Report) -> None:
        """Replace a process's report."""
        async with self._pool.connection() as connection:
            await connection.execute(
                _PUT,
                report.process,
                sorted(report.not_closed),
                report.live is not Live.NONE,
                report.live is Live.SLOW,
            )

    async def forget(self, process: str) -> None:
        """Remove a process's report, and those of processes long gone."""
        async with self._pool.connection() as connection:
            await connection.execute(_FORGET, process)

    async def fresh(self) -> Sequence[Report]:
        """Return every report that is younger than `FRESH_S` by the database's clock."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_FRESH, FRESH_S)
        return [
            Report(process=row["process"], not_closed=frozenset(row["not_closed"]), live=_live(row)) for row in rows
        ]

    async def holders(self) -> Sequence[Holder]:
        """Return who holds a snapshot in this database, this connection left out."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(_HOLDERS)
        return [
            Holder(kind=row["kind"], name=row["name"], horizon=row["horizon"], held_s=row["held_s"]) for row in rows
        ]


def _live(row: asyncpg.Record) -> Live:
    if row["live_slow"]:
        return Live.SLOW
    return Live.QUICK if row["live"] else Live.NONE
