-- $1 intent ids, locked by this transaction, in the order of their slots; $2 worker; $3 seconds
UPDATE queue_entries AS q
   SET state = 'leased', leased_from = q.state, leased_by = $2, epoch = q.epoch + 1,
       lease_until = now() + make_interval(secs => $3)
  FROM unnest($1::text[]) WITH ORDINALITY AS picked (intent_id, place), intents AS i
 WHERE q.intent_id = picked.intent_id AND i.intent_id = picked.intent_id
RETURNING q.intent_id, q.agent, q.lane, q.rank_at, q.enqueued_at, q.expires_at, q.attempts, q.epoch, i.version,
          i.submission, q.reason_code, q.leased_from, picked.place
