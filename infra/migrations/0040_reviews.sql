-- One table of uses, whatever let a token leave around the evaluation: break-glass, a fail mode or an override, people's
-- approvals in an outage. Each has its row in the transaction of its grant, and the row is its review.

ALTER TABLE break_glass_uses RENAME TO opening_uses;
ALTER TABLE opening_uses
    ADD COLUMN mode      text   NOT NULL DEFAULT 'break_glass' CHECK (mode IN ('break_glass', 'fail_open', 'operator')),
    ADD COLUMN approvals text[] NOT NULL DEFAULT '{}',   -- that it rests on, in operator mode
    ALTER COLUMN activation DROP NOT NULL,               -- or an override; NULL where the bundle or approvals opened
    ADD CHECK (mode <> 'break_glass' OR activation IS NOT NULL),
    ADD CHECK ((mode = 'operator') = (approvals <> '{}'));
ALTER TABLE opening_uses ALTER COLUMN mode DROP DEFAULT;
-- An intent may have more than one: what break-glass let pass and was thrown away, people may permit later.
ALTER TABLE opening_uses DROP CONSTRAINT break_glass_uses_pkey, DROP CONSTRAINT break_glass_uses_review_id_key,
    ADD PRIMARY KEY (review_id);
CREATE INDEX opening_uses_intent ON opening_uses (intent_id);
ALTER INDEX break_glass_uses_counted RENAME TO opening_uses_counted;
ALTER INDEX break_glass_uses_jti RENAME TO opening_uses_jti;
ALTER INDEX break_glass_uses_unreconciled RENAME TO opening_uses_unreconciled;
DROP INDEX break_glass_reviews_open;
CREATE INDEX opening_reviews_open ON opening_uses (due_at, review_id) WHERE closed_at IS NULL AND voided_at IS NULL;
CREATE INDEX opening_reviews_open_of_mode ON opening_uses (mode, due_at, review_id)
 WHERE closed_at IS NULL AND voided_at IS NULL;
CREATE INDEX opening_uses_latest ON opening_uses (used_at, review_id) WHERE voided_at IS NULL;

-- Whoever changes uses that are stored already comes one at a time: two lanes that each lock several rows would
-- otherwise wait for each other in a circle. New rows need no lock, for nobody else knows them.
CREATE FUNCTION lock_reviews() RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(x'484F4C4452455657'::bigint)  -- "HOLDREVW"
$$;

-- Who stands behind a use, and so may not review it. NULL: nobody does, the bundle opened the way. Empty: it is not
-- known who does.
CREATE FUNCTION behind_use(p_mode text, p_activation text, p_approvals text[]) RETURNS text[] LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN p_mode = 'fail_open' AND p_activation IS NULL THEN NULL
        WHEN p_mode = 'operator' THEN
            (SELECT CASE WHEN count(*) = cardinality(p_approvals)
                         THEN coalesce(array_agg(approved_by ORDER BY approved_at, approval_id), '{}') ELSE '{}' END
               FROM approvals WHERE approval_id = ANY (p_approvals))
        ELSE coalesce((SELECT o.issued_by || ARRAY(SELECT confirmed_by FROM order_confirmations AS c
                                                    WHERE c.order_id = o.order_id ORDER BY confirmed_at, confirmed_by)
                         FROM orders AS o WHERE o.order_id = p_activation), '{}')
    END
$$;

