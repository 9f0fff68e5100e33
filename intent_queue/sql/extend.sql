-- $1 intent id; $2 epoch; $3 seconds. A lease that ran out is lost even if nobody noticed yet.
UPDATE queue_entries
   SET lease_until = now() + make_interval(secs => $3)
 WHERE intent_id = $1 AND epoch = $2 AND state = 'leased' AND lease_until > now()
RETURNING intent_id
