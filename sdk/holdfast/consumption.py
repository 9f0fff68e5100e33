"""How a verified token is used up, and how what came of it gets back to the service.

Two ways, one contract: `OnlineConsumption` asks the service; `LocalConsumption` asks the executor's own store first, so
that pre-authorized tokens work through an outage, and the service too whenever it can be reached.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

import rfc8785

from holdfast import strict_json
from holdfast.errors import MalformedJSON, TokenRejected
from holdfast.exchange import Answer, Lost, Request
from holdfast.reasons import ReasonCode
from holdfast.replay import REPORT_LEASE_S

if TYPE_CHECKING:
    from holdfast.exchange import Outside, Reply
    from holdfast.replay import ReplayStore, Unreported
    from holdfast.token import Claims

log = logging.getLogger("holdfast")

MAX_RETAINED: Final = 1000
FLUSHED_AT_ONCE: Final = 8
AWAY_S: Final = 5.0
CONFLICT: Final = 409

_CONSUME: Final = "/v1/tokens/consume"
_REFUSALS: Final = frozenset(
    {ReasonCode.TOKEN_INVALID, ReasonCode.TOKEN_MISMATCH, ReasonCode.TOKEN_CONSUMED, ReasonCode.TOKEN_REVOKED}
)


class OutcomeStatus(StrEnum):
    """What came of a consumed token. `unknown` means that the effect may have happened."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of one consumption."""

    iss: str
    jti: str
    status: OutcomeStatus
    detail: str
    model_tokens: int | None = None

    def body(self) -> bytes:
        """Return the request body of the report."""
        used = {} if self.model_tokens is None else {"model_tokens": self.model_tokens}
        return rfc8785.dumps({"status": self.status.value, "detail": self.detail, **used})


class Consumption(Protocol):
    """Uses a token up, at most once, and reports what came of it."""

    async def consume(self, outside: Outside, claims: Claims, report: bytes) -> None:
        """Return only if this call, and no other, consumed the token. Raises: TokenRejected on any doubt."""
        ...

    async def report(self, outside: Outside, outcome: Outcome) -> None:
        """Tell the service. What cannot be told now is kept and told on a later call; nothing is raised."""
        ...

    async def flush(self, outside: Outside, *, at_once: bool = False) -> int:
        """Tell the service some of what is still kept, and return how many consumptions were settled.

        `at_once` asks the service even if it was away a moment ago.
        """
        ...


def judge_consumption(reply: Reply, claims: Claims) -> None:
    """Return only for a 200 that says this very token was consumed by this call. Raises: TokenRejected."""
    if isinstance(reply, Lost):
        raise _unavailable(reply.why)
    try:
        document = strict_json.loads(reply.body)
    except MalformedJSON as error:
        raise _unavailable(f"the answer {reply.status} is not the service's") from error
    if not isinstance(document, dict):
        raise _unavailable(f"the answer {reply.status} is not the service's")
    if reply.status == 200:  # noqa: PLR2004 - HTTP
        said = (document.get("consumed"), document.get("txn"), document.get("jti"))
        if said[0] is not True or said[1:] != (claims.txn, claims.jti):
            raise _unavailable("the answer 200 does not say that this token was consumed")
        return
    code = document.get("reason_code")
    if isinstance(code, str) and code in _REFUSALS:
        detail = document.get("detail")
        raise TokenRejected(code, detail if isinstance(detail, str) else "the service refused the token")
    raise _unavailable(f"the service answered {reply.status}")


