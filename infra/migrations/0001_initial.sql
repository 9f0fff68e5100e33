-- The log, intents, the waiting queue, consumption, and who may call.
-- `holdfast_writer` is what services connect as in a real deployment: it can add to the log and never change it.

CREATE TABLE audit_records (
    stream text   NOT NULL,
    seq    bigint NOT NULL CHECK (seq >= 0),
    hash   bytea  NOT NULL CHECK (octet_length(hash) = 32),
    body   bytea  NOT NULL,
    seal   bytea  CHECK (octet_length(seal) = 64),  -- by the stream's ephemeral key, on the last record of each batch
    PRIMARY KEY (stream, seq)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'HF001';
END $$;

CREATE TRIGGER audit_records_append_only BEFORE UPDATE OR DELETE ON audit_records
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_records_no_truncate BEFORE TRUNCATE ON audit_records
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE audit_records ENABLE ALWAYS TRIGGER audit_records_append_only;
ALTER TABLE audit_records ENABLE ALWAYS TRIGGER audit_records_no_truncate;

CREATE TABLE intents (
    intent_id       text PRIMARY KEY,
    agent           text        NOT NULL,
    idempotency_key text,
    request_digest  bytea       NOT NULL,           -- SHA-256 of the canonical submission: same key, same body?
    submission      bytea       NOT NULL,           -- canonical JSON; what a re-evaluation reads
    act_hash        text        NOT NULL,
    status          text        NOT NULL CHECK (status IN ('granted', 'denied', 'held', 'queued', 'unqueued',
                                                           'claimable', 'expired', 'cancelled', 'superseded')),
    reason_code     text        NOT NULL,
    envelope        jsonb       NOT NULL,           -- as answered, without the token
    claims          jsonb,                          -- of the token on release; signed again on a repeat
    jti             text UNIQUE,
    version         integer     NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL,
    decided_at      timestamptz NOT NULL,
    claim_by        timestamptz,
    UNIQUE (agent, idempotency_key)
);
CREATE INDEX intents_by_agent ON intents (agent, created_at DESC);

-- The hot table: narrow, only what waits. The payload is in `intents`.
CREATE TABLE queue_entries (
    intent_id   text PRIMARY KEY REFERENCES intents,
    agent       text        NOT NULL,
    act_hash    text        NOT NULL,
    state       text        NOT NULL CHECK (state IN ('waiting', 'leased', 'held', 'parked', 'claimable')),
    lane        smallint    NOT NULL CHECK (lane BETWEEN 0 AND 3),
    rank_at     timestamptz NOT NULL,
    enqueued_at timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    not_before  timestamptz NOT NULL,
    attempts    smallint    NOT NULL DEFAULT 0,
    epoch       bigint      NOT NULL DEFAULT 0,     -- fences a worker that lost its lease
    lease_until timestamptz,
    reason_code text        NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX queue_ready ON queue_entries (lane, rank_at, intent_id) WHERE state = 'waiting';
CREATE INDEX queue_leases ON queue_entries (lease_until) WHERE state = 'leased';
CREATE INDEX queue_expiry ON queue_entries (expires_at);
CREATE INDEX queue_by_agent ON queue_entries (agent, act_hash);

CREATE TABLE consumptions (
    iss         text        NOT NULL,
    txn         text        NOT NULL,
    jti         text        NOT NULL,
    executor    text        NOT NULL,
    consumed_at timestamptz NOT NULL,
    outcome     text CHECK (outcome IN ('succeeded', 'failed', 'unknown')),
    outcome_at  timestamptz,
    PRIMARY KEY (iss, txn),
    UNIQUE (iss, jti)
);

CREATE TABLE revoked_tokens (
    jti        text PRIMARY KEY,
    revoked_at timestamptz NOT NULL
);

-- Credentials are 256 random bits, so a plain SHA-256 is enough to store.
CREATE TABLE credentials (
    key_hash   bytea PRIMARY KEY CHECK (octet_length(key_hash) = 32),
    kind       text        NOT NULL CHECK (kind IN ('agent', 'executor', 'operator')),
    subject    text        NOT NULL,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX credentials_by_subject ON credentials (kind, subject);

CREATE TABLE operators (
    username      text PRIMARY KEY,
    password_hash text        NOT NULL,
    role          text        NOT NULL CHECK (role IN ('viewer', 'operator', 'approver', 'admin')),
    created_at    timestamptz NOT NULL
);
