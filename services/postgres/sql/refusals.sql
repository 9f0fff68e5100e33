-- $1 streams
SELECT r.stream, r.seq, r.hash, r.body
  FROM refused_effects AS f JOIN audit_records AS r USING (stream, seq)
 WHERE f.stream = ANY ($1::text[])
 ORDER BY r.stream, r.seq
