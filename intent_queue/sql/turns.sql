-- $1 lane; $2 the agent that had the last turn, or ''; $3 how many agents; $4 how many of each at most. In the order of
-- their turns: those behind $2, then from the start again. Each agent is one step along the index, however much it queued.
WITH RECURSIVE behind (agent, turn) AS (
    (SELECT agent, 1 FROM queue_entries
      WHERE state = 'waiting' AND lane = $1 AND agent COLLATE "C" > $2 ORDER BY agent COLLATE "C" LIMIT 1)
    UNION ALL
    SELECT following.agent, turn + 1
      FROM behind,
           LATERAL (SELECT agent FROM queue_entries
                     WHERE state = 'waiting' AND lane = $1 AND agent COLLATE "C" > behind.agent
                     ORDER BY agent COLLATE "C" LIMIT 1) AS following
     WHERE turn < $3
), again (agent, turn) AS (
    (SELECT agent, 1 FROM queue_entries
      WHERE state = 'waiting' AND lane = $1 AND agent COLLATE "C" <= $2 ORDER BY agent COLLATE "C" LIMIT 1)
    UNION ALL
    SELECT following.agent, turn + 1
      FROM again,
           LATERAL (SELECT agent FROM queue_entries
                     WHERE state = 'waiting' AND lane = $1 AND agent COLLATE "C" > again.agent
                       AND agent COLLATE "C" <= $2
                     ORDER BY agent COLLATE "C" LIMIT 1) AS following
     WHERE turn < $3 - (SELECT count(*) FROM behind)
), agents AS MATERIALIZED (
    SELECT agent, 0 AS round, turn FROM behind UNION ALL SELECT agent, 1, turn FROM again
     ORDER BY round, turn LIMIT $3
), share AS (
    -- The fewer agents, the more of each, so that their turns go round beside what the line takes.
    SELECT least($4, greatest(1 + $3 / count(*), 300 / count(*))) AS each FROM agents HAVING count(*) > 0
)
SELECT own.intent_id, agents.agent
  FROM agents,
       LATERAL (SELECT first.intent_id, first.rank_at
                  FROM (SELECT intent_id, rank_at, not_before, expires_at FROM queue_entries
                         WHERE state = 'waiting' AND lane = $1 AND agent COLLATE "C" = agents.agent
                         ORDER BY rank_at, intent_id LIMIT 4 * $4) AS first
                 WHERE first.not_before <= now() AND first.expires_at > now()
                 ORDER BY first.rank_at, first.intent_id LIMIT (SELECT each FROM share)) AS own
 ORDER BY agents.round, agents.turn, own.rank_at, own.intent_id
