"""The agent's clients: `Client` for plain code, `AsyncClient` for an event loop. Both run `holdfast.submission`.

Anything but a verified 200 means no: every method that returns an `Authority` has checked its token, and raises
otherwise.

    with Client("https://holdfast.example", "hfa_…") as client:
        authority = client.submit(
            action="payments.refund.create",
            resource=Resource(type="payment", id="pay_123"),
            parameters={"amount_cents": 4200, "currency": "EUR"},
        )
    call_the_executor(authority.token)
"""

from __future__ import annotations

import math
from inspect import isawaitable
from typing import TYPE_CHECKING, Final, Self, TypedDict, Unpack

from holdfast.errors import InvalidIntent
from holdfast.exchange import AsyncOutside, BlockingOutside, Door, check_base_url, check_credential, drive
from holdfast.intent import Intent
from holdfast.jwks import FetchedKeys, Freshness, PinnedKeys
from holdfast.submission import Authority, Conversation, Patience, ask, check_idempotency_key, check_supersedes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    import httpx2

    from holdfast.intent import Context, Priority, Resource
    from holdfast.strict_json import JSON

#: The executor holds the real cap; this one only keeps nonsense out.
DEFAULT_MAX_LIFETIME_S: Final = 3600


class IntentMembers(TypedDict, total=False):
    """The keyword form of an `Intent`."""

    action: str
    resource: Resource
    parameters: Mapping[str, JSON]
    executor: str | None
    context: Context
    priority: Priority
    queue: bool
    expires_in: int | None
    callback_url: str | None


class Client:
    """An agent's blocking client. May be shared by threads.

    `issuer` is what a token's `iss` must say, the base URL unless given; `agent`, if given, what its `sub` must say.
    Plain http is refused outside loopback unless `allow_plain_http` says that the network may be trusted.
    """

    def __init__(
        self,
        base_url: str,
        credential: str,
        *,
        issuer: str | None = None,
        agent: str | None = None,
        keys: PinnedKeys | None = None,
        max_lifetime_s: int = DEFAULT_MAX_LIFETIME_S,
        patience: Patience | None = None,
        freshness: Freshness | None = None,
        allow_plain_http: bool = False,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._base_url = check_base_url(base_url, allow_plain_http=allow_plain_http)
        check_credential(credential)
        self._outside = BlockingOutside(Door(base_url=self._base_url, credential=credential, transport=transport))
        self._conversation = Conversation(
            self._outside,
            keys or FetchedKeys(self._outside, freshness),
            issuer=issuer or self._base_url,
            agent=agent,
            max_lifetime_s=max_lifetime_s,
            patience=patience or Patience(),
        )

    def submit(
        self,
        intent: Intent | None = None,
        *,
        idempotency_key: str | None = None,
        supersedes: str | None = None,
        wait: float | None = None,
        on_progress: Callable[[Mapping[str, object]], object] | None = None,
        **members: Unpack[IntentMembers],
    ) -> Authority:
        """Ask for one action, as an `Intent` or in keywords, and return the verified authority.

        `supersedes` is the idempotency key of a waiting intent of one's own that this one replaces: it ends with the
        commit that stores this one, whatever becomes of this one. Refused with NOT_FOUND where there is none, with
        NOT_CANCELLABLE where it waits no more.

        `wait` is in seconds: a queued or held intent is then followed until it can be claimed, and `on_progress` gets
        each envelope whose status changed. Raises: Refused, NotDecided, ServiceUnavailable, InvalidIntent.
        """

        async def progress(envelope: Mapping[str, object]) -> None:
            if on_progress is not None:
                on_progress(envelope)

        return drive(
            self._conversation.submit(
                ask(_intent(intent, members)),
                idempotency_key=check_idempotency_key(idempotency_key),
                supersedes=check_supersedes(supersedes),
                wait_s=_wait(wait),
                progress=progress,
            )
        )

    def get(self, intent_id: str) -> Mapping[str, JSON]:
        """Return the envelope of an own intent. It is information, never a permission."""
        return drive(self._conversation.get(intent_id))

    def claim(self, intent_id: str, *, intent: Intent | None = None) -> Authority:
        """Pick up a late allow. `intent` is needed when another client (or process) submitted it.

        Raises: Refused with NOT_CLAIMABLE or EXPIRED, NotDecided, ServiceUnavailable, InvalidIntent.
        """
        return drive(self._conversation.claim(intent_id, intent))

    def cancel(self, intent_id: str) -> None:
        """Withdraw a waiting intent. Raises: Refused when it is too late, ServiceUnavailable."""
        drive(self._conversation.cancel(intent_id))

    def close(self) -> None:
        """Close the connections."""
        self._outside.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._base_url!r})"


class AsyncClient:
    """An agent's client for one event loop. The arguments are those of `Client`."""

    def __init__(
        self,
        base_url: str,
        credential: str,
        *,
        issuer: str | None = None,
        agent: str | None = None,
        keys: PinnedKeys | None = None,
        max_lifetime_s: int = DEFAULT_MAX_LIFETIME_S,
        patience: Patience | None = None,
        freshness: Freshness | None = None,
        allow_plain_http: bool = False,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._base_url = check_base_url(base_url, allow_plain_http=allow_plain_http)
        check_credential(credential)
        self._outside = AsyncOutside(Door(base_url=self._base_url, credential=credential, async_transport=transport))
        self._conversation = Conversation(
            self._outside,
            keys or FetchedKeys(self._outside, freshness),
            issuer=issuer or self._base_url,
            agent=agent,
            max_lifetime_s=max_lifetime_s,
            patience=patience or Patience(),
        )

    async def submit(
        self,
        intent: Intent | None = None,
        *,
        idempotency_key: str | None = None,
        supersedes: str | None = None,
        wait: float | None = None,
        on_progress: Callable[[Mapping[str, object]], object] | None = None,
        **members: Unpack[IntentMembers],
    ) -> Authority:
        """See `Client.submit`. `on_progress` may be a coroutine function."""

        async def progress(envelope: Mapping[str, object]) -> None:
            if on_progress is not None:
                told = on_progress(envelope)
                if isawaitable(told):
                    await told

        return await self._conversation.submit(
            ask(_intent(intent, members)),
            idempotency_key=check_idempotency_key(idempotency_key),
            supersedes=check_supersedes(supersedes),
            wait_s=_wait(wait),
            progress=progress,
        )

    async def get(self, intent_id: str) -> Mapping[str, JSON]:
        """See `Client.get`."""
        return await self._conversation.get(intent_id)

    async def claim(self, intent_id: str, *, intent: Intent | None = None) -> Authority:
        """See `Client.claim`."""
        return await self._conversation.claim(intent_id, intent)

    async def cancel(self, intent_id: str) -> None:
        """See `Client.cancel`."""
        await self._conversation.cancel(intent_id)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._outside.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient({self._base_url!r})"


def _intent(intent: Intent | None, members: IntentMembers) -> Intent:
    if intent is not None:
        if members:
            raise InvalidIntent("pass an intent or its members, not both")
        return intent
    if "action" not in members or "resource" not in members:
        raise InvalidIntent("an intent needs `action` and `resource`")
    return Intent(**members)


def _wait(wait: float | None) -> float | None:
    if wait is not None and not (math.isfinite(wait) and wait >= 0):
        raise ValueError("`wait` is a number of seconds")
    return wait
