"""When what a receiver did not take is sent again, and when it is given up."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

#: Over about a day: the pauses double from the first to the last.
GIVE_UP_AFTER_S: Final = 24 * 3600.0
MAX_ATTEMPTS: Final = 64
_PAUSES_S: Final = {"soon": (5.0, 3600.0), "slowly": (600.0, 4 * 3600.0)}
#: A receiver may ask for patience, not for silence.
_MAX_RETRY_AFTER_S: Final = 3600.0


class Retry(StrEnum):
    """What kind of failure it was."""

    SOON = "soon"  # a timeout, a broken connection, 429, 5xx: the receiver's weather
    SLOWLY = "slowly"  # any other answer: somebody has to change something
    NEVER = "never"  # 410: the receiver says that it is gone


def pause_s(retry: Retry, *, attempts: int, age_s: float, jitter: float, retry_after_s: float | None) -> float | None:
    """Return how long to wait after the `attempts`-th failure, None to give up.

    `age_s` is since the first attempt was due, `jitter` is in [0, 1) and takes up to half of the pause away.
    `retry_after_s` is what the receiver asked for: it is honoured up to an hour.
    """
    if retry is Retry.NEVER or attempts >= MAX_ATTEMPTS or age_s >= GIVE_UP_AFTER_S:
        return None
    first_s, last_s = _PAUSES_S[retry]
    longest_s = min(last_s, first_s * 2.0 ** (attempts - 1))
    asked_s = min(max(0.0, retry_after_s or 0.0), _MAX_RETRY_AFTER_S)
    return max(asked_s, longest_s * (1 - jitter / 2))
