"""The queue in PostgreSQL: claims, leases, order, listing and counts. Never a final outcome.

Outcomes ride in the recorder's transaction, fenced by the epoch that a lease carries. PostgreSQL's clock decides what
is due and which lease ran out, so that workers need not agree on the time.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import asyncpg

from intent_queue import order
from intent_queue.bounds import Depth, LaneDepth
from intent_queue.driver import UNREACHABLE
from intent_queue.item import ClaimedItem, Cursor, Filters, Page, QueuedItem, Reclaimed
from intent_queue.order import Candidate, Lane
from intent_queue.states import MAX_ATTEMPTS, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

LEASE_S: Final = 30.0
POSITION_CAP: Final = 10_000
RECLAIM_LIMIT: Final = 1_000

# A worker that stalls between two statements must not keep the recorder waiting for its rows.
_BEGIN: Final = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '1s'"
_LONG_AGO: Final = datetime(1, 1, 1, tzinfo=UTC)


def _sql(name: str) -> str:
    return files("intent_queue").joinpath("sql", f"{name}.sql").read_text("utf-8")


_FIRST_IN_LINE: Final = _sql("first_in_line")
_OLDEST: Final = _sql("oldest")
_TURNS: Final = _sql("turns")
_HOLD: Final = _sql("hold")
_DUE: Final = _sql("due")
_LEASE: Final = _sql("lease")
_RECLAIM: Final = _sql("reclaim")
_RELEASE: Final = _sql("release")
_ABANDON: Final = _sql("abandon")
_EXTEND: Final = _sql("extend")
_POSITION: Final = _sql("position")
_DEPTHS: Final = _sql("depths")
_PAGE: Final = _sql("page")
_COUNT_FOR: Final = _sql("count_for")
_DUPLICATE: Final = _sql("duplicate")


class QueueUnavailable(Exception):
    """PostgreSQL did not do its part in time. What was asked may have happened; the epoch makes that harmless."""


class QueueStore:
    """The queue's table. Safe for concurrent use. Every method raises QueueUnavailable, `deadline_s` per statement."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], *, deadline_s: float = 2.0) -> None:
        self._pool = pool
        self._deadline_s = deadline_s
        self._slot = 0
        self._served: dict[Lane, str] = {}

    async def claim(self, limit: int, worker: str, lease_s: float = LEASE_S) -> list[ClaimedItem]:
        """Lease up to `limit` due intents to decide, in the order of their slots. Two claims never share an intent."""
        slots = [order.slot(self._slot + n) for n in range(limit)]
        async with self._transaction() as connection:
            in_line = await self._candidates(connection, _FIRST_IN_LINE, limit)
            by_age = await self._candidates(connection, _OLDEST, limit) if order.Slot.OLDEST in slots else []
            turns = await self._turns(connection, in_line, slots)
            picked = order.pick(self._slot, limit, in_line, by_age, turns)
            held = await self._held(connection, in_line, picked)
            items = await self._lease(connection, held, worker, lease_s)
        self._slot = (self._slot + len(items)) % order.SLOTS
        self._served = turns.served
        return items

    async def expired(self, limit: int, worker: str, lease_s: float = LEASE_S) -> list[ClaimedItem]:
        """Lease up to `limit` intents whose time is up, in any waiting state, so that one worker records each once."""
        async with self._transaction() as connection:
            due = await self._ids(connection, _DUE, limit)
            return await self._lease(connection, due, worker, lease_s)

    async def reclaim_expired_leases(self, limit: int = RECLAIM_LIMIT) -> Reclaimed:
        """Take back leases that ran out, counting an attempt; the fifth parks what would wait again."""
        async with self._connection() as connection:
            rows = await connection.fetch(_RECLAIM, limit, MAX_ATTEMPTS, timeout=self._deadline_s)
        return Reclaimed(returned=len(rows), parked=_parked(rows))

    async def release(
        self, intent_id: str, epoch: int, not_before: datetime | None = None, *, count_attempt: bool
    ) -> State | None:
        """Give one lease back and return the state it is in now; None if the lease was lost.

        `not_before` defers the next try; None leaves it due.
        """
        async with self._connection() as connection:
            rows = await connection.fetch(
                _RELEASE,
                [intent_id],
                [epoch],
                not_before,
                int(count_attempt),
                MAX_ATTEMPTS,
                timeout=self._deadline_s,
            )
        return State(rows[0]["state"]) if rows else None

    async def give_back(self, items: Iterable[ClaimedItem], not_before: datetime | None = None) -> int:
        """Give many leases back at once without counting an attempt; return how many still held.

        `not_before` defers the next try; None leaves them due.
        """
        leases = [(item.intent_id, item.epoch) for item in items]
        if not leases:
            return 0
        ids, epochs = zip(*leases, strict=True)
        async with self._connection() as connection:
            rows = await connection.fetch(_RELEASE, ids, epochs, not_before, 0, MAX_ATTEMPTS, timeout=self._deadline_s)
        return len(rows)

    async def abandon(self, worker: str) -> int:
        """Give back every lease that names `worker`, without counting an attempt; return how many there were.

        Only for the worker itself, while it decides nothing: a claim whose commit was in doubt may have left leases
        that nobody knows of.
        """
        async with self._connection() as connection:
            return len(await connection.fetch(_ABANDON, worker, timeout=self._deadline_s))

    async def extend(self, intent_id: str, epoch: int, lease_s: float = LEASE_S) -> bool:
        """Let a lease run `lease_s` from now; False if it was lost or had run out."""
        async with self._connection() as connection:
            row = await connection.fetchrow(_EXTEND, intent_id, epoch, lease_s, timeout=self._deadline_s)
        return row is not None

    async def position(self, intent_id: str) -> int | None:
        """Return the place in line from 1, None if it is not in line; `POSITION_CAP` stands for itself and beyond."""
        async with self._connection() as connection:
            place = await connection.fetchval(_POSITION, intent_id, POSITION_CAP, timeout=self._deadline_s)
        return None if place is None else int(place)

    async def depths(self) -> Depth:
        """Count everything, in one pass over the table."""
        async with self._connection() as connection:
            rows = await connection.fetch(_DEPTHS, timeout=self._deadline_s)
        by_agent: dict[str, int] = {}
        by_state: dict[State, int] = {}
        by_lane = dict.fromkeys(Lane, LaneDepth(count=0, oldest_age_s=0.0))
        for row in rows:
            agent, lane, state, entries = row["agent"], Lane(row["lane"]), State(row["state"]), int(row["entries"])
            by_agent[agent] = by_agent.get(agent, 0) + entries
            by_state[state] = by_state.get(state, 0) + entries
            if state in (State.WAITING, State.LEASED):
                so_far = by_lane[lane]
                by_lane[lane] = LaneDepth(
                    count=so_far.count + entries, oldest_age_s=max(so_far.oldest_age_s, float(row["oldest_age_s"]))
                )
        return Depth(by_agent=by_agent, by_lane=by_lane, by_state=by_state)

    async def page(self, *, after: Cursor | None = None, limit: int = 100, filters: Filters | None = None) -> Page:
        """Return up to `limit` rows behind `after`, in the queue's order."""
        chosen = filters if filters is not None else Filters()
        place = (after.lane, after.rank_at, after.intent_id) if after is not None else (-1, _LONG_AGO, "")
        async with self._transaction() as connection:
            await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan", timeout=self._deadline_s)
            rows = await connection.fetch(
                _PAGE,
                *place,
                limit + 1,
                chosen.state,
                chosen.lane,
                chosen.agent,
                chosen.reason_code,
                chosen.queued_before,
                chosen.queued_after,
                chosen.category,
                timeout=self._deadline_s,
            )
        items = [_queued(row) for row in rows[:limit]]
        return Page(items=items, after=items[-1].cursor if len(rows) > limit else None)

    async def count_for(self, agent: str) -> int:
        """Return how many rows of `agent` the queue holds, whatever their state."""
        async with self._connection() as connection:
            return int(await connection.fetchval(_COUNT_FOR, agent, timeout=self._deadline_s))

    async def find_duplicate(self, agent: str, act_hash: str) -> str | None:
        """Return the id of the agent's oldest undecided intent for the same action, if one waits."""
        async with self._connection() as connection:
            found = await connection.fetchval(_DUPLICATE, agent, act_hash, timeout=self._deadline_s)
        return None if found is None else str(found)

    async def _candidates(self, connection: Connection, sql: str, limit: int) -> list[Candidate]:
        rows = await connection.fetch(sql, limit, timeout=self._deadline_s)
        return [Candidate(row["intent_id"], Lane(row["lane"]), row["agent"]) for row in rows]

    async def _turns(
        self, connection: Connection, in_line: Sequence[Candidate], slots: Sequence[order.Slot]
    ) -> order.Turns:
        """Return the turns of every lane in line. The last of them may go on behind what was read."""
        turns, count = order.Turns(self._served), slots.count(order.Slot.TURN)
        if not in_line or count == 0:
            return turns
        last = in_line[-1].lane if len(in_line) == len(slots) else None
        turns.add(one for one in in_line if one.lane is not last)
        if last is not None:
            served = self._served.get(last, "")
            rows = await connection.fetch(_TURNS, last, served, count, len(slots), timeout=self._deadline_s)
            turns.add(Candidate(row["intent_id"], last, row["agent"]) for row in rows)
        return turns

    async def _held(
        self, connection: Connection, in_line: Sequence[Candidate], picked: Sequence[Candidate]
    ) -> list[str]:
        """Return who of the picked is locked now. The line is; of the others only those picked, if nobody else is."""
        locked = {one.intent_id for one in in_line}
        others = [one.intent_id for one in picked if one.intent_id not in locked]
        if others:
            rows = await connection.fetch(_HOLD, others, timeout=self._deadline_s)
            locked |= {row["intent_id"] for row in rows}
        return [one.intent_id for one in picked if one.intent_id in locked]

    async def _ids(self, connection: Connection, sql: str, limit: int) -> list[str]:
        rows = await connection.fetch(sql, limit, timeout=self._deadline_s)
        return [row["intent_id"] for row in rows]

    async def _lease(
        self, connection: Connection, intent_ids: Sequence[str], worker: str, lease_s: float
    ) -> list[ClaimedItem]:
        if not intent_ids:
            return []
        rows = await connection.fetch(_LEASE, intent_ids, worker, lease_s, timeout=self._deadline_s)
        return [_claimed(row) for row in sorted(rows, key=lambda row: int(row["place"]))]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        # The time to acquire also bounds the release, which waits for a cancelled statement.
        try:
            async with self._pool.acquire(timeout=self._deadline_s) as connection:
                try:
                    yield connection
                except UNREACHABLE as error:
                    if not isinstance(error, asyncpg.PostgresError):
                        with suppress(asyncpg.InterfaceError):  # it is gone already
                            connection.terminate()  # what it holds of the server may be garbled
                    raise
        except UNREACHABLE as error:
            raise QueueUnavailable(f"the queue's database failed: {type(error).__name__}") from error

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        """Commit at the end; after any failure throw the connection away, so that no ROLLBACK can hang."""
        async with self._connection() as connection:
            try:
                await connection.execute(_BEGIN, timeout=self._deadline_s)
                yield connection
                await connection.execute("COMMIT", timeout=self._deadline_s)
            except BaseException:
                connection.terminate()
                raise


def _claimed(row: asyncpg.Record) -> ClaimedItem:
    return ClaimedItem(
        intent_id=row["intent_id"],
        agent=row["agent"],
        lane=Lane(row["lane"]),
        rank_at=row["rank_at"],
        enqueued_at=row["enqueued_at"],
        expires_at=row["expires_at"],
        attempts=row["attempts"],
        epoch=row["epoch"],
        version=row["version"],
        submission=row["submission"],
        reason_code=row["reason_code"],
        leased_from=State(row["leased_from"]),
    )


def _queued(row: asyncpg.Record) -> QueuedItem:
    return QueuedItem(
        intent_id=row["intent_id"],
        agent=row["agent"],
        state=State(row["state"]),
        lane=Lane(row["lane"]),
        rank_at=row["rank_at"],
        enqueued_at=row["enqueued_at"],
        expires_at=row["expires_at"],
        not_before=row["not_before"],
        attempts=row["attempts"],
        reason_code=row["reason_code"],
        lease_until=row["lease_until"],
        leased_by=row["leased_by"],
        version=row["version"],
    )


def _parked(rows: Iterable[asyncpg.Record]) -> list[str]:
    return [row["intent_id"] for row in rows if row["state"] == State.PARKED]
