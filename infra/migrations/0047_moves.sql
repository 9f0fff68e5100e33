-- Settlements compare the lease's epoch with the queue's row by its key. As a subquery on the state it was planned as a walk
-- through everything that is leased, for each intent that is settled (source: docs/benchmarks.md, the queue).

-- Stored intents that change status, if nobody moved them in between.
CREATE OR REPLACE FUNCTION move_ordinary_intents(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    -- The intents are locked by the caller. With these locked too, the conditions below hold until the commit, a
    -- lease's epoch included.
    PERFORM FROM queue_entries
      WHERE intent_id IN (SELECT e->>'intent_id' FROM jsonb_array_elements(p_list) AS e)
      ORDER BY intent_id FOR UPDATE;

    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (intent_id) *
          FROM jsonb_to_recordset(p_list) AS e (
                   i int, intent_id text, expect_version int, status text, reason_code text, envelope jsonb,
                   decided_at timestamptz, claims jsonb, jti text, claim_by timestamptz, epoch bigint,
                   queue_state text, not_before timestamptz)
         ORDER BY intent_id, i
    ), moved AS (
        UPDATE intents AS t
           SET status = e.status, reason_code = e.reason_code, envelope = e.envelope, claims = e.claims,
               jti = e.jti, decided_at = e.decided_at, claim_by = e.claim_by, version = t.version + 1
          FROM e LEFT JOIN queue_entries AS q ON q.intent_id = e.intent_id
         WHERE t.intent_id = e.intent_id AND t.version = e.expect_version
           -- Both sides of the OR keep this off the scan of `q`, which thus has nothing but the key to go by.
           AND (e.epoch IS NULL OR (q.state = 'leased' AND q.epoch = e.epoch))
           AND (e.jti IS NULL OR NOT EXISTS (SELECT FROM intents AS o
                                              WHERE o.jti = e.jti AND o.intent_id <> e.intent_id))
     RETURNING e.i, e.intent_id, e.queue_state, e.not_before, e.reason_code
    ), gone AS (
        DELETE FROM queue_entries AS q USING moved
         WHERE q.intent_id = moved.intent_id AND moved.queue_state IS NULL
    ), parked AS (
        UPDATE queue_entries AS q
           SET state = moved.queue_state, reason_code = moved.reason_code, lease_until = NULL,
               not_before = coalesce(moved.not_before, q.not_before)
          FROM moved
         WHERE q.intent_id = moved.intent_id AND moved.queue_state IS NOT NULL
    )
    SELECT ARRAY(SELECT i FROM moved) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;
