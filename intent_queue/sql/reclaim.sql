-- $1 how many; $2 attempts that park. Leases that ran out go back where they came from, one attempt later.
WITH lost AS MATERIALIZED (
    SELECT intent_id
      FROM queue_entries
     WHERE state = 'leased' AND lease_until <= now()
     ORDER BY lease_until
     LIMIT $1
       FOR UPDATE SKIP LOCKED
)
UPDATE queue_entries AS q
   SET state = CASE WHEN q.leased_from = 'waiting' AND q.attempts + 1 >= $2 THEN 'parked' ELSE q.leased_from END,
       attempts = least(q.attempts + 1, 32767), lease_until = NULL, leased_by = NULL
  FROM lost
 WHERE q.intent_id = lost.intent_id
RETURNING q.intent_id, q.state
