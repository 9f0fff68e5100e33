"""What candidates answered in the shadow: counts of every process, and the latest differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from services.decision.replay import looseness_of
from services.decision.simulation import answer_json, change_name
from services.outcome import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from holdfast.strict_json import JSON

    from services.decision.replay import Answer
    from services.postgres.pool import ReadPool

#: Differences that are kept of one run.
MAX_KEPT: Final = 1_000
COUNTS: Final = ("same", "looser", "stricter", "other", "errors")

_ADD: Final = """
INSERT INTO policy_shadow_counts AS c (shadow, instance, same, looser, stricter, other, errors)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (shadow, instance) DO UPDATE
   SET same = c.same + excluded.same, looser = c.looser + excluded.looser, stricter = c.stricter + excluded.stricter,
       other = c.other + excluded.other, errors = c.errors + excluded.errors
"""
_DIFFER: Final = """
INSERT INTO policy_shadow_differences (shadow, instance, at, agent, act_hash, document)
VALUES ($1, $2, $3, $4, $5, $6::jsonb)
"""
_PRUNE: Final = """
DELETE FROM policy_shadow_differences
 WHERE shadow = $1
   AND at < (SELECT at FROM policy_shadow_differences WHERE shadow = $1 ORDER BY at DESC OFFSET $2 LIMIT 1)
"""
_RUN: Final = """
SELECT id, digest, started_at, started_by FROM policy_shadow WHERE digest IS NOT NULL ORDER BY id DESC LIMIT 1
"""
_RUNNING: Final = "SELECT digest IS NOT NULL FROM policy_shadow ORDER BY id DESC LIMIT 1"
_COUNTS: Final = """
SELECT instance, same, looser, stricter, other, errors FROM policy_shadow_counts WHERE shadow = $1 ORDER BY instance
"""
# What was asked while the same action waited was never an intent of its own: the one that waited stands for it.
_DIFFERENCES: Final = """
SELECT d.at, d.agent, d.act_hash, d.document,
       coalesce(
           (SELECT i.intent_id FROM intents i WHERE i.intent_id = d.document->>'intent_id'),
           (SELECT i.intent_id FROM intents i
             WHERE i.agent = d.agent AND i.act_hash = d.act_hash AND i.created_at <= d.at
             ORDER BY i.created_at DESC LIMIT 1)) AS intent_id
  FROM policy_shadow_differences d WHERE d.shadow = $1
 ORDER BY d.document->>'change' <> 'looser', d.at DESC LIMIT $2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowDifference:
    """One evaluation that the candidate would have answered differently."""

    run: int
    at: datetime
    intent_id: str
    agent: str
    act_hash: str
    action: str
    old: Answer
    new: Answer

    def to_json(self) -> dict[str, JSON]:
        """Return what is stored of it."""
        return {
            "intent_id": self.intent_id,
            "action": self.action,
            "change": change_name(looseness_of(self.old, self.new)),
            "old": answer_json(self.old),
            "new": answer_json(self.new),
        }


class PostgresShadows:
    """The shadow's tables. Every method raises StoreUnreachable."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool

    async def add(
        self, instance: str, counts: Mapping[tuple[int, str], int], differences: Sequence[ShadowDifference]
    ) -> None:
        """Add what one process counted since it last did."""
        async with self._pool.connection() as connection, connection.transaction():
            for run in sorted({run for run, _ in counts}):
                await connection.execute(_ADD, run, instance, *(counts.get((run, name), 0) for name in COUNTS))
            await connection.executemany(
                _DIFFER,
                [
                    (found.run, instance, found.at, found.agent, found.act_hash, orjson.dumps(found.to_json()).decode())
                    for found in differences
                ],
            )
            for run in sorted({found.run for found in differences}):
                await connection.execute(_PRUNE, run, MAX_KEPT)

    async def report(self, *, limit: int = 50) -> dict[str, JSON] | None:
        """Return the latest run over all processes, looser differences first; None if there never was one."""
        async with self._pool.connection() as connection:
            run = await connection.fetchrow(_RUN)
            if run is None:
                return None
            running = await connection.fetchval(_RUNNING)
            counts = await connection.fetch(_COUNTS, run["id"])
            differences = await connection.fetch(_DIFFERENCES, run["id"], limit)
        return {
            "candidate": run["digest"],
            "running": bool(running),
            "started_at": rfc3339(run["started_at"]),
            "started_by": run["started_by"],
            **{name: sum(row[name] for row in counts) for name in COUNTS},
            "processes": [{"instance": row["instance"], **{name: row[name] for name in COUNTS}} for row in counts],
            "differences": [
                {
                    "agent": row["agent"],
                    "act_hash": row["act_hash"],
                    "at": rfc3339(row["at"]),
                    **orjson.loads(row["document"]),
                    "intent_id": row["intent_id"],
                }
                for row in differences
            ],
        }
