-- Operators look for what waits by its category. It stands beside the row that waits, so that a page of it is one step
-- along an index, however much else waits. The two functions differ from those of 0002 in `category` alone.

ALTER TABLE queue_entries ADD COLUMN category text;  -- NULL: of none that the catalogue knows
UPDATE queue_entries AS q SET category = i.envelope->>'category' FROM intents AS i WHERE i.intent_id = q.intent_id;
CREATE INDEX queue_by_category ON queue_entries (category, lane, rank_at, intent_id) WHERE state = 'waiting';
-- Without what is leased: there is little of it, and each lease would write an entry.
CREATE INDEX queue_others_by_category ON queue_entries (category, lane, rank_at, intent_id)
 WHERE state IN ('held', 'parked', 'claimable');

CREATE OR REPLACE FUNCTION open_ordinary_intents(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
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
                                   not_before, reason_code, category)
        SELECT e.intent_id, e.agent, e.act_hash, q.state, q.lane, q.rank_at, q.enqueued_at, q.expires_at,
               q.not_before, e.reason_code, e.envelope->>'category'
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

CREATE OR REPLACE FUNCTION open_ordinary_over(p_one jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
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
                                       not_before, reason_code, category)
            SELECT v_intent, p_one->>'agent', p_one->>'act_hash', q.state, q.lane, q.rank_at, q.enqueued_at,
                   q.expires_at, q.not_before, p_one->>'reason_code',
                   p_one->'envelope'->>'category'
              FROM jsonb_to_record(p_one->'queue') AS q (
                       state text, lane smallint, rank_at timestamptz, enqueued_at timestamptz,
                       expires_at timestamptz, not_before timestamptz)
                ON CONFLICT (intent_id) DO NOTHING;
        END IF;
    END IF;
    INSERT INTO revoked_tokens (jti, revoked_at) VALUES (v_over, v_at) ON CONFLICT DO NOTHING;
    RETURN true;
END $$;

-- Judged again under other policies, an intent may be of another category than it was.
CREATE FUNCTION keep_category() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE queue_entries SET category = NEW.envelope->>'category' WHERE intent_id = NEW.intent_id;
    RETURN NULL;
END $$;
CREATE TRIGGER intents_keep_category AFTER UPDATE OF envelope ON intents FOR EACH ROW
    WHEN (NEW.status IN ('queued', 'held', 'claimable')
          AND NEW.envelope->>'category' IS DISTINCT FROM OLD.envelope->>'category')
    EXECUTE FUNCTION keep_category();
