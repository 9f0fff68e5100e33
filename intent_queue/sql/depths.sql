-- One pass over the table for every count.
SELECT agent, lane, state, count(*) AS entries,
       extract(epoch FROM now() - min(enqueued_at))::float8 AS oldest_age_s
  FROM queue_entries
 GROUP BY agent, lane, state
