-- $1 the instance. Incidents that were opened within a week and not resolved.
SELECT dedupe_key, details->>'boundary' AS boundary
  FROM notices
 WHERE origin = $1 AND kind IN ('incident.opened', 'incident.resolved') AND at > now() - interval '7 days'
   AND details ? 'boundary'
 GROUP BY dedupe_key, details->>'boundary'
HAVING bool_or(kind = 'incident.opened') AND NOT bool_or(kind = 'incident.resolved')
