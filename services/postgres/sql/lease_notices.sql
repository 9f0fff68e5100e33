-- $1 channel; $2 at most; $3 for how long; $4 kinds. Of one dedupe key only the first that is not settled, leased or not.
WITH ready AS (
    SELECT d.notice_id, d.channel
      FROM notice_deliveries AS d JOIN notices AS n USING (notice_id)
     WHERE d.channel = $1 AND d.state = 'due' AND d.due_at <= now() AND n.kind = ANY ($4)
       AND (d.lease_until IS NULL OR d.lease_until < now())
       AND NOT EXISTS (SELECT FROM notices AS earlier JOIN notice_deliveries AS e USING (notice_id)
                        WHERE earlier.dedupe_key = n.dedupe_key AND earlier.notice_id < n.notice_id
                          AND e.channel = $1 AND e.state = 'due')
     ORDER BY d.due_at, d.notice_id LIMIT $2
       FOR UPDATE OF d SKIP LOCKED
)
UPDATE notice_deliveries AS d SET lease_until = now() + $3::interval, attempts = d.attempts + 1
  FROM ready JOIN notices AS n USING (notice_id)
 WHERE d.notice_id = ready.notice_id AND d.channel = ready.channel
RETURNING n.notice_id, n.kind, n.severity, n.dedupe_key, n.summary, n.details, n.at, d.attempts,
          extract(epoch FROM now() - n.fanned_out_at)::float8 AS age_s
