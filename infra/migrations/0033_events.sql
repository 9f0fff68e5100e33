-- What agents are told of their intents: events in an order that never gains a row in the past, and deliveries to
-- webhooks. Both are written by triggers, in the transaction that moves the intent, whoever moves it.

-- An intent that was answered at once has no events: its agent has the answer. Events are of intents that wait.
--
-- Readers follow (xid, id) and read only below the oldest transaction that is still running: `id > last` over a shared
-- sequence would skip rows that commit late. No lock is held for the order, so that lanes never wait for each other.
CREATE TABLE intent_events (
    xid       xid8        NOT NULL DEFAULT pg_current_xact_id(),
    id        bigint GENERATED ALWAYS AS IDENTITY,
    agent     text        NOT NULL,
    intent_id text        NOT NULL,
    version   integer     NOT NULL,
    status    text        NOT NULL,
    envelope  jsonb       NOT NULL,     -- as of this change, without the token
    claim_by  timestamptz,
    at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (xid, id)
);
CREATE INDEX intent_events_by_agent ON intent_events (agent, xid, id);
CREATE INDEX intent_events_by_intent ON intent_events (intent_id, xid, id);

-- Everything up to here was removed. Who last saw less must be told that there is a gap.
CREATE TABLE intent_events_removed (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    xid      xid8   NOT NULL,
    id       bigint NOT NULL
);
INSERT INTO intent_events_removed (xid, id) VALUES ('0', 0);

-- What is owed to webhooks. A row leaves when it is delivered, or given up with a record in the log.
CREATE TABLE webhook_deliveries (
    intent_id   text        NOT NULL REFERENCES intents,
    version     integer     NOT NULL,
    agent       text        NOT NULL,
    status      text        NOT NULL,
    envelope    jsonb       NOT NULL,
    claim_by    timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now(),
    due_at      timestamptz NOT NULL DEFAULT now(),     -- while leased: until when
    attempts    smallint    NOT NULL DEFAULT 0,
    epoch       bigint      NOT NULL DEFAULT 0,         -- fences a worker that lost its lease
    PRIMARY KEY (intent_id, version)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (due_at);

-- Public keys that deliveries are signed with, published by whoever holds the private ones.
CREATE TABLE webhook_keys (
    public_key   bytea PRIMARY KEY CHECK (octet_length(public_key) = 32),
    published_at timestamptz NOT NULL,
    last_used_at timestamptz NOT NULL
);

CREATE FUNCTION note_intent_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO intent_events (agent, intent_id, version, status, envelope, claim_by)
    VALUES (NEW.agent, NEW.intent_id, NEW.version, NEW.status, NEW.envelope, NEW.claim_by);
    -- The submission is canonical JSON. These bytes may also stand deeper in it: whoever delivers parses it and knows.
    IF TG_OP = 'UPDATE' AND NEW.status IS DISTINCT FROM OLD.status
       AND position('"callback_url":"'::bytea IN NEW.submission) > 0 THEN
        INSERT INTO webhook_deliveries (intent_id, version, agent, status, envelope, claim_by)
        VALUES (NEW.intent_id, NEW.version, NEW.agent, NEW.status, NEW.envelope, NEW.claim_by)
            ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER intents_parked AFTER INSERT ON intents
    FOR EACH ROW WHEN (NEW.status IN ('queued', 'held')) EXECUTE FUNCTION note_intent_event();
CREATE TRIGGER intents_moved AFTER UPDATE ON intents
    FOR EACH ROW WHEN (NEW.version <> OLD.version) EXECUTE FUNCTION note_intent_event();

-- Removes the oldest events, at most p_limit of them, and returns how many. Those of another cluster, restored from a
-- dump, carry transaction ids that have no meaning here: a row that is visible was written before the snapshot's end.
CREATE FUNCTION remove_old_events(p_before timestamptz, p_limit int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    v_xid   xid8;
    v_id    bigint;
    v_count int;
BEGIN
    UPDATE intent_events_removed SET xid = pg_snapshot_xmin(pg_current_snapshot()), id = 0
     WHERE xid > pg_snapshot_xmax(pg_current_snapshot());
    DELETE FROM intent_events WHERE xid > pg_snapshot_xmax(pg_current_snapshot());
    PERFORM FROM intent_events_removed FOR UPDATE;
    WITH oldest AS MATERIALIZED (
        SELECT e.xid, e.id, e.at FROM intent_events AS e ORDER BY e.xid, e.id LIMIT p_limit
    ), gone AS (
        DELETE FROM intent_events AS e USING oldest AS o
         WHERE e.xid = o.xid AND e.id = o.id AND o.at < p_before RETURNING e.xid, e.id
    ), last AS (
        SELECT g.xid, g.id FROM gone AS g ORDER BY g.xid DESC, g.id DESC LIMIT 1
    )
    SELECT l.xid, l.id, (SELECT count(*) FROM gone) INTO v_xid, v_id, v_count FROM last AS l;
    IF v_xid IS NOT NULL THEN
        UPDATE intent_events_removed SET xid = v_xid, id = v_id WHERE (xid, id) < (v_xid, v_id);
    END IF;
    RETURN coalesce(v_count, 0);
END $$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_writer') THEN
        GRANT SELECT, INSERT, DELETE ON intent_events TO holdfast_writer;
        GRANT SELECT, UPDATE ON intent_events_removed TO holdfast_writer;
        GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_deliveries TO holdfast_writer;
        GRANT SELECT, INSERT, UPDATE ON webhook_keys TO holdfast_writer;
    END IF;
END $$;
