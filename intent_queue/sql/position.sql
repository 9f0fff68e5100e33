-- $1 intent id; $2 how far to count. One that is being decided is at 1; one that is not in line has no position.
SELECT CASE WHEN me.state = 'leased' THEN 1
            ELSE 1 + (SELECT count(*)
                        FROM (SELECT 1
                                FROM queue_entries AS q
                               WHERE q.state = 'waiting'
                                 AND (q.lane, q.rank_at, q.intent_id) < (me.lane, me.rank_at, me.intent_id)
                               LIMIT $2 - 1) AS ahead)
       END
  FROM queue_entries AS me
 WHERE me.intent_id = $1 AND (me.state = 'waiting' OR me.state = 'leased' AND me.leased_from = 'waiting')
