-- $1 agent
SELECT count(*) FROM queue_entries WHERE agent = $1
