-- Intents whose receiver answered 410: nothing is sent there any more, whatever becomes of the intent later.

CREATE TABLE webhook_receivers_gone (
    intent_id text PRIMARY KEY REFERENCES intents,
    gone_at   timestamptz NOT NULL DEFAULT now()
);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_writer') THEN
        GRANT SELECT, INSERT ON webhook_receivers_gone TO holdfast_writer;
    END IF;
END $$;
