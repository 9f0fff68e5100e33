"""The executor's guard: nothing runs without a token that was verified, matched, and consumed.

    guard = Guard("https://holdfast.example", "hfx_…", "payments-api")

    async with guard.authorize(token, action="payments.refund.create", resource=payment, parameters=body) as grant:
        await refund(grant.resource.id, **grant.parameters)

The body runs only after consumption, and on `grant`: the values that were digested, read back from the digested bytes.
Every refusal is a `TokenRejected`. The order of checks stands in `holdfast.gate`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeVar, cast

import httpx2

from holdfast.consumption import LocalConsumption, OnlineConsumption, OutcomeStatus
from holdfast.exchange import AsyncOutside, BlockingOutside, Door, check_base_url, check_credential, drive
from holdfast.gate import Gate, Grant, Terms, Wanted
from holdfast.jwks import FetchedKeys, Freshness, PinnedKeys
from holdfast.reasons import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from holdfast.consumption import Consumption
    from holdfast.exchange import Outside
    from holdfast.intent import Resource
    from holdfast.replay import ReplayStore
    from holdfast.strict_json import JSON

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class Protected(Protocol[_T_co]):
    """A function behind the guard."""

    def __call__(self, token: str, *, resource: Resource, parameters: Mapping[str, JSON]) -> _T_co:
        """Run it if the token permits exactly this. Raises: TokenRejected, and what the function raises."""
        ...


class Guard:
    """Stands before one executor. Safe for threads, or for one event loop.

    `audience` is the executor's name in the catalogue; `issuer` what `iss` must say, the base URL unless given;
    `environments` which environments' tokens count (None: all); `accepted_modes` by which ways they may have been
    permitted, all four unless fewer are named. `max_lifetime_s` caps `exp - iat`: raise it for
    pre-authorized batches. `replay` is "online", or a `ReplayStore` for working through an outage. `run_s` is how long
    a body may run, `call_s` how long a call to the service may take.
    """

    def __init__(
        self,
        base_url: str,
        credential: str,
        audience: str,
        *,
        environments: frozenset[str] | None = None,
        accepted_modes: frozenset[Mode] = frozenset(Mode),
        issuer: str | None = None,
        max_lifetime_s: int = 60,
        keys: PinnedKeys | None = None,
        replay: Literal["online"] | ReplayStore = "online",
        freshness: Freshness | None = None,
        run_s: float = 30,
        call_s: float = 3,
        allow_plain_http: bool = False,
        transport: httpx2.BaseTransport | None = None,
        async_transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._base_url = check_base_url(base_url, allow_plain_http=allow_plain_http)
        check_credential(credential)
        if call_s <= 0:
            raise ValueError("call_s is positive")
        self._terms = Terms(
            issuer=issuer or self._base_url,
            audience=audience,
            environments=environments,
            max_lifetime_s=max_lifetime_s,
            run_s=run_s,
            modes=accepted_modes,
        )
        self._consumption = _consumption(replay, audience, call_s)
        self._door = Door(
            base_url=self._base_url, credential=credential, transport=transport, async_transport=async_transport
        )
        self._pinned = keys
        self._freshness = freshness
        self._opening = threading.Lock()
        self._blocking: tuple[BlockingOutside, Gate] | None = None
        self._async: tuple[AsyncOutside, Gate] | None = None

    def authorize(
        self, token: str, *, action: str, resource: Resource, parameters: Mapping[str, JSON]
    ) -> Authorization:
        """Return the context, `async with` or `with`, whose body may run this action. Raises on entry: TokenRejected.

        On leaving, the outcome is reported: `succeeded`, `failed` after an exception, `unknown` after a time-out or a
        cancellation. `async with` cancels a body that runs longer than `run_s`; `with` cannot, see `Grant.remaining_s`.
        """
        wanted = Wanted(action=action, resource=resource, parameters=parameters)
        return Authorization(self._open_blocking, self._open_async, token, wanted)

    def protect(self, action: str) -> Callable[[Callable[[Grant], _T]], Protected[_T]]:
        """Return a decorator for a function, async or not, that takes the one `Grant` it may act on.

        What comes out is called as `function(token, resource=…, parameters=…)` and runs only when authorized.
        """

        def behind_the_guard(function: Callable[[Grant], _T]) -> Protected[_T]:
            if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
                raise TypeError("a generator would run after the guard has left")
            if inspect.iscoroutinefunction(function):

                @functools.wraps(function)
                async def awaited(token: str, *, resource: Resource, parameters: Mapping[str, JSON]) -> object:
                    async with self.authorize(token, action=action, resource=resource, parameters=parameters) as grant:
                        return await function(grant)

                return cast("Protected[_T]", awaited)

            @functools.wraps(function)
            def called(token: str, *, resource: Resource, parameters: Mapping[str, JSON]) -> _T:
                with self.authorize(token, action=action, resource=resource, parameters=parameters) as grant:
                    result = function(grant)
                    if inspect.isawaitable(result):
                        raise TypeError("an awaitable would run after the guard has left; protect an `async def`")
                    return result

            return called

        return behind_the_guard

    def sync(self) -> int:
        """Report everything that could not be reported, and return how many consumptions were settled."""
        return drive(self._open_blocking().flush())

    async def async_sync(self) -> int:
        """See `sync`."""
        return await self._open_async().flush()

    def close(self) -> None:
        """Close the connections of plain code. A replay store stays open: it is the caller's."""
        with self._opening:
            blocking, self._blocking = self._blocking, None
        if blocking is not None:
            blocking[0].close()

    async def aclose(self) -> None:
        """Close all connections. A replay store stays open: it is the caller's."""
        self.close()
        with self._opening:
            opened, self._async = self._async, None
        if opened is not None:
            await opened[0].aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"Guard({self._base_url!r}, audience={self._terms.audience!r})"

    def _open_blocking(self) -> Gate:
        with self._opening:
            if self._blocking is None:
                outside = BlockingOutside(self._door)
                self._blocking = outside, self._gate(outside)
            return self._blocking[1]

    def _open_async(self) -> Gate:
        with self._opening:
            if self._async is None:
                outside = AsyncOutside(self._door)
                self._async = outside, self._gate(outside)
            return self._async[1]

    def _gate(self, outside: Outside) -> Gate:
        keys = self._pinned or FetchedKeys(outside, self._freshness)
        return Gate(outside, keys, self._terms, self._consumption)


