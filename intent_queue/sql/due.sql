-- $1 how many: intents whose time is up, whatever they wait for. A late allow is due at its `claim_by`.
WITH ended AS MATERIALIZED (
    SELECT intent_id, expires_at AS deadline
      FROM queue_entries
     WHERE state IN ('waiting', 'held', 'parked') AND expires_at <= now() AND not_before <= now()
     ORDER BY expires_at
     LIMIT $1
       FOR UPDATE SKIP LOCKED
), unclaimed AS MATERIALIZED (
    SELECT q.intent_id, i.claim_by AS deadline
      FROM intents AS i
      JOIN queue_entries AS q USING (intent_id)
     WHERE i.status = 'claimable' AND i.claim_by <= now() AND q.state = 'claimable' AND q.not_before <= now()
     ORDER BY i.claim_by
     LIMIT $1
       FOR UPDATE OF q SKIP LOCKED
)
SELECT intent_id FROM (SELECT * FROM ended UNION ALL SELECT * FROM unclaimed) AS due
 ORDER BY deadline, intent_id
 LIMIT $1
