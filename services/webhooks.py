"""Tells receivers outside what became of waiting intents. Runs in the worker; the row in PostgreSQL is the job.

    1. claim     one due delivery at a time, leased; never one of an agent that has enough under way.
    2. where     the submission's `callback_url`, judged by the guard again: names change where they point.
    3. send      the envelope without a token, signed; one POST, bounded in time and in what is read.
    4. settle    2xx ends it; 410 ends all of its intent, those to come too. Else it is tried again, later and later,
                 for about a day.
    5. give up   with a record in the log, and a notice to the operators.

A receiver learns nothing here that its agent could not look up, and nothing here permits anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import orjson
from holdfast import strict_json
from holdfast.errors import InvalidIntent, MalformedJSON
from holdfast.intent import Intent

from services.changes import shown
from services.notices.notice import ID_PREFIX, MAX_DETAIL, MAX_SUMMARY, Kind, Notice, Severity, printable
from services.outbound.guard import Refused, Unresolved
from services.outbound.post import Undelivered
from services.outbound.signature import sign
from services.outcome import rfc3339
from services.ports import Entry, RecordingFailed, StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from holdfast.strict_json import JSON

    from services.metrics import Metrics
    from services.outbound.guard import Guard, Resolver
    from services.outbound.post import Receipt
    from services.ports import Clock, Ids, Recorder

_log = logging.getLogger(__name__)

AT_ONCE: Final = 32
#: One agent whose receiver hangs must not hold up the others.
AT_ONCE_PER_AGENT: Final = 4
MAX_ATTEMPTS: Final = 14
GIVE_UP_AFTER_S: Final = 24 * 3600
_FIRST_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 4 * 3600.0
_IDLE_S: Final = 0.5
_AWAY_S: Final = 2.0
_REFRESH_S: Final = 2.0
_STILL_USED_EVERY_S: Final = 3600.0
_GONE: Final = 410
#: A receiver that is dead stays dead for a while.
_DEATH_NOTICE_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One change of one intent that is owed to its receiver, as leased. `attempts` counts this one.

    `receiver_is_gone` when it answered an earlier one with 410: then nothing more is sent there.
    """

    intent_id: str
    version: int
    agent: str
    status: str
    stored: str
    claim_by: datetime | None
    created_at: datetime
    attempts: int
    epoch: int
    submission: bytes
    receiver_is_gone: bool

    @property
    def message_id(self) -> str:
        """The same for every attempt: receivers tell repeats by it."""
        return f"msg_{self.intent_id}_{self.version}"

    def body(self) -> bytes:
        """Return what is sent: the same bytes for every attempt."""
        document: dict[str, JSON] = {
            "type": f"intent.{self.status}",
            "timestamp": rfc3339(self.created_at),
            "version": self.version,
            "data": shown(orjson.loads(self.stored), status=self.status, claim_by=self.claim_by),
        }
        return orjson.dumps(document)

    def url(self) -> str | None:
        """Return where the agent wants to be called, None if it does not."""
        try:
            return Intent.from_json(strict_json.loads(self.submission)).callback_url
        except (MalformedJSON, InvalidIntent):
            return None


class Deliveries(Protocol):
    """Deliveries that are owed. Raises: StoreUnreachable."""

    async def claim(self, *, spared: Collection[str]) -> Delivery | None:
        """Lease the delivery that is due for longest, of an agent that is not spared."""
        ...

    async def postpone(self, delivery: Delivery, seconds: float) -> None:
        """Give a leased delivery back until later."""
        ...

    async def done(self, delivery: Delivery) -> None:
        """Forget a leased delivery."""
        ...

    async def gone(self, intent_id: str) -> None:
        """Forget every delivery of an intent whose receiver is gone, those that come later too."""
        ...

    async def owed(self) -> tuple[int, float]:
        """Return how many are owed, and for how many seconds the oldest is."""
        ...


class WebhookKeys(Protocol):
    """Public keys, as receivers are given them. Raises: StoreUnreachable."""

    async def is_published(self, public_key: bytes) -> bool:
        """Return whether a key was ever published."""
        ...

    async def publish(self, public_key: bytes) -> None:
        """Publish a key, or say that it is still used."""
        ...

    async def published(self) -> Sequence[bytes]:
        """Return the keys in use, newest first."""
        ...


class Post(Protocol):
    """One POST to wherever the guard lets it go."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Send once. Raises: Refused, Undelivered."""
        ...


