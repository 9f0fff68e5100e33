"""A Slack incoming webhook. What others wrote can mention nobody: Slack reads mentions and links from `<…>` alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from datetime import datetime

    from services.notices.channel import Taken
    from services.notices.channels.post import Post
    from services.notices.notice import Notice


class Slack:
    """The Receiver port for Slack."""

    def __init__(self, post: Post) -> None:
        self._post = post

    async def send(self, notice: Notice, now: datetime) -> Taken:  # noqa: ARG002 - a message says when it happened
        """Send the notice. Raises: Undelivered."""
        return await self._post.send(payload(notice))

    async def close(self) -> None:
        """Close the connections."""
        await self._post.close()


def payload(notice: Notice) -> bytes:
    """Return the message: the summary, then a line for each detail."""
    lines = [f"*{notice.severity.upper()}* {_escaped(notice.summary)}", f"{notice.kind} at {notice.document()['at']}"]
    lines += [f"{name}: {_escaped(value)}" for name, value in sorted(notice.details.items())]
    lines.append(notice.notice_id)
    # `parse: none` and `link_names: false`: `@channel` in a text stays text.
    return orjson.dumps(
        {"text": "\n".join(lines), "parse": "none", "link_names": False, "unfurl_links": False, "unfurl_media": False}
    )


def _escaped(text: str) -> str:
    """Source: Slack, "Formatting text for app surfaces": these three characters, and no others."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
