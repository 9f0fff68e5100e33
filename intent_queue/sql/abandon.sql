-- $1 worker: every lease that names it goes back where it came from, uncounted.
-- Locked in the order in which the recorder locks, so that the two cannot wait for each other.
WITH held AS MATERIALIZED (
    SELECT l.intent_id
      FROM queue_entries AS l
     WHERE l.state = 'leased' AND l.lease_until IS NOT NULL AND l.leased_by = $1
     ORDER BY l.intent_id
       FOR UPDATE OF l
)
UPDATE queue_entries AS q
   SET state = q.leased_from, lease_until = NULL, leased_by = NULL
  FROM held
 WHERE q.intent_id = held.intent_id
RETURNING q.intent_id
