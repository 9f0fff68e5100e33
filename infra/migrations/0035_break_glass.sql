-- Break-glass: each use with its review, and the sum of each activation.
-- Activations themselves are orders (0031). A use rides with the intent that it lets pass, in the same transaction.

CREATE TABLE break_glass_uses (
    -- No references: what was used in an outage is imported, whatever else is, or is not, stored.
    intent_id     text PRIMARY KEY,
    review_id     text        NOT NULL UNIQUE,
    activation    text        NOT NULL,
    agent         text        NOT NULL,
    category      text        NOT NULL,
    environment   text        NOT NULL,
    jti           text        NOT NULL,
    instance      text        NOT NULL,           -- the replica that let it pass
    used_at       timestamptz NOT NULL,
    due_at        timestamptz NOT NULL,           -- when the review must be closed
    over_cap      boolean     NOT NULL,           -- came from an outage, and was more than policy allows
    after_end     boolean     NOT NULL,           -- came from an outage, after somebody had ended the activation
    voided_at     timestamptz,                    -- its token was thrown away: no use after all
    reminded_at   timestamptz,
    reconciled_at timestamptz,
    would         jsonb,                          -- what policy says after the fact
    flagged       boolean,
    closed_at     timestamptz,
    closed_by     text,
    verdict       text CHECK (verdict IN ('justified', 'unjustified')),
    note          text,
    CHECK ((closed_at IS NULL) = (closed_by IS NULL) AND (closed_at IS NULL) = (verdict IS NULL)
           AND (closed_at IS NULL) = (note IS NULL))
);
CREATE INDEX break_glass_uses_counted ON break_glass_uses (activation) WHERE voided_at IS NULL;
CREATE INDEX break_glass_uses_jti ON break_glass_uses (jti);
CREATE INDEX break_glass_reviews_open ON break_glass_uses (due_at) WHERE closed_at IS NULL AND voided_at IS NULL;
CREATE INDEX break_glass_uses_unreconciled ON break_glass_uses (used_at)
 WHERE reconciled_at IS NULL AND voided_at IS NULL;

CREATE TABLE break_glass_sums (
    activation text PRIMARY KEY,
    summed_at  timestamptz NOT NULL,
    uses       bigint      NOT NULL,
    document   jsonb       NOT NULL
);

CREATE INDEX orders_break_glass ON orders (coalesce(ended_at, expires_at)) WHERE kind = 'break_glass';

