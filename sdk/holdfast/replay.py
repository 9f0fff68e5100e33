"""The executor's own record of consumed tokens, for working through an outage of the service.

One SQLite file per audience, rollback journal, every commit synced to the disk before it counts. Threads and processes
of one machine may share the file: each transaction holds a lock file beside it and SQLite's own lock. A network file
system has neither in a form to rely on; keep the file on a local disk.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from holdfast.errors import TokenRejected
from holdfast.reasons import ReasonCode

if TYPE_CHECKING:
    from types import TracebackType

LOCK_TIMEOUT_S: Final = 2.0
REPORT_LEASE_S: Final = 60.0
KEEP_EXPIRED_S: Final = 7 * 24 * 3600
_RETRY_LOCK_S: Final = 0.005

_SCHEMA: Final = (
    "CREATE TABLE store (audience TEXT NOT NULL, since INTEGER NOT NULL)",
    """CREATE TABLE consumed (
        iss TEXT NOT NULL, txn TEXT NOT NULL, jti TEXT NOT NULL, exp INTEGER NOT NULL, consumed_at REAL NOT NULL,
        report BLOB NOT NULL,
        report_state TEXT NOT NULL DEFAULT 'waiting' CHECK (report_state IN ('waiting', 'sent', 'refused')),
        outcome BLOB,
        outcome_state TEXT NOT NULL DEFAULT 'waiting' CHECK (outcome_state IN ('waiting', 'sent', 'refused')),
        leased_until REAL NOT NULL,
        PRIMARY KEY (iss, txn), UNIQUE (iss, jti)
    ) WITHOUT ROWID""",
    "CREATE TABLE revoked (jti TEXT PRIMARY KEY) WITHOUT ROWID",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreported:
    """A local consumption that the service does not know all of. The bodies are those of the two calls."""

    iss: str
    jti: str
    report: bytes | None = field(repr=False)
    outcome: bytes | None = field(repr=False)


class ReplayStore:
    """Consumes each intent and each token exactly once, durably, without the service.

    A store cannot know what was consumed before it existed: `since` is when it was made, and the Guard refuses tokens
    that are older. Raises on opening: ValueError for another audience's store, TokenRejected when it cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], audience: str) -> None:
        if not audience:
            raise ValueError("a replay store belongs to one audience")
        self.audience: Final = audience
        self._path = Path(path)
        self._pid = os.getpid()
        self._thread_lock = threading.Lock()
        self._lock_fd = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Only a file that is not there yet is opened by hand: closing a descriptor would drop SQLite's locks on it.
            with suppress(FileExistsError):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                self._path, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            os.close(self._lock_fd)
            raise _unavailable(f"the replay store cannot be opened ({type(error).__name__})") from error
        try:
            self.since: Final = self._prepare()
        except sqlite3.Error as error:
            self.close()
            raise _unavailable(f"the replay store cannot be used ({type(error).__name__})") from error
        except BaseException:
            self.close()
            raise

    def consume(
        self, iss: str, txn: str, jti: str, exp: int, *, report: bytes = b"", lease_s: float = REPORT_LEASE_S
    ) -> None:
        """Consume the token. It is on the disk when this returns.

        `report` is kept for the service; for `lease_s` only the caller sends it. Raises: TokenRejected with
        TOKEN_CONSUMED, TOKEN_REVOKED, or CONSUMPTION_UNAVAILABLE when the store cannot be trusted to remember.
        """
        with self._transaction():
            if self._connection.execute("SELECT 1 FROM revoked WHERE jti = ?", (jti,)).fetchone() is not None:
                raise TokenRejected(ReasonCode.TOKEN_REVOKED, "the token was revoked at this executor")
            inserted = self._connection.execute(
                "INSERT INTO consumed (iss, txn, jti, exp, consumed_at, report, leased_until)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (iss, txn, jti, exp, time.time(), report, time.time() + lease_s),
            )
            if inserted.rowcount != 1:
                raise TokenRejected(ReasonCode.TOKEN_CONSUMED, "the token, or another of its intent, was consumed")

    def revoke(self, jti: str) -> None:
        """Refuse this token from now on, whatever the service says. Raises: TokenRejected if it cannot be stored."""
        with self._transaction():
            self._connection.execute("INSERT INTO revoked (jti) VALUES (?) ON CONFLICT DO NOTHING", (jti,))

    def keep_outcome(self, iss: str, jti: str, outcome: bytes) -> None:
        """Keep the outcome of a consumption until the service has it. Raises: TokenRejected if it cannot be stored."""
        with self._transaction():
            self._connection.execute(
                "UPDATE consumed SET outcome = ? WHERE iss = ? AND jti = ? AND outcome IS NULL", (outcome, iss, jti)
            )

    def lease_unreported(self, limit: int, *, lease_s: float = REPORT_LEASE_S) -> list[Unreported]:
        """Return the oldest consumptions of which the service lacks something, to this caller alone for `lease_s`."""
        now = time.time()
        with self._transaction():
            rows = self._connection.execute(
                "SELECT iss, jti, CASE report_state WHEN 'waiting' THEN report END,"
                " CASE outcome_state WHEN 'waiting' THEN outcome END FROM consumed WHERE leased_until <= ?"
                " AND (report_state = 'waiting'"
                " OR (report_state = 'sent' AND outcome_state = 'waiting' AND outcome IS NOT NULL))"
                " ORDER BY consumed_at LIMIT ?",
                (now, limit),
            ).fetchall()
            self._connection.executemany(
                "UPDATE consumed SET leased_until = ? WHERE iss = ? AND jti = ?",
                [(now + lease_s, iss, jti) for iss, jti, _, _ in rows],
            )
        return [Unreported(iss=iss, jti=jti, report=report, outcome=outcome) for iss, jti, report, outcome in rows]

    def release(self, iss: str, jti: str) -> None:
        """Let others report what this caller could not."""
        with self._transaction():
            self._connection.execute("UPDATE consumed SET leased_until = 0 WHERE iss = ? AND jti = ?", (iss, jti))

    def reported(self, iss: str, jti: str, *, accepted: bool) -> None:
        """Note the service's answer to the consumption's report, and let go of it."""
        with self._transaction():
            self._connection.execute(
                "UPDATE consumed SET report_state = ?, leased_until = 0 WHERE iss = ? AND jti = ?",
                ("sent" if accepted else "refused", iss, jti),
            )

    def outcome_reported(self, iss: str, jti: str, *, accepted: bool) -> None:
        """Note the service's answer to the outcome's report."""
        with self._transaction():
            self._connection.execute(
                "UPDATE consumed SET outcome_state = ? WHERE iss = ? AND jti = ?",
                ("sent" if accepted else "refused", iss, jti),
            )

    def close(self) -> None:
        """Close the file. A store that is closed consumes nothing."""
        with self._thread_lock:
            self._connection.close()
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
                self._lock_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> int:
        """Make the store durable and this audience's. Returns when it was made, in seconds since the epoch."""
        # The journal is part of the promise: read back what was set. EXTRA is FULL and the directory's sync, without
        # which a power cut may bring a deleted rollback journal, and so an unconsumed token, back.
        mode = self._connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        self._connection.execute("PRAGMA synchronous = EXTRA")
        synchronous = self._connection.execute("PRAGMA synchronous").fetchone()
        if mode != ("delete",) or synchronous != (3,):
            raise _unavailable("the replay store cannot be made durable")
        with self._transaction():
            if not self._connection.execute("SELECT 1 FROM sqlite_master").fetchall():
                for statement in _SCHEMA:
                    self._connection.execute(statement)
                self._connection.execute("INSERT INTO store VALUES (?, ?)", (self.audience, int(time.time())))
            rows = self._connection.execute("SELECT audience, since FROM store").fetchall()
            if len(rows) != 1 or rows[0][0] != self.audience:
                raise ValueError("the replay store belongs to another audience")
            since = int(rows[0][1])
            self._connection.execute(
                "DELETE FROM consumed WHERE exp < ? AND report_state <> 'waiting'", (time.time() - KEEP_EXPIRED_S,)
            )
        return since

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run one transaction alone on this machine. Whatever goes wrong is SERVICE_UNAVAILABLE."""
        if os.getpid() != self._pid:
            raise _unavailable("a replay store does not survive a fork; open it in the child")
        if not self._thread_lock.acquire(timeout=LOCK_TIMEOUT_S):
            raise _unavailable("the replay store is busy")
        try:
            if self._lock_fd < 0:
                raise _unavailable("the replay store is closed")
            self._take_file_lock()
            try:
                # A file that was removed or replaced under us fails here: SQLITE_READONLY_DBMOVED.
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.rollback()
                raise
            finally:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        except (sqlite3.Error, OSError) as error:
            raise _unavailable(f"the replay store failed ({type(error).__name__})") from error
        finally:
            self._thread_lock.release()

    def _take_file_lock(self) -> None:
        give_up_at = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(_RETRY_LOCK_S)
            else:
                return


def _unavailable(detail: str) -> TokenRejected:
    return TokenRejected(ReasonCode.CONSUMPTION_UNAVAILABLE, detail)
