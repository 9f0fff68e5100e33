-- $1 intent ids. Those of them that still wait and that nobody else is claiming.
SELECT intent_id
  FROM queue_entries
 WHERE intent_id = ANY ($1::text[]) AND state = 'waiting' AND not_before <= now() AND expires_at > now()
   FOR UPDATE SKIP LOCKED
