-- Signatures over a bundle's digest. Who is trusted is not said here: every process asks its own file of keys.

CREATE TABLE policy_signatures (
    digest    text NOT NULL REFERENCES policy_bundles,
    signature text NOT NULL CHECK (signature ~ '^[A-Za-z0-9_-]{43}:[A-Za-z0-9_-]{86}$'),
    stored_at timestamptz NOT NULL,
    stored_by text        NOT NULL,
    PRIMARY KEY (digest, signature)
);

-- Uploads. What is stored stays as it is, and may get further signatures; an upload that adds nothing is refused.
CREATE OR REPLACE FUNCTION put_bundles(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     jsonb;
    v_stored  boolean;
BEGIN
    FOR v_one IN SELECT e FROM jsonb_array_elements(p_list) AS e ORDER BY e->>'digest', (e->>'i')::int LOOP
        INSERT INTO policy_bundles (digest, archive, uploaded_at, uploaded_by)
        VALUES (v_one->>'digest', decode(v_one->>'archive', 'base64'), (v_one->>'uploaded_at')::timestamptz,
                v_one->>'uploaded_by')
            ON CONFLICT DO NOTHING;
        v_stored := FOUND;
        INSERT INTO policy_signatures (digest, signature, stored_at, stored_by)
        SELECT v_one->>'digest', s, (v_one->>'uploaded_at')::timestamptz, v_one->>'uploaded_by'
          FROM jsonb_array_elements_text(coalesce(v_one->'signatures', '[]'::jsonb)) AS s
         ORDER BY s
            ON CONFLICT DO NOTHING;
        IF v_stored OR FOUND THEN
            v_applied := v_applied || (v_one->>'i')::int;
        END IF;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_writer') THEN
        GRANT SELECT, INSERT ON policy_signatures TO holdfast_writer;
    END IF;
END $$;
