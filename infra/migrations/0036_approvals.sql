-- What operators approved, and what else they change about waiting intents.

CREATE TABLE approvals (
    approval_id text PRIMARY KEY,
    intent_id   text        NOT NULL REFERENCES intents,
    act_hash    text        NOT NULL,               -- counts for this action, and no other,
    bundle      text        NOT NULL,               -- under this bundle, and no other
    approved_by text        NOT NULL,
    roles       text[]      NOT NULL,               -- of the bundle, in which it was given
    approved_at timestamptz NOT NULL,
    note        text,
    UNIQUE (intent_id, act_hash, bundle, approved_by)
);

-- Takes a waiting intent into an operator's hands: raises its version, so that whatever was decided on the old one is
-- refused, and ends a lease on it, with nothing counted. False, and nothing changed, unless it is that version and it
-- waits in time in one of the states.
--
-- Never waits for a lock: effects of other kinds hold theirs already, and take them in an order of their own.
CREATE FUNCTION take_waiting(p_intent text, p_version int, p_states text[], p_at timestamptz) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM intents WHERE intent_id = p_intent AND version = p_version FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM FROM queue_entries
      WHERE intent_id = p_intent AND expires_at > p_at
        AND (CASE WHEN state = 'leased' THEN leased_from ELSE state END) = ANY (p_states)
        FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE intents SET version = version + 1 WHERE intent_id = p_intent;
    UPDATE queue_entries SET state = leased_from, epoch = epoch + 1, lease_until = NULL, leased_by = NULL
     WHERE intent_id = p_intent AND state = 'leased';
    RETURN true;
END $$;

CREATE FUNCTION approve_intents(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     record;
BEGIN
    FOR v_one IN SELECT * FROM jsonb_to_recordset(p_list)
                               AS e (i int, approval_id text, intent_id text, expect_version int, act_hash text,
                                     bundle text, approved_by text, roles text[], approved_at timestamptz, note text)
                  ORDER BY intent_id, i LOOP
        CONTINUE WHEN EXISTS (SELECT FROM approvals AS a
                               WHERE a.approval_id = v_one.approval_id
                                  OR a.intent_id = v_one.intent_id AND a.act_hash = v_one.act_hash
                                     AND a.bundle = v_one.bundle AND a.approved_by = v_one.approved_by);
        CONTINUE WHEN NOT take_waiting(v_one.intent_id, v_one.expect_version, '{held,waiting}', v_one.approved_at);
        INSERT INTO approvals (approval_id, intent_id, act_hash, bundle, approved_by, roles, approved_at, note)
        VALUES (v_one.approval_id, v_one.intent_id, v_one.act_hash, v_one.bundle, v_one.approved_by, v_one.roles,
                v_one.approved_at, v_one.note);
        v_applied := v_applied || v_one.i;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

CREATE FUNCTION reorder_intents(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     record;
BEGIN
    FOR v_one IN SELECT * FROM jsonb_to_recordset(p_list)
                               AS e (i int, intent_id text, expect_version int, lane smallint, lane_name text,
                                     rank_at timestamptz, at timestamptz)
                  ORDER BY intent_id, i LOOP
        CONTINUE WHEN NOT take_waiting(v_one.intent_id, v_one.expect_version, '{waiting,held,parked}', v_one.at);
        UPDATE queue_entries SET lane = v_one.lane, rank_at = v_one.rank_at WHERE intent_id = v_one.intent_id;
        UPDATE intents SET envelope = jsonb_set(envelope, '{queue,lane}', to_jsonb(v_one.lane_name))
         WHERE intent_id = v_one.intent_id AND jsonb_typeof(envelope->'queue') = 'object';
        v_applied := v_applied || v_one.i;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

CREATE FUNCTION requeue_intents(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     record;
BEGIN
    FOR v_one IN SELECT * FROM jsonb_to_recordset(p_list)
                               AS e (i int, intent_id text, expect_version int, at timestamptz)
                  ORDER BY intent_id, i LOOP
        CONTINUE WHEN NOT take_waiting(v_one.intent_id, v_one.expect_version, '{parked}', v_one.at);
        UPDATE queue_entries SET state = 'waiting', attempts = 0, not_before = v_one.at
         WHERE intent_id = v_one.intent_id;
        v_applied := v_applied || v_one.i;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

INSERT INTO effect_operations (position, op, handler) VALUES
    (360, 'approve_intent', 'approve_intents'),
    (361, 'reorder_intent', 'reorder_intents'),
    (362, 'requeue_intent', 'requeue_intents');

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_writer') THEN
        GRANT SELECT, INSERT ON approvals TO holdfast_writer;
    END IF;
END $$;
