-- One statement appends a lane's batch to its stream and applies the state changes that ride with it.
--
-- SQLSTATEs of this file: HF001 the log is append-only (0001); HF002 a batch does not follow its stream's last record;
-- HF003 another record stands in this place, or a hash is not of its body; HF004 somebody else writes on this stream.

-- Effects that were refused and whose void record is not stored yet. Lets a recovery give the same answer again, and
-- a restart write the voids that a crash prevented.
CREATE TABLE refused_effects (
    stream text   NOT NULL,
    seq    bigint NOT NULL,
    PRIMARY KEY (stream, seq),
    FOREIGN KEY (stream, seq) REFERENCES audit_records
);

-- Streams by age: their ids sort by time. A lane looks for its predecessor here.
CREATE INDEX audit_streams ON audit_records (stream) WHERE seq = 0;

-- Bodies go in as bytes and come out as bytes; compressing them would cost the writer and help nobody.
ALTER TABLE audit_records ALTER COLUMN body SET STORAGE EXTERNAL;

-- Returns the indexes (from 0) of the records whose effect was refused. A refused effect changes nothing and fails
-- nothing; whatever else goes wrong raises, so that records and effects are stored together or not at all.
--
-- p_effects: {"open_intent": [{"i": 0, …}], "move_intent": […], …}, see services/recording/effects.py.
-- p_recovering: the records may be stored already. Then they must be these, and keep the effect they had.
CREATE FUNCTION append_batch(
    p_stream     text,
    p_first_seq  bigint,
    p_prev       bytea,
    p_bodies     bytea[],
    p_hashes     bytea[],
    p_seal       bytea,
    p_effects    jsonb,
    p_recovering boolean
) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_rows     int := cardinality(p_bodies);
    v_existing int := 0;    -- how many of the rows are stored already: always the first ones, a stream has no gaps
    v_inserted int;
    v_prev     bytea;
    v_last     bigint;
    v_effects  jsonb := p_effects;
    v_refused  int[] := '{}';
BEGIN
    -- 1. Does the batch follow the stream's own last record?
    IF v_rows = 0 OR v_rows <> cardinality(p_hashes) THEN
        RAISE EXCEPTION 'a batch has records, and one hash for each' USING ERRCODE = 'HF002';
    END IF;
    SELECT seq INTO v_last FROM audit_records WHERE stream = p_stream ORDER BY seq DESC LIMIT 1;
    v_last := coalesce(v_last, -1);
    IF p_first_seq = 0 THEN
        v_prev := decode(repeat('00', 32), 'hex');
    ELSE
        SELECT hash INTO v_prev FROM audit_records WHERE stream = p_stream AND seq = p_first_seq - 1;
    END IF;
    IF v_prev IS NULL OR (v_last >= p_first_seq AND NOT p_recovering) THEN
        RAISE EXCEPTION 'stream %: the batch starts at %, the last record is %', p_stream, p_first_seq, v_last
            USING ERRCODE = 'HF002';
    END IF;
    IF v_prev <> p_prev THEN
        RAISE EXCEPTION 'stream %: another record stands before %', p_stream, p_first_seq USING ERRCODE = 'HF003';
    END IF;
    IF EXISTS (SELECT FROM unnest(p_bodies, p_hashes) AS r (body, hash)
               WHERE sha256('\x00'::bytea || r.body) IS DISTINCT FROM r.hash) THEN
        RAISE EXCEPTION 'stream %: a hash is not of its body', p_stream USING ERRCODE = 'HF003';
    END IF;

    -- 2. What is stored already is this, byte for byte.
    IF v_last >= p_first_seq THEN
        v_existing := least(v_last - p_first_seq + 1, v_rows);
        IF EXISTS (SELECT FROM unnest(p_bodies, p_hashes) WITH ORDINALITY AS r (body, hash, n)
                   JOIN audit_records AS a ON a.stream = p_stream AND a.seq = p_first_seq + r.n - 1
                   WHERE a.hash <> r.hash OR a.body <> r.body) THEN
            RAISE EXCEPTION 'stream %: another record stands at or after %', p_stream, p_first_seq
                USING ERRCODE = 'HF003';
        END IF;
    END IF;

    -- 3. Store the rest. The seal covers everything up to the last record.
    INSERT INTO audit_records (stream, seq, hash, body, seal)
    SELECT p_stream, p_first_seq + r.n - 1, r.hash, r.body, CASE WHEN r.n = v_rows THEN p_seal END
      FROM unnest(p_bodies, p_hashes) WITH ORDINALITY AS r (body, hash, n)
     WHERE r.n > v_existing
     ORDER BY r.n
        ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS v_inserted = ROW_COUNT;
    IF v_inserted <> v_rows - v_existing THEN
        RAISE EXCEPTION 'stream %: somebody else writes on it', p_stream USING ERRCODE = 'HF004';
    END IF;

    -- 4. Apply the effects of what was stored just now.
    IF v_existing > 0 AND v_effects IS NOT NULL THEN
        SELECT jsonb_object_agg(k.op, k.kept) INTO v_effects
          FROM (SELECT o.op, jsonb_agg(e ORDER BY (e->>'i')::int) AS kept
                  FROM jsonb_each(v_effects) AS o (op, list), jsonb_array_elements(o.list) AS e
                 WHERE (e->>'i')::int >= v_existing
                 GROUP BY o.op) AS k;
    END IF;
    IF v_effects IS NOT NULL THEN
        v_refused := apply_effects(v_effects);
        INSERT INTO refused_effects (stream, seq) SELECT p_stream, p_first_seq + i FROM unnest(v_refused) AS i;
    END IF;

    -- 5. What was refused when it was stored is refused still.
    IF v_existing > 0 THEN
        v_refused := v_refused || ARRAY(
            SELECT (seq - p_first_seq)::int FROM refused_effects
             WHERE stream = p_stream AND seq >= p_first_seq AND seq < p_first_seq + v_existing);
    END IF;
    RETURN v_refused;
