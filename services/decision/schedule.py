"""Hours of the week in a time zone: `Mon-Fri 09:00-17:00`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = "|".join(WEEKDAYS)
_WINDOW = re.compile(
    rf"(?:(?P<days>(?:{_DAY})(?:-(?:{_DAY}))?(?:,(?:{_DAY})(?:-(?:{_DAY}))?)*) )?"
    r"(?P<start>(?:[01][0-9]|2[0-3]):[0-5][0-9])-(?P<end>(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00)"
)


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes of the day from `start` up to, not including, `end`, on some weekdays (0 is Monday).

    `end` before `start` runs past midnight and belongs to the day on which it starts.
    """

    days: frozenset[int]
    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read `Mon-Fri 09:00-17:00`, `Sat,Sun 00:00-24:00` or `22:00-06:00` (every day). Raises: ValueError."""
        match = _WINDOW.fullmatch(text)
        if match is None:
            raise ValueError(f"`{text[:60]}` is not a window such as `Mon-Fri 09:00-17:00`")
        start, end = _minutes(match["start"]), _minutes(match["end"])
        if start == end:
            raise ValueError(f"`{text}` is empty: it ends when it starts")
        days: set[int] = set()
        for part in (match["days"] or "Mon-Sun").split(","):
            first, _, last = part.partition("-")
            low, high = WEEKDAYS.index(first), WEEKDAYS.index(last or first)
            days.update((low + step) % 7 for step in range((high - low) % 7 + 1))
        return cls(frozenset(days), start, end)

    def contains(self, weekday: int, minute: int) -> bool:
        """Tell whether a minute of a local day is inside."""
        if self.start < self.end:
            return weekday in self.days and self.start <= minute < self.end
        return (weekday in self.days and minute >= self.start) or ((weekday - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When something is allowed. No window means never."""

    zone: ZoneInfo
    windows: tuple[Window, ...]

    @classmethod
    def parse(cls, timezone: str, windows: Iterable[str]) -> Schedule:
        """Read a schedule. Raises: ValueError."""
        return cls(time_zone(timezone), tuple(Window.parse(text) for text in windows))

    def contains(self, now: datetime) -> bool:
        """Tell whether the aware time `now` is inside, by the wall clock of the zone."""
        local = now.astimezone(self.zone)
        weekday, minute = local.weekday(), local.hour * 60 + local.minute
        return any(window.contains(weekday, minute) for window in self.windows)


def time_zone(name: str) -> ZoneInfo:
    """Return the IANA time zone. Raises: ValueError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as failure:
        raise ValueError(f"`{name[:60]}` is not a time zone such as `Europe/Berlin`") from failure


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)
