-- $1 how many; not locked, see `hold`
SELECT intent_id, lane, agent
  FROM queue_entries
 WHERE state = 'waiting' AND not_before <= now() AND expires_at > now()
 ORDER BY enqueued_at, intent_id
 LIMIT $1
