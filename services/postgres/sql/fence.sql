-- $1 application name: signal every other backend that carries it, and return those that are still there. One that is
-- gone from this view has aborted its transaction and released its locks.
SELECT pid, pg_terminate_backend(pid) AS signalled
  FROM pg_stat_activity
 WHERE application_name = $1 AND pid <> pg_backend_pid()
