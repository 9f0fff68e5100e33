"""What every process of the service does at its start, and how it says why it does not start."""

from __future__ import annotations

import logging
import resource
import signal
import sys
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from services.recording.disk import DirectoryLocked
from services.recording.frames import JournalCorrupt
from services.recording.journal import JournalUnavailable
from services.recording.sink import Fork
from services.settings import Settings

if TYPE_CHECKING:
    import asyncio

    from services.decision.finding import BundleInvalid

#: Libraries that log whole addresses: of every request, as information; of what it cannot read, as an error.
_QUIETER: Final = {"httpx2": logging.WARNING, "apprise": logging.CRITICAL}


_log = logging.getLogger(__name__)
_END_S: Final = 10
#: What waits open at one process at most (docs/queue.md), and room for everything else.
_OPEN_FILES: Final = 16_384

#: Why a lane does not start: its journal is damaged, used by another process, on a disk that does not answer, or of
#: another history than the database.
LOG_UNUSABLE: Final = (DirectoryLocked, JournalCorrupt, JournalUnavailable, Fork)


def end_with(task: asyncio.Task[None]) -> None:
    """End the process if this task failed, whatever holds the others: half a process must not go on answering.

    For `add_done_callback`. The task's group asks everybody to stop; SIGALRM ends whoever does not listen, and the
    supervisor starts the process again.
    """
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("the process ends, because a part of it failed", exc_info=error)
        signal.alarm(_END_S)


def allow_connections() -> None:
    """Raise this process's limit of open files as far as it needs and may.

    The usual 1,024 are taken up by a thousand callers who wait, and then nobody else is answered.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft != resource.RLIM_INFINITY and soft < _OPEN_FILES:
        _log.warning("no more than %d files and connections may be open at once: raise the limit of open files", soft)


def configure_logging() -> None:
    """Log to standard error, a line each.

    INVARIANT: no address that is called is logged: that of a notification channel may be a secret.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for library, level in _QUIETER.items():
        logging.getLogger(library).setLevel(level)


def read_settings(**given: str) -> Settings | None:
    """Return the settings from the environment, or say what is missing or wrong, never a value, and return None."""
    try:
        return Settings(**given)  # type: ignore[arg-type] # pydantic checks; the environment fills the rest
    except ValidationError as error:
        for problem in error.errors():
            name = "HOLDFAST_" + "_".join(str(part) for part in problem["loc"]).upper()
            _say(f"{name}: {problem['msg']}")
        return None


def refuse_bundle(error: BundleInvalid) -> int:
    """Say what is wrong with the policies, a line each, and return the exit status."""
    for finding in error.findings:
        _say(str(finding))
    return 1


def refuse_log(error: Exception, settings: Settings) -> int:
    """Say why the process's part of the log cannot be continued, and return the exit status."""
    journal = settings.data_dir / "journal" / settings.instance
    return refuse(f"refusing to start with the journal `{journal}`: {error} (docs/audit.md, when a human has to look)")


def refuse(why: str) -> int:
    """Say why the process does not start, and return the exit status."""
    _say(why)
    return 1


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 - the reason for not starting goes to whoever started it
