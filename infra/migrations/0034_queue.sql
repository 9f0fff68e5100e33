-- The queue at scale: turns of agents, one place per waiting action, superseding, what replicas tell each other, and who
-- holds an old snapshot. SQLSTATE of this file: HF005 half of a superseding could not be applied (never leaves it).

-- Agents of one lane take turns, see intent_queue/order.py.
CREATE INDEX queue_turns ON queue_entries (lane, agent COLLATE "C", rank_at, intent_id) WHERE state = 'waiting';

-- A final outcome stays. Whoever would change it finds no row, so that the effect is refused and the record void.
CREATE FUNCTION keep_outcome() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RETURN NULL;
END $$;
CREATE TRIGGER intents_keep_outcome BEFORE UPDATE ON intents FOR EACH ROW
    WHEN (OLD.status IN ('denied', 'expired', 'cancelled', 'superseded') AND NEW.status <> OLD.status)
    EXECUTE FUNCTION keep_outcome();

-- What each process sees of its boundaries, written every second and at every change. The drain reads the fresh ones.
-- Unlogged: after a crash of the database the processes write it again before anything drains.
CREATE UNLOGGED TABLE boundary_reports (
    process     text PRIMARY KEY,
    not_closed  text[]      NOT NULL,              -- names of boundaries
    live_slow   boolean     NOT NULL,              -- live submissions of the last second were slow
    reported_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- One place per waiting action, and superseding, around all other effects.
--
-- `queue` with the same agent and action as one that waits: refused, and whoever asked is answered with that one. Not
-- for what comes from a journal (`late`): that was acknowledged as queued already.
-- `supersedes`: the new intent is stored and the old one ends, both or neither. The old one's end travels as a
-- `move_intent` of its own, so that rows are locked in the one order of all effects; when only one of the two could be
-- applied, everything is rolled back to here and tried again without that pair.
ALTER FUNCTION apply_effects(jsonb) RENAME TO apply_plain_effects;

CREATE FUNCTION apply_effects(p_effects jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    c_old     CONSTANT int := 1000000;  -- added to an element's number for the end of what it supersedes
    v_opens   jsonb := p_effects->'open_intent';
    v_effects jsonb;
    v_ends    jsonb;
    v_result  int[];
    v_torn    int[];
    v_refused int[] := '{}';
BEGIN
    IF v_opens IS NULL THEN
        RETURN apply_plain_effects(p_effects);
    END IF;
    v_refused := second_places(v_opens);
    LOOP
        v_effects := p_effects;
        IF cardinality(v_refused) > 0 THEN
            -- Nothing is left of a refused record's effects, whatever else rides with it.
            SELECT coalesce(jsonb_object_agg(kept.op, kept.list), '{}') INTO v_effects
              FROM (SELECT o.op, jsonb_agg(e ORDER BY (e->>'i')::int) AS list
                      FROM jsonb_each(p_effects) AS o (op, list), jsonb_array_elements(o.list) AS e
                     WHERE (e->>'i')::int <> ALL (v_refused)
                     GROUP BY o.op) AS kept;
        END IF;
        SELECT jsonb_agg((e->'supersedes') || jsonb_build_object('i', (e->>'i')::int + c_old)) INTO v_ends
          FROM jsonb_array_elements(v_effects->'open_intent') AS e
         WHERE jsonb_typeof(e->'supersedes') = 'object'
           -- With `over_jti` the first try may stand, and then the old one ended with it.
           AND NOT (e->>'over_jti' IS NOT NULL
                    AND EXISTS (SELECT FROM intents WHERE intent_id = e->>'intent_id'));
        IF v_ends IS NULL THEN
            RETURN v_refused || apply_plain_effects(v_effects);
        END IF;
        v_effects := v_effects || jsonb_build_object(
            'move_intent', coalesce(v_effects->'move_intent', '[]') || v_ends);
        BEGIN
            v_result := apply_plain_effects(v_effects);
            v_torn := ARRAY(SELECT (e->>'i')::int - c_old FROM jsonb_array_elements(v_ends) AS e
                             WHERE ((e->>'i')::int = ANY (v_result))
                                <> ((e->>'i')::int - c_old = ANY (v_result)));
            IF cardinality(v_torn) > 0 THEN
                RAISE EXCEPTION 'half of a superseding' USING ERRCODE = 'HF005';
            END IF;
            RETURN v_refused || ARRAY(SELECT i FROM unnest(v_result) AS i WHERE i < c_old);
        EXCEPTION WHEN SQLSTATE 'HF005' THEN
            v_refused := v_refused || v_torn;
        END;
    END LOOP;
END $$;

-- The elements that would take a second place for an action that waits. One lock for each agent and action, before any
-- row is locked and in one order, so that of two writers the second sees what the first has stored.
CREATE FUNCTION second_places(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_refused int[];
BEGIN
    PERFORM pg_advisory_xact_lock(key)
       FROM (SELECT DISTINCT hashtextextended(e->>'agent' || ' ' || (e->>'act_hash'), 0) AS key
               FROM jsonb_array_elements(p_list) AS e
              WHERE jsonb_typeof(e->'queue') = 'object' AND e->>'over_jti' IS NULL AND e->'late' IS NULL
              ORDER BY key) AS ordered;
    IF NOT FOUND THEN
        RETURN '{}';
    END IF;
    WITH e AS MATERIALIZED (
        SELECT (e->>'i')::int AS i, e->>'agent' AS agent, e->>'act_hash' AS act_hash,
               e->'supersedes'->>'intent_id' AS instead_of
          FROM jsonb_array_elements(p_list) AS e
         WHERE jsonb_typeof(e->'queue') = 'object' AND e->>'over_jti' IS NULL AND e->'late' IS NULL
    )
    SELECT ARRAY(
        SELECT e.i FROM e
         WHERE EXISTS (SELECT FROM e AS first
                        WHERE first.agent = e.agent AND first.act_hash = e.act_hash AND first.i < e.i)
            OR EXISTS (SELECT FROM queue_entries AS q
                        WHERE q.agent = e.agent AND q.act_hash = e.act_hash
                          AND q.state IN ('waiting', 'leased', 'held', 'parked') AND q.expires_at > now()
                          AND q.intent_id IS DISTINCT FROM e.instead_of))
      INTO v_refused;
    RETURN v_refused;
END $$;

-- Who keeps old row versions from being cleaned away in this database: the hot table of a queue suffers from that first.
-- `held_s` is NULL where PostgreSQL does not say since when. Runs as its owner, who sees other roles' sessions if it is a
-- superuser or a member of pg_read_all_stats; who is not sees its own.
CREATE FUNCTION snapshot_holders()
RETURNS TABLE (kind text, name text, horizon text, held_s float8)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT 'session', coalesce(nullif(application_name, ''), 'process ' || pid), backend_xmin::text,
           extract(epoch FROM clock_timestamp() - xact_start)::float8
      FROM pg_stat_activity
     WHERE backend_xmin IS NOT NULL AND (datname = current_database() OR datname IS NULL)
       AND backend_type = 'client backend' AND pid <> pg_backend_pid()
    UNION ALL
    SELECT 'prepared transaction', gid, transaction::text, extract(epoch FROM clock_timestamp() - prepared)::float8
      FROM pg_prepared_xacts
     WHERE database = current_database()
    UNION ALL
    SELECT 'replication slot', slot_name::text, xmin::text, NULL
      FROM pg_replication_slots
     WHERE xmin IS NOT NULL
    UNION ALL
    SELECT 'standby', coalesce(nullif(application_name, ''), 'process ' || pid), backend_xmin::text, NULL
      FROM pg_stat_replication
     WHERE backend_xmin IS NOT NULL
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_writer') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON boundary_reports TO holdfast_writer;
    END IF;
END $$;
