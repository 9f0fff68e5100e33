"""Durations as Go writes them: `30m`, `1h30m`, `90s`. Source: Go's time.ParseDuration."""

from __future__ import annotations

import re
from typing import Final

_PART = re.compile(r"([0-9]+)(h|m|s)")
_WHOLE = re.compile(r"(?:[0-9]{1,6}(?:h|m|s))+")
_SECONDS: Final = {"h": 3600, "m": 60, "s": 1}


def seconds(text: str) -> int:
    """Return the seconds of a duration in whole hours, minutes and seconds. Raises: ValueError."""
    if _WHOLE.fullmatch(text) is None:
        raise ValueError(f"`{text[:40]}` is not a duration such as `30m`")
    return sum(int(count) * _SECONDS[unit] for count, unit in _PART.findall(text))