-- Stores the uses of those elements that were applied; of what comes from a journal (`late`) in any case.
CREATE FUNCTION keep_uses(p_list jsonb, p_refused int[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO opening_uses (mode, review_id, intent_id, activation, approvals, agent, category, environment, jti,
                              instance, used_at, due_at, over_cap, after_end)
    SELECT u.mode, u.review_id, e->>'intent_id', u.activation, u.approvals,
           coalesce(e->>'agent', (SELECT agent FROM intents AS t WHERE t.intent_id = e->>'intent_id')), u.category,
           u.environment, e->>'jti', u.instance, (e->>'decided_at')::timestamptz, u.due_at, false, false
      FROM jsonb_array_elements(p_list) AS e,
           jsonb_to_record(e->'use') AS u (mode text, review_id text, activation text, approvals text[], category text,
                                           environment text, instance text, due_at timestamptz)
     WHERE e ? 'use' AND e->>'over_jti' IS NULL AND ((e->>'i')::int <> ALL (p_refused) OR e ? 'late')
     ORDER BY u.review_id
$$;

-- Break-glass keeps a member of its own, `break_glass`, beside a cap: journals from before hold it, too.
CREATE OR REPLACE FUNCTION open_by_break_glass(p_one jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_use    jsonb       := p_one->'break_glass';
    v_past   boolean     := coalesce((p_one->>'late')::boolean, false);
    v_at     timestamptz := p_one->>'decided_at';
    v_order  orders%ROWTYPE;
    v_taken  bigint;
    v_opened boolean;
BEGIN
    SELECT * INTO v_order FROM orders WHERE order_id = v_use->>'activation' AND kind = 'break_glass';
    SELECT count(*) INTO v_taken FROM opening_uses
     WHERE activation = v_use->>'activation' AND voided_at IS NULL;
    IF NOT v_past AND (v_order.order_id IS NULL OR v_order.in_force_at IS NULL OR v_order.in_force_at > v_at
                       OR v_order.ended_at IS NOT NULL OR v_order.expires_at <= v_at
                       OR v_taken >= least((v_order.document->>'max_uses')::bigint, (v_use->>'max_uses')::bigint)) THEN
        RETURN false;
    END IF;
    v_opened := cardinality(open_ordinary_intents(jsonb_build_array(p_one))) = 0;
    IF v_opened OR v_past THEN
        INSERT INTO opening_uses (mode, intent_id, review_id, activation, agent, category, environment, jti, instance,
                                  used_at, due_at, over_cap, after_end)
        VALUES ('break_glass', p_one->>'intent_id', v_use->>'review_id', v_use->>'activation', p_one->>'agent',
                v_use->>'category', v_use->>'environment', p_one->>'jti', v_use->>'instance', v_at,
                (v_use->>'due_at')::timestamptz, v_taken >= (v_use->>'max_uses')::bigint,
                coalesce(v_order.ended_at <= v_at, false))
            ON CONFLICT DO NOTHING;
    END IF;
    RETURN v_opened;
END $$;

CREATE OR REPLACE FUNCTION open_intents(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_refused  int[] := '{}';
    v_ordinary jsonb;
    v_one      jsonb;
BEGIN
    IF NOT jsonb_path_exists(p_list, '$[*] ? (exists (@.break_glass) || exists (@.use))') THEN
        RETURN open_ordinary_intents(p_list);
    END IF;
    -- These locks come before every other that a batch takes, in the order of their keys.
    PERFORM pg_advisory_xact_lock(a.key)
       FROM (SELECT DISTINCT hashtextextended('break-glass ' || (e->'break_glass'->>'activation'), 0) AS key
               FROM jsonb_array_elements(p_list) AS e WHERE e ? 'break_glass' ORDER BY key) AS a;
    SELECT jsonb_agg(e ORDER BY (e->>'i')::int) INTO v_ordinary
      FROM jsonb_array_elements(p_list) AS e WHERE NOT e ? 'break_glass';
    IF v_ordinary IS NOT NULL THEN
        v_refused := open_ordinary_intents(v_ordinary);
        PERFORM keep_uses(v_ordinary, v_refused);
    END IF;
    FOR v_one IN SELECT e FROM jsonb_array_elements(p_list) AS e WHERE e ? 'break_glass' ORDER BY (e->>'i')::int LOOP
        IF NOT open_by_break_glass(v_one) THEN
            v_refused := v_refused || (v_one->>'i')::int;
        END IF;
    END LOOP;
    RETURN v_refused;
END $$;

CREATE OR REPLACE FUNCTION open_over(p_one jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT open_ordinary_over(p_one) THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM opening_uses WHERE jti = p_one->>'over_jti') THEN
        PERFORM lock_reviews();
        UPDATE opening_uses SET voided_at = (p_one->>'decided_at')::timestamptz
         WHERE jti = p_one->>'over_jti' AND voided_at IS NULL;
    END IF;
    RETURN true;
END $$;

-- The function of before under another name; this one stores the uses of claims that people permitted.
ALTER FUNCTION move_intents(jsonb) RENAME TO move_ordinary_intents;

CREATE FUNCTION move_intents(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_refused int[] := move_ordinary_intents(p_list);
BEGIN
    IF jsonb_path_exists(p_list, '$[*].use') THEN
        PERFORM keep_uses(p_list, v_refused);
    END IF;
    RETURN v_refused;
END $$;

-- Closed once, and never by who stands behind the use; where that cannot be known, by nobody.
CREATE OR REPLACE FUNCTION close_reviews(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    PERFORM lock_reviews();
    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (review_id) *
          FROM jsonb_to_recordset(p_list) AS e (i int, review_id text, closed_by text, closed_at timestamptz,
                                                verdict text, note text)
         ORDER BY review_id, i
    ), closed AS (
        UPDATE opening_uses AS u
           SET closed_at = e.closed_at, closed_by = e.closed_by, verdict = e.verdict, note = e.note
          FROM e, LATERAL (SELECT behind_use(t.mode, t.activation, t.approvals) AS people
                             FROM opening_uses AS t WHERE t.review_id = e.review_id) AS behind
         WHERE u.review_id = e.review_id AND u.closed_at IS NULL AND u.voided_at IS NULL
           AND (behind.people IS NULL
                OR behind.people <> '{}'
                   AND lower(e.closed_by) NOT IN (SELECT lower(name) FROM unnest(behind.people) AS name))
     RETURNING e.i
    )
    SELECT ARRAY(SELECT i FROM closed) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;

CREATE OR REPLACE FUNCTION remind_reviews(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    PERFORM lock_reviews();
    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (review_id) *
          FROM jsonb_to_recordset(p_list) AS e (i int, review_id text, reminded_at timestamptz, expected timestamptz)
         ORDER BY review_id, i
    ), reminded AS (
        UPDATE opening_uses AS u SET reminded_at = e.reminded_at FROM e
         WHERE u.review_id = e.review_id AND u.closed_at IS NULL AND u.voided_at IS NULL
           AND u.reminded_at IS NOT DISTINCT FROM e.expected
     RETURNING e.i
    )
    SELECT ARRAY(SELECT i FROM reminded) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;

-- All open reviews of what failed open, at once: they may be many, and nobody is reminded of each.
CREATE FUNCTION remind_piles(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     record;
BEGIN
    PERFORM lock_reviews();
    FOR v_one IN SELECT * FROM jsonb_to_recordset(p_list) AS e (i int, reminded_at timestamptz, expected timestamptz)
                  ORDER BY i LOOP
        UPDATE opening_uses SET reminded_at = v_one.reminded_at
         WHERE mode = 'fail_open' AND closed_at IS NULL AND voided_at IS NULL AND used_at <= v_one.reminded_at
           AND v_one.expected IS NOT DISTINCT FROM (SELECT max(reminded_at) FROM opening_uses
                                                     WHERE mode = 'fail_open' AND closed_at IS NULL
                                                       AND voided_at IS NULL);
        IF FOUND THEN
            v_applied := v_applied || v_one.i;
        END IF;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

CREATE OR REPLACE FUNCTION reconcile_uses(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    PERFORM lock_reviews();
    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (review_id) *
          FROM jsonb_to_recordset(p_list) AS e (i int, review_id text, reconciled_at timestamptz, would jsonb,
                                                flagged boolean)
         ORDER BY review_id, i
    ), reconciled AS (
        UPDATE opening_uses AS u SET reconciled_at = e.reconciled_at, would = e.would, flagged = e.flagged FROM e
         WHERE u.review_id = e.review_id AND u.reconciled_at IS NULL
     RETURNING e.i
    )
    SELECT ARRAY(SELECT i FROM reconciled) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;

INSERT INTO effect_operations (position, op, handler) VALUES (315, 'remind_pile', 'remind_piles');

-- As before (0002), but for a use of break-glass that was refused unheard: its commit was in doubt, reached the
-- database, and was refused there, while its home wrote it to the journal and released the token on that. What has left
-- is history, so the effect is applied now as that of a record which was never stored: the use is kept and says what it
-- broke, and no void claims that there is no token. Only what was released carries its effect into a recovering batch.
CREATE OR REPLACE FUNCTION append_batch(
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
    v_unheard  int[] := '{}';
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

    -- 4. Apply the effects of what was stored just now, and those that were refused unheard. A refusal whose void is
    --    stored is not listed any more, and stays one.
    IF v_existing > 0 AND v_effects IS NOT NULL THEN
        WITH unheard AS (
            DELETE FROM refused_effects AS r
             USING jsonb_array_elements(p_effects->'open_intent') AS e
             WHERE e ? 'break_glass' AND (e->>'i')::int < v_existing
               AND r.stream = p_stream AND r.seq = p_first_seq + (e->>'i')::int
         RETURNING (r.seq - p_first_seq)::int AS i
        )
        SELECT ARRAY(SELECT i FROM unheard) INTO v_unheard;
        SELECT jsonb_object_agg(k.op, k.kept) INTO v_effects
          FROM (SELECT o.op, jsonb_agg(e ORDER BY (e->>'i')::int) AS kept
                  FROM jsonb_each(v_effects) AS o (op, list), jsonb_array_elements(o.list) AS e
                 WHERE (e->>'i')::int >= v_existing OR (e->>'i')::int = ANY (v_unheard)
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
             WHERE stream = p_stream AND seq >= p_first_seq AND seq < p_first_seq + v_existing
               AND (seq - p_first_seq)::int <> ALL (v_refused));
    END IF;
    RETURN v_refused;
END $$;
