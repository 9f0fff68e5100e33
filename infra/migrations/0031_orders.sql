-- What operators ordered, and what still stands: halts, suspensions, overrides, boundaries held open, break-glass.
-- And `apply_effects` once and for all: operations outside the way of an intent are rows of a table, so that a later
-- migration adds one without writing this function again.

CREATE TABLE orders (
    order_id    text PRIMARY KEY,
    kind        text        NOT NULL CHECK (kind IN ('halt', 'suspension', 'override', 'force_open', 'break_glass')),
    scope       text        NOT NULL,               -- what it is about; see services/orders.py
    document    jsonb       NOT NULL,
    reason      text        NOT NULL,
    issued_at   timestamptz NOT NULL,
    issued_by   text        NOT NULL,
    people      smallint    NOT NULL CHECK (people >= 1),  -- how many must stand behind it, the issuer among them
    in_force_at timestamptz,                        -- NULL while it waits for people
    expires_at  timestamptz,                        -- in force until then; NULL until somebody ends it
    ended_at    timestamptz,
    ended_by    text,
    ended_note  text,
    CHECK ((ended_at IS NULL) = (ended_by IS NULL))
);
CREATE INDEX orders_standing ON orders (kind, scope) WHERE ended_at IS NULL;
-- Stopping twice is stopping once: of these, one stands for each scope.
CREATE UNIQUE INDEX orders_once ON orders (kind, scope)
 WHERE ended_at IS NULL AND kind IN ('halt', 'suspension', 'force_open');

CREATE TABLE order_confirmations (
    order_id     text        NOT NULL REFERENCES orders,
    confirmed_by text        NOT NULL,
    confirmed_at timestamptz NOT NULL,
    PRIMARY KEY (order_id, confirmed_by)
);

CREATE FUNCTION put_orders(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    WITH e AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(p_list)
                      AS e (i int, order_id text, kind text, scope text, document jsonb, reason text,
                            issued_at timestamptz, issued_by text, people smallint, expires_at timestamptz)
    ), stored AS (
        INSERT INTO orders (order_id, kind, scope, document, reason, issued_at, issued_by, people, in_force_at,
                            expires_at)
        SELECT order_id, kind, scope, document, reason, issued_at, issued_by, people,
               CASE WHEN people = 1 THEN issued_at END, expires_at
          FROM e ORDER BY kind, scope, i
            ON CONFLICT DO NOTHING RETURNING order_id
    )
    SELECT ARRAY(SELECT i FROM e JOIN stored USING (order_id)) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;