class Webhooks:
    """Delivers until cancelled. `keys` sign every message, so that receivers can be moved from one to the next."""

    def __init__(
        self,
        *,
        deliveries: Deliveries,
        published: WebhookKeys,
        post: Post,
        keys: Sequence[Ed25519PrivateKey],
        recorder: Recorder,
        clock: Clock,
        ids: Ids,
    ) -> None:
        if not keys:
            raise ValueError("webhooks are signed")
        self._deliveries = deliveries
        self._published = published
        self._post = post
        self._keys = tuple(keys)
        self._recorder = recorder
        self._clock = clock
        self._ids = ids
        self._under_way: Counter[str] = Counter()
        self._deaths: dict[str, float] = {}  # by agent: when operators were told of it last, monotonic

    # --- keys -----------------------------------------------------------------------------------------------------

    async def publish(self) -> None:
        """Publish the public keys, a new one with a record, and say from time to time that they are used."""
        while True:
            try:
                for key in self._keys:
                    await self._publish(key.public_key().public_bytes_raw())
                pause_s = _STILL_USED_EVERY_S
            except (StoreUnreachable, RecordingFailed) as error:
                _log.info("the keys of webhooks are not published yet: %s", error)
                pause_s = _AWAY_S
            await asyncio.sleep(pause_s)

    async def _publish(self, public_key: bytes) -> None:
        if not await self._published.is_published(public_key):
            members: dict[str, JSON] = {"sha256": hashlib.sha256(public_key).hexdigest()}
            entry = Entry(kind="webhook.key_published", at=self._clock.now(), members=members)
            await self._recorder.append(entry).settled()
        await self._published.publish(public_key)

    # --- deliveries -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Deliver what is due until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            room = asyncio.Semaphore(AT_ONCE)
            while True:
                async with room:
                    delivery, pause_s = await self._claim()
                if delivery is None:
                    await asyncio.sleep(pause_s)
                    continue
                await room.acquire()
                self._under_way[delivery.agent] += 1
                tasks.create_task(self._deliver_in(room, delivery))

    async def _deliver_in(self, room: asyncio.Semaphore, delivery: Delivery) -> None:
        try:
            await self.deliver(delivery)
        finally:
            room.release()
            self._under_way[delivery.agent] -= 1
            if not self._under_way[delivery.agent]:
                del self._under_way[delivery.agent]

    async def deliver(self, delivery: Delivery) -> None:
        """Make one attempt and settle it. While the store is away it stays leased, and comes back by itself."""
        try:
            await self._attempt(delivery)
        except StoreUnreachable as error:
            # Sent perhaps, and not settled: sent again later, under the same id.
            _log.warning("%s: the delivery is not settled: %s", delivery.message_id, error)

    async def _claim(self) -> tuple[Delivery | None, float]:
        spared = [agent for agent, count in self._under_way.items() if count >= AT_ONCE_PER_AGENT]
        try:
            return await self._deliveries.claim(spared=spared), _IDLE_S
        except StoreUnreachable:
            return None, _AWAY_S

    async def _attempt(self, delivery: Delivery) -> None:
        url = delivery.url()
        if url is None or delivery.receiver_is_gone:
            await self._deliveries.done(delivery)
            return
        asked_s = None
        try:
            receipt = await self._post.post(url, self._headers(delivery), delivery.body())
        except (Refused, Undelivered) as error:
            why = str(error)
        else:
            if 200 <= receipt.status < 300:  # noqa: PLR2004 - HTTP
                await self._deliveries.done(delivery)
                return
            if receipt.status == _GONE:
                await self._give_up(delivery, "webhook.gone", "the receiver answered 410")
                return
            why, asked_s = f"the receiver answered {receipt.status}", receipt.retry_after_s
        pause_s = pause(delivery, now=self._clock.now(), asked_s=asked_s)
        if pause_s is None:
            await self._give_up(delivery, "webhook.dead", why)
            return
        _log.info("%s: attempt %d failed, %s", delivery.message_id, delivery.attempts, why)
        await self._deliveries.postpone(delivery, pause_s)

    async def _give_up(self, delivery: Delivery, kind: str, why: str) -> None:
        _log.warning("%s: given up, %s", delivery.message_id, why)
        members: dict[str, JSON] = {
            "intent_id": delivery.intent_id,
            "agent": delivery.agent,
            "status": delivery.status,
            "version": delivery.version,
            "attempts": delivery.attempts,
            "why": why,
        }
        notices = self._told(delivery, why) if kind == "webhook.dead" else ()
        entry = Entry(kind=kind, at=self._clock.now(), members=members, journal_may_release=True, notices=notices)
        try:
            await self._recorder.append(entry).settled()
        except RecordingFailed as error:
            # Without a record nothing is given up: it comes back when its lease is over.
            _log.error("%s: giving up could not be recorded: %s", delivery.message_id, error)
            return
        if notices:
            self._deaths[delivery.agent] = self._clock.monotonic()
        if kind == "webhook.gone":
            await self._deliveries.gone(delivery.intent_id)
        else:
            await self._deliveries.done(delivery)

    def _told(self, delivery: Delivery, why: str) -> tuple[Notice, ...]:
        """Return what operators are told: of one agent's receiver once an hour, however much it misses."""
        last = self._deaths.get(delivery.agent)
        if last is not None and self._clock.monotonic() - last < _DEATH_NOTICE_S:
            return ()
        return (
            Notice(
                notice_id=self._ids.new(ID_PREFIX),
                kind=Kind.WEBHOOK_DEAD,
                severity=Severity.ERROR,
                dedupe_key=f"webhook:{delivery.intent_id}",
                summary=printable(f"a webhook of {delivery.agent} is given up", limit=MAX_SUMMARY),
                at=self._clock.now(),
                details={
                    "agent": printable(delivery.agent, limit=MAX_DETAIL),
                    "intent_id": delivery.intent_id,
                    "status": delivery.status,
                    "attempts": str(delivery.attempts),
                    "why": printable(why, limit=MAX_DETAIL),
                },
            ),
        )

    def _headers(self, delivery: Delivery) -> dict[str, str]:
        timestamp, body = int(self._clock.now().timestamp()), delivery.body()
        signatures = [sign(key, message_id=delivery.message_id, timestamp=timestamp, body=body) for key in self._keys]
        return {
            "webhook-id": delivery.message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signatures),
            "content-type": "application/json",
            "user-agent": "holdfast-webhooks/1",
        }


