"""Prometheus Alertmanager, API v2: an alert per dedupe key, which fires until its ending or until it lapses."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final

import orjson

from services.notices.notice import Kind

if TYPE_CHECKING:
    from datetime import datetime

    from services.notices.channel import Taken
    from services.notices.channels.post import Post
    from services.notices.notice import Notice

PATH: Final = "/api/v2/alerts"
#: What has an ending fires until then, at most a day; what has none is over after an hour. Alertmanager would otherwise
#: end each after its `resolve_timeout`, five minutes, because it expects its clients to repeat themselves.
_WITH_ENDING: Final = frozenset(
    {Kind.INCIDENT_OPENED, Kind.INCIDENT_UPDATED, Kind.BREAK_GLASS_ACTIVATED, Kind.OVERRIDE_SET, Kind.HALT_SET}
)
_FIRES: Final = timedelta(days=1)
_LAPSES: Final = timedelta(hours=1)


class Alertmanager:
    """The Receiver port for Alertmanager."""

    def __init__(self, post: Post) -> None:
        self._post = post

    async def send(self, notice: Notice, now: datetime) -> Taken:
        """Send the notice. Raises: Undelivered."""
        return await self._post.send(payload(notice, now))

    async def close(self) -> None:
        """Close the connections."""
        await self._post.close()


def payload(notice: Notice, now: datetime) -> bytes:
    """Return one alert. Its labels are its identity, so they are the same from its opening to its ending."""
    if notice.is_ending or notice.kind is Kind.TEST:
        ends = now
    else:
        ends = notice.at + (_FIRES if notice.kind in _WITH_ENDING else _LAPSES)
    alert = {
        "labels": {
            "alertname": _name(notice.kind),
            "severity": notice.severity.value,
            "dedupe_key": notice.dedupe_key,
        },
        "annotations": {
            **dict(notice.details),
            "summary": notice.summary,
            "kind": notice.kind.value,
            "notice_id": notice.notice_id,
        },
        "startsAt": _time(min(notice.at, ends)),
        "endsAt": _time(ends),
    }
    return orjson.dumps([alert])


def _name(kind: Kind) -> str:
    """Return `HoldfastBreakGlass` for every `break_glass.…`."""
    return "Holdfast" + "".join(word.capitalize() for word in kind.partition(".")[0].split("_"))


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
