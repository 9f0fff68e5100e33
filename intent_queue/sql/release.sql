-- $1 intent ids, $2 their epochs; $3 not before, or NULL to leave it; $4 attempts to count, 0 or 1; $5 attempts that park
-- Locked in the order in which the recorder locks, so that the two cannot wait for each other.
WITH held AS MATERIALIZED (
    SELECT q.intent_id
      FROM queue_entries AS q
      JOIN unnest($1::text[], $2::bigint[]) AS lease (intent_id, epoch) USING (intent_id, epoch)
     WHERE q.state = 'leased'
     ORDER BY q.intent_id
       FOR UPDATE OF q
)
UPDATE queue_entries AS q
   SET state = CASE WHEN q.leased_from = 'waiting' AND $4 > 0 AND q.attempts + $4 >= $5 THEN 'parked'
                    ELSE q.leased_from END,
       attempts = least(q.attempts + $4, 32767), not_before = coalesce($3, q.not_before),
       lease_until = NULL, leased_by = NULL
  FROM held
 WHERE q.intent_id = held.intent_id
RETURNING q.intent_id, q.state