-- One granted intent and its use, both or none. A live use is refused unless its activation is in force and below its
-- cap: callers hold the activation's lock, so that the count is exact. One that comes from a journal
-- (`late`) is history: its token has left, so it is kept whatever it breaks, and says what that is.
CREATE FUNCTION open_by_break_glass(p_one jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_use    jsonb       := p_one->'break_glass';
    v_past   boolean     := coalesce((p_one->>'late')::boolean, false);
    v_at     timestamptz := p_one->>'decided_at';
    v_order  orders%ROWTYPE;
    v_taken  bigint;
    v_opened boolean;
BEGIN
    SELECT * INTO v_order FROM orders WHERE order_id = v_use->>'activation' AND kind = 'break_glass';
    SELECT count(*) INTO v_taken FROM break_glass_uses
     WHERE activation = v_use->>'activation' AND voided_at IS NULL;
    IF NOT v_past AND (v_order.order_id IS NULL OR v_order.in_force_at IS NULL OR v_order.in_force_at > v_at
                       OR v_order.ended_at IS NOT NULL OR v_order.expires_at <= v_at
                       OR v_taken >= least((v_order.document->>'max_uses')::bigint, (v_use->>'max_uses')::bigint)) THEN
        RETURN false;
    END IF;
    v_opened := cardinality(open_ordinary_intents(jsonb_build_array(p_one))) = 0;
    IF v_opened OR v_past THEN
        INSERT INTO break_glass_uses (intent_id, review_id, activation, agent, category, environment, jti, instance,
                                      used_at, due_at, over_cap, after_end)
        VALUES (p_one->>'intent_id', v_use->>'review_id', v_use->>'activation', p_one->>'agent', v_use->>'category',
                v_use->>'environment', p_one->>'jti', v_use->>'instance', v_at, (v_use->>'due_at')::timestamptz,
                v_taken >= (v_use->>'max_uses')::bigint, coalesce(v_order.ended_at <= v_at, false))
            ON CONFLICT DO NOTHING;
    END IF;
    RETURN v_opened;
END $$;

-- The functions of before under other names; these take what break-glass let pass out of their way.
ALTER FUNCTION open_intents(jsonb) RENAME TO open_ordinary_intents;
ALTER FUNCTION open_over(jsonb) RENAME TO open_ordinary_over;

CREATE FUNCTION open_intents(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_refused  int[] := '{}';
    v_ordinary jsonb;
    v_one      jsonb;
BEGIN
    IF NOT jsonb_path_exists(p_list, '$[*].break_glass') THEN
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
    END IF;
    FOR v_one IN SELECT e FROM jsonb_array_elements(p_list) AS e WHERE e ? 'break_glass' ORDER BY (e->>'i')::int LOOP
        IF NOT open_by_break_glass(v_one) THEN
            v_refused := v_refused || (v_one->>'i')::int;
        END IF;
    END LOOP;
    RETURN v_refused;
END $$;

CREATE FUNCTION open_over(p_one jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT open_ordinary_over(p_one) THEN
        RETURN false;
    END IF;
    UPDATE break_glass_uses SET voided_at = (p_one->>'decided_at')::timestamptz
     WHERE jti = p_one->>'over_jti' AND voided_at IS NULL;
    RETURN true;
END $$;

-- Closed once, and never by who stands behind the activation; where that cannot be known, by nobody.
CREATE FUNCTION close_reviews(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (review_id) *
          FROM jsonb_to_recordset(p_list) AS e (i int, review_id text, closed_by text, closed_at timestamptz,
                                                verdict text, note text)
         ORDER BY review_id, i
    ), closed AS (
        UPDATE break_glass_uses AS u
           SET closed_at = e.closed_at, closed_by = e.closed_by, verdict = e.verdict, note = e.note
          FROM e
         WHERE u.review_id = e.review_id AND u.closed_at IS NULL AND u.voided_at IS NULL
           AND EXISTS (SELECT FROM orders AS o WHERE o.order_id = u.activation AND o.issued_by <> e.closed_by)
           AND NOT EXISTS (SELECT FROM order_confirmations AS c
                            WHERE c.order_id = u.activation AND c.confirmed_by = e.closed_by)
     RETURNING e.i
    )
    SELECT ARRAY(SELECT i FROM closed) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;

CREATE FUNCTION remind_reviews(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (review_id) *
          FROM jsonb_to_recordset(p_list) AS e (i int, review_id text, reminded_at timestamptz, expected timestamptz)
         ORDER BY review_id, i
    ), reminded AS (
        UPDATE break_glass_uses AS u SET reminded_at = e.reminded_at FROM e
         WHERE u.review_id = e.review_id AND u.closed_at IS NULL AND u.voided_at IS NULL
           AND u.reminded_at IS NOT DISTINCT FROM e.expected
     RETURNING e.i
    )
    SELECT ARRAY(SELECT i FROM reminded) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;

CREATE FUNCTION reconcile_uses(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (review_id) *
          FROM jsonb_to_recordset(p_list) AS e (i int, review_id text, reconciled_at timestamptz, would jsonb,
                                                flagged boolean)
         ORDER BY review_id, i
    ), reconciled AS (
        UPDATE break_glass_uses AS u SET reconciled_at = e.reconciled_at, would = e.would, flagged = e.flagged FROM e
         WHERE u.review_id = e.review_id AND u.reconciled_at IS NULL
     RETURNING e.i
    )
    SELECT ARRAY(SELECT i FROM reconciled) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;

-- Uses that come from an outage after the sum make another one; it replaces the sum, never the record of it.
CREATE FUNCTION sum_up_activations(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[];
BEGIN
    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (activation) *
          FROM jsonb_to_recordset(p_list) AS e (i int, activation text, summed_at timestamptz, uses bigint,
                                                document jsonb)
         ORDER BY activation, i
    ), summed AS (
        INSERT INTO break_glass_sums AS s (activation, summed_at, uses, document)
        SELECT activation, summed_at, uses, document FROM e ORDER BY activation
            ON CONFLICT (activation) DO UPDATE
               SET summed_at = excluded.summed_at, uses = excluded.uses, document = excluded.document
             WHERE s.uses < excluded.uses
     RETURNING activation
    )
    SELECT ARRAY(SELECT i FROM e JOIN summed USING (activation)) INTO v_applied;
    RETURN not_among(p_list, v_applied);
END $$;

INSERT INTO effect_operations (position, op, handler) VALUES
    (300, 'close_review', 'close_reviews'),
    (310, 'remind_review', 'remind_reviews'),
    (320, 'reconcile_use', 'reconcile_uses'),
    (330, 'sum_up_activation', 'sum_up_activations');

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_writer') THEN
        GRANT SELECT, INSERT, UPDATE ON break_glass_uses, break_glass_sums TO holdfast_writer;
    END IF;
END $$;
