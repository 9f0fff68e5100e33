-- $1-$3 after this lane, rank and id; $4 how many; $5-$8 state, lane, agent, reason; $9, $10 queued before and
-- after; $11 category; NULL for all.
-- Each part reads its own partial index; planned for its arguments each time (`plan_cache_mode`), so that an absent
-- filter costs nothing and a narrow one finds its index.
WITH line AS (
    SELECT *
      FROM queue_entries AS q
     WHERE q.state = 'waiting' AND ($5::text IS NULL OR $5 = 'waiting')
       AND (q.lane, q.rank_at, q.intent_id) > ($1::smallint, $2::timestamptz, $3::text)
       AND ($6::smallint IS NULL OR q.lane = $6)
       AND ($7::text IS NULL OR q.agent = $7)
       AND ($8::text IS NULL OR q.reason_code = $8)
       AND ($9::timestamptz IS NULL OR q.enqueued_at < $9)
       AND ($10::timestamptz IS NULL OR q.enqueued_at > $10)
       AND ($11::text IS NULL OR q.category = $11)
     ORDER BY q.lane, q.rank_at, q.intent_id
     LIMIT $4
), others AS (
    SELECT *
      FROM queue_entries AS q
     WHERE q.state IN ('held', 'parked', 'claimable')
       AND ($5::text IS NULL OR $5 NOT IN ('waiting', 'leased') AND q.state = $5)
       AND (q.lane, q.rank_at, q.intent_id) > ($1::smallint, $2::timestamptz, $3::text)
       AND ($6::smallint IS NULL OR q.lane = $6)
       AND ($7::text IS NULL OR q.agent = $7)
       AND ($8::text IS NULL OR q.reason_code = $8)
       AND ($9::timestamptz IS NULL OR q.enqueued_at < $9)
       AND ($10::timestamptz IS NULL OR q.enqueued_at > $10)
       AND ($11::text IS NULL OR q.category = $11)
     ORDER BY q.lane, q.rank_at, q.intent_id
     LIMIT $4
), leased AS (
    SELECT *
      FROM queue_entries AS q
     WHERE q.state = 'leased' AND ($5::text IS NULL OR $5 = 'leased')
       AND (q.lane, q.rank_at, q.intent_id) > ($1::smallint, $2::timestamptz, $3::text)
       AND ($6::smallint IS NULL OR q.lane = $6)
       AND ($7::text IS NULL OR q.agent = $7)
       AND ($8::text IS NULL OR q.reason_code = $8)
       AND ($9::timestamptz IS NULL OR q.enqueued_at < $9)
       AND ($10::timestamptz IS NULL OR q.enqueued_at > $10)
       AND ($11::text IS NULL OR q.category = $11)
     ORDER BY q.lane, q.rank_at, q.intent_id
     LIMIT $4
), page AS (
    SELECT *
      FROM (SELECT * FROM line UNION ALL SELECT * FROM others UNION ALL SELECT * FROM leased) AS q
     ORDER BY q.lane, q.rank_at, q.intent_id
     LIMIT $4
)
SELECT q.intent_id, q.agent, q.state, q.lane, q.rank_at, q.enqueued_at, q.expires_at, q.not_before, q.attempts,
       q.reason_code, q.lease_until, q.leased_by, i.version
  FROM page AS q JOIN intents AS i USING (intent_id)
 ORDER BY q.lane, q.rank_at, q.intent_id
