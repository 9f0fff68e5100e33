-- Operators, agents and executors are administered on a running service: roles, keys, who is shut out.
--
-- All of these lock every operator's row, in the order of their names, before they look: one change comes after the
-- other, whoever makes it, and whoever is no administrator by then changes nothing. So of two administrators who demote
-- each other at once, one remains.

ALTER TABLE operators
    ADD COLUMN disabled_at timestamptz,
    ADD COLUMN disabled_by text,
    ADD COLUMN version     int NOT NULL DEFAULT 1,  -- raised by every change, so that replicas see that there was one
    ADD CHECK ((disabled_at IS NULL) = (disabled_by IS NULL));
-- A key that was replaced with an overlap is good until then.
ALTER TABLE credentials ADD COLUMN expires_at timestamptz;

-- Whether an operator exists, is not shut out and, with `p_role`, has that role.
CREATE FUNCTION is_operator(p_username text, p_role text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN EXISTS (SELECT FROM operators
                    WHERE username = p_username AND disabled_at IS NULL AND (p_role IS NULL OR role = p_role));
END $$;

CREATE FUNCTION revoke_keys(p_kind text, p_subject text, p_at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE credentials SET revoked_at = p_at WHERE kind = p_kind AND subject = p_subject AND revoked_at IS NULL;
END $$;

-- A new operator with a token. Names that differ in letter case alone would be one person for the rules of two people.
CREATE FUNCTION add_operators(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     record;
BEGIN
    PERFORM FROM operators ORDER BY username FOR UPDATE;
    FOR v_one IN SELECT * FROM jsonb_to_recordset(p_list)
                               AS e (i int, username text, password_hash text, role text, key_hash text,
                                     at timestamptz, changed_by text)
                  ORDER BY i LOOP
        CONTINUE WHEN NOT is_operator(v_one.changed_by, 'admin')
                   OR EXISTS (SELECT FROM operators WHERE lower(username) = lower(v_one.username));
        INSERT INTO operators (username, password_hash, role, created_at)
        VALUES (v_one.username, v_one.password_hash, v_one.role, v_one.at) ON CONFLICT DO NOTHING;
        CONTINUE WHEN NOT FOUND;
        INSERT INTO credentials (key_hash, kind, subject, created_at)
        VALUES (decode(v_one.key_hash, 'hex'), 'operator', v_one.username, v_one.at);
        v_applied := v_applied || v_one.i;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

-- Nobody changes their own role. So whoever changes one is another administrator and stays one: there is always a last.
CREATE FUNCTION change_roles(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     record;
BEGIN
    PERFORM FROM operators ORDER BY username FOR UPDATE;
    FOR v_one IN SELECT * FROM jsonb_to_recordset(p_list)
                               AS e (i int, username text, role text, expect_role text, changed_by text)
                  ORDER BY i LOOP
        CONTINUE WHEN NOT is_operator(v_one.changed_by, 'admin') OR lower(v_one.changed_by) = lower(v_one.username);
        UPDATE operators SET role = v_one.role, version = version + 1
         WHERE username = v_one.username AND role = v_one.expect_role AND role <> v_one.role;
        CONTINUE WHEN NOT FOUND;
        v_applied := v_applied || v_one.i;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

-- Who is shut out loses every token for good.
CREATE FUNCTION disable_operators(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     record;
BEGIN
    PERFORM FROM operators ORDER BY username FOR UPDATE;
    FOR v_one IN SELECT * FROM jsonb_to_recordset(p_list) AS e (i int, username text, at timestamptz, changed_by text)
                  ORDER BY i LOOP
        CONTINUE WHEN NOT is_operator(v_one.changed_by, 'admin')
                   OR NOT EXISTS (SELECT FROM operators
                                   WHERE role = 'admin' AND disabled_at IS NULL AND username <> v_one.username);
        UPDATE operators SET disabled_at = v_one.at, disabled_by = v_one.changed_by, version = version + 1
         WHERE username = v_one.username AND disabled_at IS NULL;
        CONTINUE WHEN NOT FOUND;
        PERFORM revoke_keys('operator', v_one.username, v_one.at);
        v_applied := v_applied || v_one.i;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

-- Who is let in again gets a new token.
CREATE FUNCTION enable_operators(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     record;
BEGIN
    PERFORM FROM operators ORDER BY username FOR UPDATE;
    FOR v_one IN SELECT * FROM jsonb_to_recordset(p_list)
                               AS e (i int, username text, key_hash text, at timestamptz, changed_by text)
                  ORDER BY i LOOP
        CONTINUE WHEN NOT is_operator(v_one.changed_by, 'admin');
        UPDATE operators SET disabled_at = NULL, disabled_by = NULL, version = version + 1
         WHERE username = v_one.username AND disabled_at IS NOT NULL;
        CONTINUE WHEN NOT FOUND;
        PERFORM revoke_keys('operator', v_one.username, v_one.at);
        INSERT INTO credentials (key_hash, kind, subject, created_at)
        VALUES (decode(v_one.key_hash, 'hex'), 'operator', v_one.username, v_one.at);
        v_applied := v_applied || v_one.i;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

-- A key for an agent or executor that has none.
CREATE FUNCTION add_keys(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     record;
BEGIN
    PERFORM FROM operators ORDER BY username FOR UPDATE;
    FOR v_one IN SELECT * FROM jsonb_to_recordset(p_list)
                               AS e (i int, kind text, subject text, key_hash text, at timestamptz, changed_by text)
                  ORDER BY i LOOP
        CONTINUE WHEN NOT is_operator(v_one.changed_by, 'admin')
                   OR EXISTS (SELECT FROM credentials
                               WHERE kind = v_one.kind AND subject = v_one.subject AND revoked_at IS NULL
                                 AND (expires_at IS NULL OR expires_at > v_one.at));
        INSERT INTO credentials (key_hash, kind, subject, created_at)
        VALUES (decode(v_one.key_hash, 'hex'), v_one.kind, v_one.subject, v_one.at);
        v_applied := v_applied || v_one.i;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

-- A new key in place of the old ones, which die at once, or at `old_until`. Operators may do it for themselves. Who is
-- shut out has no good token, so there is nothing to replace.
CREATE FUNCTION rotate_keys(p_list jsonb) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
    v_applied int[] := '{}';
    v_one     record;
BEGIN
    PERFORM FROM operators ORDER BY username FOR UPDATE;
    FOR v_one IN SELECT * FROM jsonb_to_recordset(p_list)
                               AS e (i int, kind text, subject text, key_hash text, at timestamptz,
                                     changed_by text, old_until timestamptz)
                  ORDER BY i LOOP
        CONTINUE WHEN NOT (is_operator(v_one.changed_by, 'admin')
                           OR v_one.kind = 'operator' AND v_one.subject = v_one.changed_by
                              AND is_operator(v_one.changed_by, NULL))
                   OR NOT EXISTS (SELECT FROM credentials
                                   WHERE kind = v_one.kind AND subject = v_one.subject AND revoked_at IS NULL
                                     AND (expires_at IS NULL OR expires_at > v_one.at));
        IF v_one.old_until IS NULL THEN
            PERFORM revoke_keys(v_one.kind, v_one.subject, v_one.at);
        ELSE
            UPDATE credentials SET expires_at = least(expires_at, v_one.old_until)
             WHERE kind = v_one.kind AND subject = v_one.subject AND revoked_at IS NULL;
        END IF;
        INSERT INTO credentials (key_hash, kind, subject, created_at)
        VALUES (decode(v_one.key_hash, 'hex'), v_one.kind, v_one.subject, v_one.at);
        v_applied := v_applied || v_one.i;
    END LOOP;
    RETURN not_among(p_list, v_applied);
END $$;

INSERT INTO effect_operations (position, op, handler) VALUES
    (111, 'add_operator', 'add_operators'),
    (112, 'change_role', 'change_roles'),
    (113, 'disable_operator', 'disable_operators'),
    (114, 'enable_operator', 'enable_operators'),
    (115, 'add_key', 'add_keys'),
    (116, 'rotate_key', 'rotate_keys');

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_writer') THEN
        GRANT SELECT, INSERT, UPDATE ON operators TO holdfast_writer;
    END IF;
END $$;