END $$;

-- Each operation in turn. Rows are locked in one order, first of tables and then of keys, so that two lanes never wait
-- for each other in a circle: new intents, stored intents, queue entries, consumptions.
CREATE FUNCTION apply_effects(p_effects jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
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

CREATE FUNCTION not_among(p_list jsonb, p_applied int[]) RETURNS int[] LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN ARRAY(SELECT (e->>'i')::int FROM jsonb_array_elements(p_list) AS e
                  WHERE (e->>'i')::int <> ALL (p_applied));
END $$;

-- Intents that replace nothing. The first of a batch wins, then whoever was stored first.
CREATE FUNCTION open_intents(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_refused int[];
BEGIN
    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (intent_id) *
          FROM jsonb_to_recordset(p_list) AS e (
                   i int, intent_id text, agent text, idempotency_key text, request_digest text, submission text,
                   act_hash text, status text, reason_code text, envelope jsonb, claims jsonb, jti text,
                   created_at timestamptz, decided_at timestamptz, queue jsonb, over_jti text)
         WHERE over_jti IS NULL
         ORDER BY intent_id, i
    ), stored AS (
        INSERT INTO intents (intent_id, agent, idempotency_key, request_digest, submission, act_hash, status,
                             reason_code, envelope, claims, jti, created_at, decided_at)
        SELECT intent_id, agent, idempotency_key, decode(request_digest, 'hex'), decode(submission, 'base64'), act_hash,
               status, reason_code, envelope, claims, jti, created_at, decided_at
          FROM e ORDER BY agent, idempotency_key, CASE WHEN idempotency_key IS NULL THEN intent_id END, i
            ON CONFLICT DO NOTHING RETURNING intent_id
    ), parked AS (
        INSERT INTO queue_entries (intent_id, agent, act_hash, state, lane, rank_at, enqueued_at, expires_at,
                                   not_before, reason_code)
        SELECT e.intent_id, e.agent, e.act_hash, q.state, q.lane, q.rank_at, q.enqueued_at, q.expires_at,
               q.not_before, e.reason_code
          FROM e JOIN stored USING (intent_id),
               jsonb_to_record(e.queue) AS q (state text, lane smallint, rank_at timestamptz, enqueued_at timestamptz,
                                              expires_at timestamptz, not_before timestamptz)
         WHERE jsonb_typeof(e.queue) = 'object'
    )
    SELECT ARRAY(SELECT (p->>'i')::int FROM jsonb_array_elements(p_list) AS p
                  WHERE p->>'over_jti' IS NULL
                    AND (p->>'i')::int NOT IN (SELECT i FROM e JOIN stored USING (intent_id)))
      INTO v_refused;
    RETURN v_refused;
END $$;

-- One intent in the place of its own granted row whose token never left; that token is revoked for good.
-- Where the granted row was never stored, it is simply stored.
CREATE FUNCTION open_over(p_one jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_intent text := p_one->>'intent_id';
    v_over   text := p_one->>'over_jti';
    v_at     timestamptz := p_one->>'decided_at';
    v_row    intents%ROWTYPE;
    v_iss    text;
BEGIN
    -- Locked by the caller, so that the checks below see every consumption that committed before.
    SELECT * INTO v_row FROM intents WHERE intent_id = v_intent;
    IF NOT FOUND THEN
        IF cardinality(open_intents(jsonb_build_array(p_one || '{"over_jti": null}'))) > 0 THEN
            RETURN false;
        END IF;
    ELSE
        v_iss := v_row.claims->>'iss';  -- a granted row holds its token's claims
        IF v_iss IS NULL OR v_row.jti IS DISTINCT FROM v_over OR v_row.status <> 'granted'
           OR v_row.agent <> p_one->>'agent'
           OR EXISTS (SELECT FROM consumptions WHERE iss = v_iss AND txn = v_intent)
           OR EXISTS (SELECT FROM intents WHERE jti = p_one->>'jti' AND intent_id <> v_intent) THEN
            RETURN false;
        END IF;
        UPDATE intents
           SET act_hash = p_one->>'act_hash', status = p_one->>'status', reason_code = p_one->>'reason_code',
               envelope = p_one->'envelope', claims = nullif(p_one->'claims', 'null'), jti = p_one->>'jti',
               decided_at = v_at, claim_by = NULL, version = version + 1
         WHERE intent_id = v_intent;
        IF jsonb_typeof(p_one->'queue') = 'object' THEN
            INSERT INTO queue_entries (intent_id, agent, act_hash, state, lane, rank_at, enqueued_at, expires_at,
                                       not_before, reason_code)
            SELECT v_intent, p_one->>'agent', p_one->>'act_hash', q.state, q.lane, q.rank_at, q.enqueued_at,
                   q.expires_at, q.not_before, p_one->>'reason_code'
              FROM jsonb_to_record(p_one->'queue') AS q (
                       state text, lane smallint, rank_at timestamptz, enqueued_at timestamptz,
                       expires_at timestamptz, not_before timestamptz)
                ON CONFLICT (intent_id) DO NOTHING;
        END IF;
    END IF;
    INSERT INTO revoked_tokens (jti, revoked_at) VALUES (v_over, v_at) ON CONFLICT DO NOTHING;
    RETURN true;
END $$;

-- Stored intents that change status, if nobody moved them in between.
CREATE FUNCTION move_intents(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
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
          FROM e
         WHERE t.intent_id = e.intent_id AND t.version = e.expect_version
           AND (e.epoch IS NULL OR EXISTS (SELECT FROM queue_entries AS q
                                            WHERE q.intent_id = e.intent_id AND q.state = 'leased'
                                              AND q.epoch = e.epoch))
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

-- Tokens that are consumed: at most once per intent and per token, and only where a granted intent stands behind.
CREATE FUNCTION consume_tokens(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    WITH e AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(p_list)
                      AS e (i int, iss text, txn text, jti text, executor text, consumed_at timestamptz)
    ), granted AS MATERIALIZED (
        -- Shared locks: whoever would move the intent, or put another token in its place, waits for this commit.
        SELECT e.* FROM intents AS t JOIN e ON t.intent_id = e.txn
         WHERE t.jti = e.jti AND t.status = 'granted'
         ORDER BY t.intent_id, e.i
           FOR SHARE OF t
    ), first AS (
        SELECT DISTINCT ON (iss, txn) * FROM granted AS g
         WHERE NOT EXISTS (SELECT FROM revoked_tokens AS r WHERE r.jti = g.jti)
         ORDER BY iss, txn, i
    ), stored AS (
        INSERT INTO consumptions (iss, txn, jti, executor, consumed_at)
        SELECT iss, txn, jti, executor, consumed_at FROM first ORDER BY iss, txn
            ON CONFLICT DO NOTHING RETURNING iss, txn
    )
    SELECT ARRAY(SELECT i FROM first JOIN stored USING (iss, txn)) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;

-- What became of consumed tokens. The same report may come twice; the first time stands.
CREATE FUNCTION report_outcomes(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM consumptions
      WHERE (iss, jti) IN (SELECT e->>'iss', e->>'jti' FROM jsonb_array_elements(p_list) AS e)
      ORDER BY iss, txn FOR UPDATE;
    UPDATE consumptions AS c
       SET outcome = e.outcome, outcome_at = e.outcome_at
      FROM (SELECT DISTINCT ON (iss, jti, executor) *
              FROM jsonb_to_recordset(p_list)
                   AS e (i int, iss text, jti text, executor text, outcome text, outcome_at timestamptz)
             ORDER BY iss, jti, executor, i) AS e
     WHERE c.iss = e.iss AND c.jti = e.jti AND c.executor = e.executor AND c.outcome IS NULL;
    RETURN not_among(p_list, ARRAY(
        SELECT e.i
          FROM jsonb_to_recordset(p_list) AS e (i int, iss text, jti text, executor text, outcome text)
          JOIN consumptions AS c USING (iss, jti, executor)
         WHERE c.outcome = e.outcome));
END $$;

-- The role that services connect as: it adds to the log and never changes it. Who may not create roles grants the
-- same to a role of their own, see docs/audit.md.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_writer') THEN
        CREATE ROLE holdfast_writer NOLOGIN;
    END IF;
EXCEPTION
    WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN NULL;
END $$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_writer') THEN
        GRANT SELECT, INSERT ON audit_records, operators TO holdfast_writer;
        GRANT SELECT, INSERT, UPDATE ON intents, consumptions, credentials TO holdfast_writer;
        GRANT SELECT, INSERT, UPDATE, DELETE ON queue_entries TO holdfast_writer;
        GRANT SELECT, INSERT ON revoked_tokens TO holdfast_writer;
        GRANT SELECT, INSERT, DELETE ON refused_effects TO holdfast_writer;
    END IF;
END $$;
