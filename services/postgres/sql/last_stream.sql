-- $1 lane; $2 the one stream of it to leave out
SELECT t.stream, t.seq, t.hash
  FROM (SELECT stream FROM audit_records
         WHERE seq = 0 AND stream <> $2
           AND convert_from(body, 'UTF8')::json ->> 'lane' = $1
         ORDER BY stream DESC LIMIT 1) AS opened,
       LATERAL (SELECT stream, seq, hash FROM audit_records AS r
                 WHERE r.stream = opened.stream ORDER BY seq DESC LIMIT 1) AS t