class Callbacks:
    """The API's side: whether an agent may be called back, and where; and the keys that receivers need."""

    def __init__(
        self, *, guard: Guard, resolver: Resolver, published: WebhookKeys, deliveries: Deliveries, metrics: Metrics
    ) -> None:
        self._guard = guard
        self._resolver = resolver
        self._published = published
        self._deliveries = deliveries
        self._metrics = metrics
        self._keys: tuple[bytes, ...] = ()

    @property
    def keys(self) -> Sequence[bytes]:
        """The public keys in use, as last read; empty where nobody is called back."""
        return self._keys

    async def check(self, url: str) -> None:
        """Return if a receiver may be called there, as far as can be told now. Raises: Refused.

        A name that cannot be resolved now is judged when it can be: at the delivery.
        """
        if not self._keys:
            raise Refused("this service calls nobody back: poll or wait instead")
        with contextlib.suppress(Unresolved):
            await self._guard.locate(url, self._resolver)

    async def run(self) -> None:
        """Keep the keys and the figures fresh until cancelled."""
        while True:
            try:
                self._keys = tuple(await self._published.published())
                count, oldest_s = await self._deliveries.owed()
                self._metrics.webhooks_waiting.set(count)
                self._metrics.webhooks_oldest_seconds.set(oldest_s)
            except StoreUnreachable as error:
                _log.debug("the state of webhooks cannot be read now: %s", error)
            await asyncio.sleep(_REFRESH_S)


def pause(delivery: Delivery, *, now: datetime, asked_s: int | None) -> float | None:
    """Return after how many seconds a failed delivery is tried again; None when it is given up.

    Three times longer each time, up to four hours, and moved by up to a half so that many do not come at once: which
    way is a matter of the message, not of chance. A receiver that asks for more time gets it.
    """
    if delivery.attempts >= MAX_ATTEMPTS:
        return None
    longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 3.0 ** (delivery.attempts - 1))
    seed = hashlib.sha256(f"{delivery.message_id}.{delivery.attempts}".encode("ascii")).digest()
    pause_s = max(longest * (0.5 + seed[0] / 510), float(asked_s or 0))
    if (now - delivery.created_at).total_seconds() + pause_s > GIVE_UP_AFTER_S:
        return None
    return pause_s