class OnlineConsumption:
    """The service consumes. Sent once: whether a lost call consumed the token cannot be known, so it refuses."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._retained: deque[Outcome] = deque()

    async def consume(self, outside: Outside, claims: Claims, report: bytes) -> None:
        """See `Consumption.consume`."""
        judge_consumption(await outside.exchange(_consume_request(report, self._timeout_s)), claims)

    async def report(self, outside: Outside, outcome: Outcome) -> None:
        """See `Consumption.report`."""
        if len(self._retained) >= MAX_RETAINED:
            dropped = self._retained.popleft()
            log.error("the outcome of %s could not be reported and is given up", dropped.jti)
        self._retained.append(outcome)
        await self.flush(outside)

    async def flush(self, outside: Outside, *, at_once: bool = False) -> int:
        """See `Consumption.flush`. Tells at most `FLUSHED_AT_ONCE`, oldest first, and stops at the first failure."""
        del at_once
        settled = 0
        while self._retained and settled < FLUSHED_AT_ONCE:
            outcome = self._retained.popleft()
            try:
                told = _told(await outside.exchange(_outcome_request(outcome.jti, outcome.body(), self._timeout_s)))
            except BaseException:  # cancelled in the middle: keep it
                self._retained.appendleft(outcome)
                raise
            if told is None:
                self._retained.appendleft(outcome)
                log.warning("the outcome of %s could not be reported yet", outcome.jti)
                break
            if not told:
                log.error("the service did not accept the outcome `%s` of %s", outcome.status.value, outcome.jti)
            settled += 1
        return settled


class LocalConsumption:
    """The executor's own store consumes, and then the service if it answers: a no from either is a no.

    The store comes first and always, so a token used here during an outage stays used. While the service is away only
    the store decides, and `flush` brings the report later.
    """

    def __init__(self, store: ReplayStore, timeout_s: float) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._away_until = float("-inf")

    async def consume(self, outside: Outside, claims: Claims, report: bytes) -> None:
        """See `Consumption.consume`."""
        store = self._store
        if claims.iat < store.since:
            raise _unavailable("the replay store is younger than the token: it cannot know whether it was used")
        away = outside.monotonic() < self._away_until
        await outside.call(
            store.consume,
            claims.iss,
            claims.txn,
            claims.jti,
            claims.exp,
            report=report,
            lease_s=0 if away else REPORT_LEASE_S,
        )
        if away:
            return
        reply = await outside.exchange(_consume_request(report, self._timeout_s))
        if _is_away(reply):
            self._away_until = outside.monotonic() + AWAY_S
            log.warning("the service is away; %s was consumed locally", claims.jti)
            await outside.call(store.release, claims.iss, claims.jti)
            return
        accepted = False
        try:
            judge_consumption(reply, claims)
            accepted = True
        finally:
            await outside.call(store.reported, claims.iss, claims.jti, accepted=accepted)

    async def report(self, outside: Outside, outcome: Outcome) -> None:
        """See `Consumption.report`."""
        try:
            await outside.call(self._store.keep_outcome, outcome.iss, outcome.jti, outcome.body())
            if outside.monotonic() >= self._away_until:
                await self.flush(outside)
        except TokenRejected as error:
            log.error("the outcome of %s could not be kept: %s", outcome.jti, error.detail)  # noqa: TRY400 - no trace

    async def flush(self, outside: Outside, *, at_once: bool = False) -> int:
        """See `Consumption.flush`. Raises: TokenRejected when the store cannot be read."""
        settled = 0
        if at_once:
            self._away_until = float("-inf")
        for item in await outside.call(self._store.lease_unreported, FLUSHED_AT_ONCE):
            if outside.monotonic() >= self._away_until and await self._settle(outside, item):
                settled += 1
            else:
                await outside.call(self._store.release, item.iss, item.jti)
        return settled

    async def _settle(self, outside: Outside, item: Unreported) -> bool:
        """Tell the service what it lacks of one consumption. Return False if nobody answered."""
        if item.report is not None:
            reply = await outside.exchange(_consume_request(item.report, self._timeout_s))
            # A 409 may be our own earlier call, whose answer was lost; the outcome's answer will tell.
            accepted = True if isinstance(reply, Answer) and reply.status == CONFLICT else _told(reply)
            if accepted is None:
                self._away_until = outside.monotonic() + AWAY_S
                return False
            await outside.call(self._store.reported, item.iss, item.jti, accepted=accepted)
            if not accepted:
                log.error("the service did not accept the late report that %s was consumed here", item.jti)
                return True
        if item.outcome is not None:
            accepted = _told(await outside.exchange(_outcome_request(item.jti, item.outcome, self._timeout_s)))
            if accepted is None:
                self._away_until = outside.monotonic() + AWAY_S
                return False
            await outside.call(self._store.outcome_reported, item.iss, item.jti, accepted=accepted)
            if not accepted:
                log.error("the service did not accept the outcome of %s", item.jti)
        return True


def _consume_request(report: bytes, timeout_s: float) -> Request:
    return Request(method="POST", path=_CONSUME, body=report, timeout_s=timeout_s)


def _outcome_request(jti: str, body: bytes, timeout_s: float) -> Request:
    return Request(method="POST", path=f"/v1/tokens/{jti}/outcome", body=body, timeout_s=timeout_s)


def _is_away(reply: Reply) -> bool:
    """Return whether nobody answered for the service. A 4xx is its answer, and so is a 200 that says nothing."""
    return isinstance(reply, Lost) or reply.status >= 500  # noqa: PLR2004 - HTTP


def _told(reply: Reply) -> bool | None:
    """Return whether the service accepted a report, or None if it should be told again later."""
    if not isinstance(reply, Answer) or reply.status >= 500 or reply.status in (401, 408, 425, 429):  # noqa: PLR2004
        return None
    return 200 <= reply.status < 300  # noqa: PLR2004 - HTTP


def _unavailable(detail: str) -> TokenRejected:
    return TokenRejected(ReasonCode.CONSUMPTION_UNAVAILABLE, detail)
