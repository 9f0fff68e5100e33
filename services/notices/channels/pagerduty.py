"""PagerDuty, Events API v2: one alert per dedupe key, triggered, added to, and resolved by its ending.

Nothing here acknowledges: that is a human's word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import orjson

from services.notices.notice import Kind

if TYPE_CHECKING:
    from datetime import datetime

    from holdfast.strict_json import JSON

    from services.notices.channel import Taken
    from services.notices.channels.post import Post
    from services.notices.notice import Notice

EVENTS_URL: Final = "https://events.pagerduty.com/v2/enqueue"


class PagerDuty:
    """The Receiver port for PagerDuty."""

    def __init__(self, post: Post, *, routing_key: str, source: str) -> None:
        self._post = post
        self._routing_key = routing_key
        self._source = source

    async def send(self, notice: Notice, now: datetime) -> Taken:  # noqa: ARG002 - an event says when it happened
        """Send the notice. A test resolves itself at once. Raises: Undelivered."""
        if notice.kind is Kind.TEST:
            await self._post.send(self._event(notice, "trigger"))
            return await self._post.send(self._event(notice, "resolve"))
        return await self._post.send(self._event(notice, "resolve" if notice.is_ending else "trigger"))

    async def close(self) -> None:
        """Close the connections."""
        await self._post.close()

    def _event(self, notice: Notice, action: Literal["trigger", "resolve"]) -> bytes:
        event: dict[str, JSON] = {
            "routing_key": self._routing_key,
            "event_action": action,
            "dedup_key": notice.dedupe_key,
        }
        if action == "trigger":
            document = notice.document()
            event["payload"] = {
                "summary": notice.summary,
                "source": self._source,
                "severity": notice.severity.value,
                "timestamp": document["at"],
                "class": notice.kind.value,
                "custom_details": {**dict(notice.details), "notice_id": notice.notice_id},
            }
        return orjson.dumps(event)