class Authorization:
    """The context that `Guard.authorize` returns. It is entered once."""

    def __init__(
        self, open_blocking: Callable[[], Gate], open_async: Callable[[], Gate], token: object, wanted: Wanted
    ) -> None:
        self._open_blocking = open_blocking
        self._open_async = open_async
        self._token = token
        self._wanted = wanted
        self._entered = False
        self._granted: tuple[Gate, Grant] | None = None
        self._limit: asyncio.Timeout | None = None

    def __enter__(self) -> Grant:
        self._enter_once()
        gate = self._open_blocking()
        grant = drive(gate.admit(self._token, self._wanted))
        self._granted = gate, grant
        return grant

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gate, grant = self._leave()
        drive(gate.report(grant.claims, *_outcome(error), model_tokens=grant.usage.model_tokens))

    async def __aenter__(self) -> Grant:
        self._enter_once()
        gate = self._open_async()
        grant = await gate.admit(self._token, self._wanted)
        self._granted = gate, grant
        self._limit = asyncio.timeout(grant.remaining_s())
        await self._limit.__aenter__()
        return grant

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gate, grant = self._leave()
        overrun: TimeoutError | None = None
        expired = False
        if self._limit is not None:
            try:
                await self._limit.__aexit__(kind, error, trace)
            except TimeoutError as late:
                overrun = late
            expired = self._limit.expired()
        outcome = (OutcomeStatus.UNKNOWN, "the deadline passed") if expired else _outcome(error)
        await gate.report(grant.claims, *outcome, model_tokens=grant.usage.model_tokens)
        if overrun is not None:
            raise overrun

    def _enter_once(self) -> None:
        if self._entered:
            raise RuntimeError("an authorization is entered once")
        self._entered = True

    def _leave(self) -> tuple[Gate, Grant]:
        if self._granted is None:
            raise RuntimeError("the authorization was not granted")
        return self._granted


def _outcome(error: BaseException | None) -> tuple[OutcomeStatus, str]:
    """Return what leaving the body says of the effect. The error's text stays here: it may hold personal data."""
    if error is None:
        return OutcomeStatus.SUCCEEDED, "done"
    status = OutcomeStatus.FAILED
    if isinstance(error, TimeoutError | httpx2.TimeoutException) or not isinstance(error, Exception):
        status = OutcomeStatus.UNKNOWN
    return status, type(error).__name__[:100]


def _consumption(replay: Literal["online"] | ReplayStore, audience: str, call_s: float) -> Consumption:
    if isinstance(replay, str):
        if replay != "online":
            raise ValueError("`replay` is `online` or a ReplayStore")
        return OnlineConsumption(call_s)
    if replay.audience != audience:
        raise ValueError("the replay store belongs to another audience")
    return LocalConsumption(replay, call_s)
