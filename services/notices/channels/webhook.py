"""A webhook by Standard Webhooks, signed with Ed25519: any receiver that has the public key can verify it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from services.outbound.signature import sign

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from services.notices.channel import Taken
    from services.notices.channels.post import Post
    from services.notices.notice import Notice


class Webhook:
    """The Receiver port for a receiver of the operator's own."""

    def __init__(self, post: Post, key: Ed25519PrivateKey) -> None:
        self._post = post
        self._key = key

    async def send(self, notice: Notice, now: datetime) -> Taken:
        """Send the notice, signed as of now. Raises: Undelivered."""
        body = payload(notice)
        timestamp = int(now.timestamp())
        headers = {
            "webhook-id": notice.notice_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self._key, message_id=notice.notice_id, timestamp=timestamp, body=body),
        }
        return await self._post.send(body, headers=headers)

    async def close(self) -> None:
        """Close the connections."""
        await self._post.close()


def payload(notice: Notice) -> bytes:
    """Return the body: `type`, `timestamp` and `data`, as the specification recommends."""
    document = notice.document()
    return orjson.dumps({"type": document["kind"], "timestamp": document["at"], "data": document})