-- One more person behind an order; the last one that it needs puts it in force. Never its issuer, nobody twice, and
-- nobody once it is in force, ended or expired. `expires_at` counts from then where the order says for how long.
CREATE FUNCTION confirm_orders(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     record;
    v_order   orders%ROWTYPE;
BEGIN
    PERFORM FROM orders WHERE order_id IN (SELECT e->>'order_id' FROM jsonb_array_elements(p_list) AS e)
      ORDER BY order_id FOR UPDATE;
    FOR v_one IN SELECT * FROM jsonb_to_recordset(p_list)
                               AS e (i int, order_id text, confirmed_by text, confirmed_at timestamptz,
                                     expires_at timestamptz)
                  ORDER BY i LOOP
        SELECT * INTO v_order FROM orders WHERE order_id = v_one.order_id;
        CONTINUE WHEN NOT FOUND OR v_order.in_force_at IS NOT NULL OR v_order.ended_at IS NOT NULL
                   OR v_order.expires_at <= v_one.confirmed_at OR v_order.issued_by = v_one.confirmed_by;
        INSERT INTO order_confirmations (order_id, confirmed_by, confirmed_at)
        VALUES (v_one.order_id, v_one.confirmed_by, v_one.confirmed_at) ON CONFLICT DO NOTHING;
        CONTINUE WHEN NOT FOUND;
        v_applied := v_applied || v_one.i;
        IF 1 + (SELECT count(*) FROM order_confirmations WHERE order_id = v_one.order_id) >= v_order.people THEN
            UPDATE orders SET in_force_at = v_one.confirmed_at, expires_at = coalesce(v_one.expires_at, expires_at)
             WHERE order_id = v_one.order_id;
        END IF;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

CREATE FUNCTION end_orders(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (order_id) *
          FROM jsonb_to_recordset(p_list) AS e (i int, order_id text, ended_at timestamptz, ended_by text, note text)
         ORDER BY order_id, i
    ), ended AS (
        UPDATE orders AS o SET ended_at = e.ended_at, ended_by = e.ended_by, ended_note = e.note
          FROM e WHERE o.order_id = e.order_id AND o.ended_at IS NULL
     RETURNING o.order_id
    )
    SELECT ARRAY(SELECT i FROM e JOIN ended USING (order_id)) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;

CREATE FUNCTION put_credentials(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (key_hash) i, decode(key_hash, 'hex') AS key_hash, kind, subject, created_at
          FROM jsonb_to_recordset(p_list)
               AS e (i int, kind text, subject text, key_hash text, created_at timestamptz)
         ORDER BY key_hash, i
    ), stored AS (
        INSERT INTO credentials (key_hash, kind, subject, created_at)
        SELECT key_hash, kind, subject, created_at FROM e ORDER BY key_hash
            ON CONFLICT DO NOTHING RETURNING key_hash
    )
    SELECT ARRAY(SELECT i FROM e JOIN stored USING (key_hash)) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;

CREATE FUNCTION put_operators(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (username) *
          FROM jsonb_to_recordset(p_list)
               AS e (i int, username text, password_hash text, role text, created_at timestamptz)
         ORDER BY username, i
    ), stored AS (
        INSERT INTO operators (username, password_hash, role, created_at)
        SELECT username, password_hash, role, created_at FROM e ORDER BY username
            ON CONFLICT DO NOTHING RETURNING username
    )
    SELECT ARRAY(SELECT i FROM e JOIN stored USING (username)) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;

-- The operations that are not on the way of an intent, in the order in which they lock: `handler(jsonb) -> int[]`
-- returns which of its list were refused. Changed by migrations alone.
CREATE TABLE effect_operations (
    position smallint PRIMARY KEY,
    op       text    NOT NULL UNIQUE,
    handler  regproc NOT NULL
);
INSERT INTO effect_operations (position, op, handler) VALUES
    (100, 'put_credential', 'put_credentials'),
    (110, 'put_operator', 'put_operators'),
    (120, 'put_bundle', 'put_bundles'),
    (130, 'activate_bundle', 'activate_bundles'),
    (140, 'set_shadow', 'set_shadows'),
    (150, 'put_order', 'put_orders'),
    (160, 'confirm_order', 'confirm_orders'),
    (170, 'end_order', 'end_orders');

-- Each operation in turn. Rows are locked in one order, first of tables and then of keys, so that two lanes never wait
-- for each other in a circle: new intents, stored intents, queue entries, consumptions, then by position.
CREATE OR REPLACE FUNCTION apply_effects(p_effects jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_refused int[] := '{}';
    v_more    int[];
    v_list    jsonb;
    v_one     jsonb;
    v_op      record;
    v_over    boolean := false;
    v_others  jsonb := p_effects - '{open_intent,move_intent,consume_token,report_outcome,close_refusal,refuse}'::text[];
BEGIN
    v_list := p_effects->'open_intent';
    IF v_list IS NOT NULL THEN
        v_refused := v_refused || open_intents(v_list);
        v_over := EXISTS (SELECT FROM jsonb_array_elements(v_list) AS e WHERE e->>'over_jti' IS NOT NULL);
    END IF;

    IF v_over OR p_effects ? 'move_intent' THEN
        PERFORM FROM intents
          WHERE intent_id IN (
                    SELECT e->>'intent_id' FROM jsonb_array_elements(p_effects->'open_intent') AS e
                     WHERE e->>'over_jti' IS NOT NULL
                    UNION ALL SELECT e->>'intent_id' FROM jsonb_array_elements(p_effects->'move_intent') AS e
                    UNION ALL SELECT e->>'txn' FROM jsonb_array_elements(p_effects->'consume_token') AS e)
          ORDER BY intent_id FOR UPDATE;
    END IF;

    IF v_over THEN
        FOR v_one IN SELECT e FROM jsonb_array_elements(v_list) AS e
                      WHERE e->>'over_jti' IS NOT NULL ORDER BY (e->>'i')::int LOOP
            IF NOT open_over(v_one) THEN
                v_refused := v_refused || (v_one->>'i')::int;
            END IF;
        END LOOP;
    END IF;

    v_list := p_effects->'move_intent';
    IF v_list IS NOT NULL THEN
        v_refused := v_refused || move_intents(v_list);
    END IF;

    v_list := p_effects->'consume_token';
    IF v_list IS NOT NULL THEN
        v_refused := v_refused || consume_tokens(v_list);
    END IF;

    v_list := p_effects->'report_outcome';
    IF v_list IS NOT NULL THEN
        v_refused := v_refused || report_outcomes(v_list);
    END IF;

    IF v_others <> '{}'::jsonb THEN
        FOR v_op IN SELECT op, handler FROM effect_operations WHERE v_others ? op ORDER BY position LOOP
            EXECUTE format('SELECT %s($1)', v_op.handler) INTO STRICT v_more USING v_others->v_op.op;
            v_refused := v_refused || v_more;
            v_others := v_others - v_op.op;
        END LOOP;
        IF v_others <> '{}'::jsonb THEN
            RAISE EXCEPTION 'no operation `%` is known here', (SELECT min(key) FROM jsonb_object_keys(v_others) AS key);
        END IF;
    END IF;

    v_list := p_effects->'close_refusal';
    IF v_list IS NOT NULL THEN
        DELETE FROM refused_effects AS r USING jsonb_to_recordset(v_list) AS e (stream text, seq bigint)
         WHERE r.stream = e.stream AND r.seq = e.seq;
    END IF;

    -- An effect that was given up before: its record stands, its change never happens.
    v_list := p_effects->'refuse';
    IF v_list IS NOT NULL THEN
        v_refused := v_refused || not_among(v_list, '{}');
    END IF;
    RETURN v_refused;
END $$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_writer') THEN
        GRANT SELECT, INSERT, UPDATE ON orders TO holdfast_writer;
        GRANT SELECT, INSERT ON order_confirmations TO holdfast_writer;
        GRANT SELECT ON effect_operations TO holdfast_writer;
    END IF;
END $$;
