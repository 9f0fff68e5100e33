-- $1 lane; $2 the one stream of it to leave out; $3 other streams. The table is short: each row looks up who opened
-- its stream.
SELECT r.stream, r.seq, r.hash, r.body
  FROM refused_effects AS f
  JOIN audit_records AS r USING (stream, seq)
  JOIN audit_records AS o ON o.stream = f.stream AND o.seq = 0
 WHERE f.stream = ANY ($3::text[])
    OR f.stream <> $2 AND convert_from(o.body, 'UTF8')::json ->> 'lane' = $1
 ORDER BY r.stream, r.seq
