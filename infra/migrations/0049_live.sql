-- The drain goes by whether agents submit at all, and not only by whether they are slow: beside them it makes room before
-- anybody has to wait.

ALTER TABLE boundary_reports
    ADD COLUMN live boolean NOT NULL DEFAULT false;     -- live submissions in the last second
