-- Policy bundles: what was uploaded, which one is active since when, and which candidate runs beside it in the shadow.

CREATE TABLE policy_bundles (
    digest      text PRIMARY KEY CHECK (digest ~ '^sha256:[0-9a-f]{64}$'),
    archive     bytea       NOT NULL,               -- see services/decision/archive.py; its content has this digest
    uploaded_at timestamptz NOT NULL,
    uploaded_by text        NOT NULL
);
ALTER TABLE policy_bundles ALTER COLUMN archive SET STORAGE EXTERNAL;  -- compressed already

-- The active bundle is that of the highest id.
CREATE TABLE policy_activations (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest           text        NOT NULL REFERENCES policy_bundles,
    activated_at     timestamptz NOT NULL,
    activated_by     text        NOT NULL,
    reason           text        NOT NULL,
    rolled_back_from bigint REFERENCES policy_activations
);

-- At most one candidate, and none while `digest` is null. A new number starts new counts.
CREATE TABLE policy_shadow (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest     text REFERENCES policy_bundles,
    started_at timestamptz NOT NULL,
    started_by text        NOT NULL
);
-- What each process counted. Written outside the way of any decision; evidence of nothing.
CREATE TABLE policy_shadow_counts (
    shadow   bigint NOT NULL REFERENCES policy_shadow,
    instance text   NOT NULL,
    same     bigint NOT NULL DEFAULT 0,
    looser   bigint NOT NULL DEFAULT 0,
    stricter bigint NOT NULL DEFAULT 0,
    other    bigint NOT NULL DEFAULT 0,
    errors   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (shadow, instance)
);
CREATE TABLE policy_shadow_differences (
    shadow   bigint      NOT NULL REFERENCES policy_shadow,
    instance text        NOT NULL,
    at       timestamptz NOT NULL,
    agent    text        NOT NULL,
    act_hash text        NOT NULL,
    document jsonb       NOT NULL
);
CREATE INDEX policy_shadow_latest ON policy_shadow_differences (shadow, at DESC);

-- Uploads. The same content has the same digest, so what is stored already stays as it is.
CREATE FUNCTION put_bundles(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (digest) i, digest, decode(archive, 'base64') AS archive, uploaded_at, uploaded_by
          FROM jsonb_to_recordset(p_list)
               AS e (i int, digest text, archive text, uploaded_at timestamptz, uploaded_by text)
         ORDER BY digest, i
    ), stored AS (
        INSERT INTO policy_bundles (digest, archive, uploaded_at, uploaded_by)
        SELECT digest, archive, uploaded_at, uploaded_by FROM e ORDER BY digest
            ON CONFLICT DO NOTHING RETURNING digest
    )
    SELECT ARRAY(SELECT i FROM e JOIN stored USING (digest)) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;

-- Activations, one at a time across all writers: each names the bundle that it believes to replace.
CREATE FUNCTION activate_bundles(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     jsonb;
    v_active  text;
BEGIN
    -- Held to the end of the transaction: no other activation reads the active bundle between this check and its commit.
    PERFORM pg_advisory_xact_lock(x'484F4C44504F4C43'::bigint);  -- "HOLDPOLC"
    FOR v_one IN SELECT e FROM jsonb_array_elements(p_list) AS e ORDER BY (e->>'i')::int LOOP
        SELECT digest INTO v_active FROM policy_activations ORDER BY id DESC LIMIT 1;
        IF v_active IS NOT DISTINCT FROM v_one->>'expect_active'
           AND v_active IS DISTINCT FROM v_one->>'digest'
           AND EXISTS (SELECT FROM policy_bundles WHERE digest = v_one->>'digest') THEN
            INSERT INTO policy_activations (digest, activated_at, activated_by, reason, rolled_back_from)
            VALUES (v_one->>'digest', (v_one->>'activated_at')::timestamptz, v_one->>'activated_by',
                    v_one->>'reason', (v_one->>'rolled_back_from')::bigint);
            v_applied := v_applied || (v_one->>'i')::int;
        END IF;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

CREATE FUNCTION set_shadows(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     jsonb;
BEGIN
    FOR v_one IN SELECT e FROM jsonb_array_elements(p_list) AS e ORDER BY (e->>'i')::int LOOP
        IF v_one->>'digest' IS NULL OR EXISTS (SELECT FROM policy_bundles WHERE digest = v_one->>'digest') THEN
            INSERT INTO policy_shadow (digest, started_at, started_by)
            VALUES (v_one->>'digest', (v_one->>'started_at')::timestamptz, v_one->>'started_by');
            v_applied := v_applied || (v_one->>'i')::int;
        END IF;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

-- Each operation in turn. Rows are locked in one order, first of tables and then of keys, so that two lanes never wait
-- for each other in a circle: new intents, stored intents, queue entries, consumptions, policies.
CREATE OR REPLACE FUNCTION apply_effects(p_effects jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_refused int[] := '{}';
    v_list    jsonb;
    v_one     jsonb;
    v_over    boolean := false;
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

    v_list := p_effects->'put_credential';
    IF v_list IS NOT NULL THEN
        WITH e AS MATERIALIZED (
            SELECT DISTINCT ON (key_hash) i, decode(key_hash, 'hex') AS key_hash, kind, subject, created_at
              FROM jsonb_to_recordset(v_list)
                   AS e (i int, kind text, subject text, key_hash text, created_at timestamptz)
             ORDER BY key_hash, i
        ), stored AS (
            INSERT INTO credentials (key_hash, kind, subject, created_at)
            SELECT key_hash, kind, subject, created_at FROM e ORDER BY key_hash
                ON CONFLICT DO NOTHING RETURNING key_hash
        )
        SELECT v_refused || not_among(v_list, ARRAY(SELECT i FROM e JOIN stored USING (key_hash))) INTO v_refused;
    END IF;

    v_list := p_effects->'put_operator';
    IF v_list IS NOT NULL THEN
        WITH e AS MATERIALIZED (
            SELECT DISTINCT ON (username) *
              FROM jsonb_to_recordset(v_list)
                   AS e (i int, username text, password_hash text, role text, created_at timestamptz)
             ORDER BY username, i
        ), stored AS (
            INSERT INTO operators (username, password_hash, role, created_at)
            SELECT username, password_hash, role, created_at FROM e ORDER BY username
                ON CONFLICT DO NOTHING RETURNING username
        )
        SELECT v_refused || not_among(v_list, ARRAY(SELECT i FROM e JOIN stored USING (username))) INTO v_refused;
    END IF;

    v_list := p_effects->'put_bundle';
    IF v_list IS NOT NULL THEN
        v_refused := v_refused || put_bundles(v_list);
    END IF;

    v_list := p_effects->'activate_bundle';
    IF v_list IS NOT NULL THEN
        v_refused := v_refused || activate_bundles(v_list);
    END IF;

    v_list := p_effects->'set_shadow';
    IF v_list IS NOT NULL THEN
        v_refused := v_refused || set_shadows(v_list);
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
        GRANT SELECT, INSERT ON policy_bundles, policy_activations, policy_shadow TO holdfast_writer;
        GRANT SELECT, INSERT, UPDATE ON policy_shadow_counts TO holdfast_writer;
        GRANT SELECT, INSERT, DELETE ON policy_shadow_differences TO holdfast_writer;
    END IF;
END $$;
