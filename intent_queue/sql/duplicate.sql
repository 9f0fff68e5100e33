-- $1 agent; $2 action digest. The same action, still undecided and in time.
SELECT intent_id
  FROM queue_entries
 WHERE agent = $1 AND act_hash = $2 AND state IN ('waiting', 'leased', 'held', 'parked') AND expires_at > now()
 ORDER BY enqueued_at, intent_id
 LIMIT 1
