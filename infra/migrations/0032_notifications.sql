-- Who is told: the outbox of notices, and what became of each on each channel.

CREATE TABLE notices (
    notice_id     text PRIMARY KEY,
    kind          text        NOT NULL,
    severity      text        NOT NULL CHECK (severity IN ('info', 'warning', 'error', 'critical')),
    dedupe_key    text        NOT NULL,
    summary       text        NOT NULL,
    details       jsonb       NOT NULL,
    at            timestamptz NOT NULL,
    origin        text,                                       -- the instance that wrote it and delivers it first
    stored_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    fanned_out_at timestamptz                                 -- since when its deliveries stand below
);
CREATE INDEX notices_new ON notices (notice_id) WHERE fanned_out_at IS NULL;
CREATE INDEX notices_by_key ON notices (dedupe_key, notice_id);

-- One per notice and channel that wanted it when it was fanned out.
CREATE TABLE notice_deliveries (
    notice_id   text        NOT NULL REFERENCES notices ON DELETE CASCADE,
    channel     text        NOT NULL,
    state       text        NOT NULL CHECK (state IN ('due', 'delivered', 'dead')),
    attempts    integer     NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL,
    lease_until timestamptz,
    settled_at  timestamptz,
    last_error  text,
    PRIMARY KEY (notice_id, channel)
);
CREATE INDEX notice_deliveries_due ON notice_deliveries (channel, due_at) WHERE state = 'due';

-- Receivers that answered 410: nothing more is sent there until the channel's address is another one.
CREATE TABLE notice_channels (
    channel     text PRIMARY KEY,
    address     text        NOT NULL,                         -- SHA-256 of the URL, which may hold a secret
    disabled_at timestamptz NOT NULL,
    reason      text        NOT NULL
);

-- Stores what is not stored yet and returns the indexes that it stored.
CREATE FUNCTION store_notices(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_stored int[];
BEGIN
    WITH e AS MATERIALIZED (
        SELECT DISTINCT ON (notice_id) *
          FROM jsonb_to_recordset(p_list)
               AS e (i int, notice_id text, kind text, severity text, dedupe_key text, summary text, details jsonb,
                     at timestamptz, origin text)
         ORDER BY notice_id, i
    ), stored AS (
        INSERT INTO notices (notice_id, kind, severity, dedupe_key, summary, details, at, origin)
        SELECT notice_id, kind, severity, dedupe_key, summary, details, at, origin FROM e ORDER BY notice_id
            ON CONFLICT DO NOTHING RETURNING notice_id
    )
    SELECT ARRAY(SELECT i FROM e JOIN stored USING (notice_id)) INTO v_stored;
    RETURN v_stored;
END $$;

CREATE FUNCTION put_notices(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
BEGIN
    RETURN not_among(p_list, store_notices(p_list));
END $$;

INSERT INTO effect_operations (position, op, handler) VALUES (900, 'put_notice', 'put_notices');

-- What rides beside an effect, or beside none, comes when it is known which effects were refused: a notice of what did
-- not happen is not put. It is never refused itself, so it is no operation of the table.
ALTER FUNCTION apply_effects(jsonb) RENAME TO apply_operations;

CREATE FUNCTION apply_effects(p_effects jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_attached jsonb := p_effects->'attach_notice';
    v_refused  int[];
BEGIN
    IF v_attached IS NULL THEN
        RETURN apply_operations(p_effects);
    END IF;
    v_refused := apply_operations(p_effects - 'attach_notice');
    SELECT jsonb_agg(e) INTO v_attached
      FROM jsonb_array_elements(v_attached) AS e WHERE (e->>'i')::int <> ALL (v_refused);
    IF v_attached IS NOT NULL THEN
        PERFORM store_notices(v_attached);
    END IF;
    RETURN v_refused;
END $$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_writer') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON notices, notice_deliveries, notice_channels TO holdfast_writer;
    END IF;
END $$;
