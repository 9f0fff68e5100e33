"""What an agent says to the service and how it judges the answers. Written once for `Client` and `AsyncClient`.

INVARIANT: an `Authority` exists only after `Conversation._authority` verified the token of a 200 answer against our own
digest of what was asked. Everything else is an exception.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import rfc8785

from holdfast import strict_json
from holdfast.errors import (
    HoldfastError,
    InvalidIntent,
    MalformedJSON,
    NotDecided,
    Refused,
    ServiceUnavailable,
    TokenRejected,
)
from holdfast.exchange import Answer, Lost, Reply, Request
from holdfast.intent import Action, Intent
from holdfast.reasons import Decision, ReasonCode, Status, http_status
from holdfast.token import Claims, check_claims, verify_signature

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from holdfast.exchange import Outside
    from holdfast.jwks import KeySource
    from holdfast.strict_json import JSON

OK: Final = 200
ACCEPTED: Final = 202
NO_CONTENT: Final = 204
UNAVAILABLE: Final = 503

#: Answers that a gateway gives when the request may not have arrived. With the idempotency key, asking again is safe.
RETRIED: Final = frozenset({502, 504})

#: One long poll; the service may answer sooner.
POLL_S: Final = 25
MAX_RETRY_AFTER_S: Final = 24 * 3600
REMEMBERED: Final = 1024

_WAITING: Final = frozenset({Status.QUEUED, Status.HELD})
_CLAIMABLE: Final = frozenset({Status.CLAIMABLE, Status.GRANTED})
_INTENT_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_SECONDS: Final = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A permission whose token was verified: signature, issuer, time, and our own digest of the action.

    `envelope` is the service's answer and is not signed; `claims` are.
    """

    token: str = field(repr=False)
    claims: Claims
    envelope: Mapping[str, JSON] = field(repr=False)
    intent_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An intent turned to bytes once. `intent` is read back from `body`, so what is sent is what is digested."""

    intent: Intent
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long and how often. Seconds, except `attempts`."""

    timeout_s: float = 10
    attempts: int = 4
    retry_budget_s: float = 15
    first_pause_s: float = 0.2
    longest_pause_s: float = 3

    def __post_init__(self) -> None:
        """Refuse a client that would never ask or never stop."""
        if not 0 < self.timeout_s <= 300 or not 1 <= self.attempts <= 10:  # noqa: PLR2004 - sane bounds
            raise ValueError("0 < timeout_s <= 300 and 1 <= attempts <= 10")
        if min(self.retry_budget_s, self.first_pause_s, self.longest_pause_s) < 0:
            raise ValueError("a pause is not negative")

    def pause_s(self, attempt: int, jitter: float) -> float:
        """Return the pause after the given attempt (from 0): exponential with full jitter."""
        return jitter * min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(attempt, 16))


def ask(intent: Intent) -> Asked:
    """Turn an intent to bytes, and read it back. Raises: InvalidIntent for what the contract cannot carry exactly."""
    try:
        body = rfc8785.dumps(intent.to_json())
        document = strict_json.loads(body)
    except (ValueError, TypeError, RecursionError, MalformedJSON) as error:
        raise InvalidIntent(f"the intent cannot be sent exactly: {error}") from error
    return Asked(intent=Intent.from_json(document), body=body)


def check_idempotency_key(key: str | None) -> str:
    """Return the key, or a new one. Raises: InvalidIntent unless it is 1 to 255 visible ASCII characters."""
    if key is None:
        return f"sdk-{secrets.token_hex(16)}"
    if _KEY.fullmatch(key) is None:
        raise InvalidIntent("an idempotency key is 1 to 255 visible ASCII characters")
    return key


def check_supersedes(key: str | None) -> str | None:
    """Return the idempotency key of the intent to replace, if any. Raises: InvalidIntent as for one's own."""
    return None if key is None else check_idempotency_key(key)


def check_intent_id(intent_id: str) -> str:
    """Return the id. Raises: InvalidIntent unless it can stand in a path."""
    if _INTENT_ID.fullmatch(intent_id) is None:
        raise InvalidIntent("the intent id is malformed")
    return intent_id


def refusal(reply: Reply) -> HoldfastError:
    """Return the error that a reply which is not a success stands for."""
    if isinstance(reply, Lost):
        return ServiceUnavailable(reply.why)
    document = _document(reply)
    code = document.get("reason_code")
    if not isinstance(code, str) or _CODE.fullmatch(code) is None:
        return ServiceUnavailable(f"the answer {reply.status} is not the service's")
    undecided = reply.status in (ACCEPTED, UNAVAILABLE)  # 202: decided late, and still to be claimed
    if not undecided and not 400 <= reply.status < 500:  # noqa: PLR2004 - HTTP's range of refusals
        return ServiceUnavailable(f"the service answered {reply.status} {code}")
    kind = NotDecided if undecided else Refused
    return kind(
        code,
        _detail(document),
        http_status=reply.status,
        envelope=MappingProxyType(document),
        retry_after=_retry_after(reply, document),
    )


class Conversation:
    """The agent's side of the contract. `issuer` is what `iss` must say; `agent`, if known, what `sub` must say."""

    def __init__(
        self,
        outside: Outside,
        keys: KeySource,
        *,
        issuer: str,
        agent: str | None,
        max_lifetime_s: int,
        patience: Patience,
    ) -> None:
        self._outside = outside
        self._keys = keys
        self._issuer = issuer
        self._agent = agent
        self._max_lifetime_s = max_lifetime_s
        self._patience = patience
        self._remembered: OrderedDict[str, Asked] = OrderedDict()

    async def submit(
        self,
        asked: Asked,
        *,
        idempotency_key: str,
        supersedes: str | None,
        wait_s: float | None,
        progress: Callable[[Mapping[str, object]], Awaitable[None]],
    ) -> Authority:
        """Ask, and with `wait_s` stay until the answer is final. Raises: Refused, NotDecided, ServiceUnavailable."""
        started_at = self._outside.monotonic()
        headers = [("Idempotency-Key", idempotency_key)]
        if supersedes is not None:
            headers.append(("Supersedes", supersedes))
        request = Request(
            method="POST",
            path="/v1/intents",
            body=asked.body,
            headers=tuple(headers),
            timeout_s=self._patience.timeout_s,
        )
        until = started_at + (wait_s or 0)
        reply = await self._send_until(request, until)
        try:
            return await self._authority(reply, asked)
        except Refused as error:
            intent_id = self._remember(error, asked)
            if wait_s is None or intent_id is None or _status(error.envelope) not in _WAITING | _CLAIMABLE:
                raise
            await progress(error.envelope)
            return await self._wait(intent_id, asked, error, until, progress)

    async def get(self, intent_id: str) -> Mapping[str, JSON]:
        """Return the envelope of an own intent. It is information, never a permission."""
        reply = await self._send(self._on("GET", intent_id))
        return self._envelope(reply, intent_id)

    async def claim(self, intent_id: str, intent: Intent | None) -> Authority:
        """Pick up a late allow. Raises: Refused with NOT_CLAIMABLE or EXPIRED, and what `submit` raises."""
        check_intent_id(intent_id)
        asked = ask(intent) if intent is not None else self._remembered.get(intent_id)
        if asked is None:
            raise InvalidIntent("this client did not submit the intent; pass what it was as `intent`")
        return await self._claim(intent_id, asked)

    async def cancel(self, intent_id: str) -> None:
        """Withdraw a waiting intent. Raises: Refused with NOT_CANCELLABLE when it is too late."""
        reply = await self._send(self._on("DELETE", intent_id))
        if not isinstance(reply, Answer) or reply.status not in (OK, NO_CONTENT):
            raise refusal(reply)

    async def _send(self, request: Request) -> Reply:
        """Send, and again while nothing says that the service took it. Never again after an answer of its own."""
        give_up_at = self._outside.monotonic() + self._patience.retry_budget_s
        reply = await self._outside.exchange(request)
        for attempt in range(self._patience.attempts - 1):
            if not _may_not_have_arrived(reply):
                break
            pause_s = self._patience.pause_s(attempt, self._outside.jitter())
            if self._outside.monotonic() + pause_s > give_up_at:
                break
            await self._outside.pause(pause_s)
            reply = await self._outside.exchange(request)
        return reply

    async def _send_until(self, request: Request, until: float) -> Reply:
        """Send as `_send` does, and then again until a time: a service that restarts is worth waiting for."""
        reply = await self._send(request)
        attempt = 0
        while _may_not_have_arrived(reply) and (left_s := until - self._outside.monotonic()) > 0:
            attempt += 1
            await self._outside.pause(min(left_s, self._patience.pause_s(attempt, self._outside.jitter())))
            reply = await self._outside.exchange(request)
        return reply

    async def _wait(
        self,
        intent_id: str,
        asked: Asked,
        last: Refused,
        until: float,
        progress: Callable[[Mapping[str, object]], Awaitable[None]],
    ) -> Authority:
        """Poll until the intent can be claimed. An outage in between is what waiting is for, so it is waited out."""
        status = _status(last.envelope)
        quick = 0  # polls in a row that came back at once with nothing new
        while True:
            if status in _CLAIMABLE:
                claimed = await self._try_claim(intent_id, asked)
                if isinstance(claimed, Authority):
                    return claimed
                last, quick = claimed or last, quick + 1
            left_s = until - self._outside.monotonic()
            if left_s <= 0:
                raise self._undecided(last)
            if quick:
                await self._outside.pause(min(left_s, self._patience.pause_s(quick, self._outside.jitter())))
            asked_at = self._outside.monotonic()
            envelope = await self._poll(intent_id, max(0.0, min(left_s, POLL_S)))
            quick = 0 if envelope is not None and self._outside.monotonic() - asked_at >= 1 else quick + 1
            if envelope is None:
                continue
            last = _as_refused(envelope)
            if _status(envelope) != status:
                status, quick = _status(envelope), 0
                await progress(envelope)
            if status not in _WAITING | _CLAIMABLE:
                raise last

    async def _try_claim(self, intent_id: str, asked: Asked) -> Authority | Refused | None:
        """Claim, or return why it must be waited for again, None for no answer. Raises: Refused when that is final."""
        reply = await self._outside.exchange(self._on("POST", intent_id, "/claim"))
        if _may_not_have_arrived(reply):
            return None  # a claim that is repeated gets the same token
        try:
            return await self._authority(reply, asked, intent_id=intent_id)
        except NotDecided as error:
            return error
        except Refused as error:
            if error.code != ReasonCode.NOT_CLAIMABLE:
                raise
            return error

    async def _poll(self, intent_id: str, wait_s: float) -> Mapping[str, JSON] | None:
        """Return the envelope, or None while the service gives no usable answer. Raises: Refused when it says no."""
        reply = await self._outside.exchange(self._on("GET", intent_id, wait_s=wait_s))
        try:
            return self._envelope(reply, intent_id)
        except (NotDecided, ServiceUnavailable):
            return None
        except Refused as error:
            if error.http_status == 429:  # noqa: PLR2004 - HTTP: polled too often
                return None
            raise

    async def _claim(self, intent_id: str, asked: Asked) -> Authority:
        reply = await self._send(self._on("POST", intent_id, "/claim"))
        return await self._authority(reply, asked, intent_id=intent_id)

    async def _authority(self, reply: Reply, asked: Asked, *, intent_id: str | None = None) -> Authority:
        """Turn a 200 with a token that verifies into an `Authority`, and everything else into an exception."""
        if not isinstance(reply, Answer) or reply.status != OK:
            raise refusal(reply)
        # 1. The envelope must not contradict the status.
        envelope = _document(reply)
        token, txn = envelope.get("token"), envelope.get("intent_id")
        if not isinstance(token, str) or not isinstance(txn, str) or (intent_id is not None and txn != intent_id):
            raise ServiceUnavailable("the answer 200 has no token for this intent")
        said = (envelope.get("decision"), envelope.get("status"), envelope.get("reason_code"))
        if said != (Decision.ALLOW, Status.GRANTED, ReasonCode.ALLOWED):
            raise ServiceUnavailable("the answer 200 contradicts itself")
        # 2. The token must be authentic, and for this.
        keys = await self._keys.for_header(token.partition(".")[0])
        intent = asked.intent
        try:
            claims = verify_signature(token, keys)
            check_claims(
                claims,
                issuer=self._issuer,
                audience=intent.executor if intent.executor is not None else claims.aud,
                environments=None,
                now=self._outside.now(),
                max_lifetime_s=self._max_lifetime_s,
            )
        except TokenRejected as error:
            raise ServiceUnavailable(f"the token does not verify: {error.detail}") from error
        # 3. The token must permit what was asked, all of it and nothing else.
        action = Action(
            action=intent.action, resource=intent.resource, parameters=intent.parameters, executor=claims.aud
        )
        if claims.act_hash != action.digest() or claims.action != intent.action:
            raise ServiceUnavailable("the token is for another action")
        if claims.txn != txn:
            raise ServiceUnavailable("the token is for another intent")
        if self._agent is not None and claims.sub != self._agent:
            raise ServiceUnavailable("the token is for another agent")
        return Authority(token=token, claims=claims, envelope=MappingProxyType(envelope), intent_id=txn)

    def _envelope(self, reply: Reply, intent_id: str) -> Mapping[str, JSON]:
        if not isinstance(reply, Answer) or reply.status != OK:
            raise refusal(reply)
        envelope = _document(reply)
        if envelope.get("intent_id") != intent_id or _status(envelope) is None:
            raise ServiceUnavailable("the answer is not the envelope of this intent")
        return MappingProxyType(envelope)

    def _on(self, method: str, intent_id: str, suffix: str = "", *, wait_s: float | None = None) -> Request:
        query = "" if wait_s is None else f"?wait={int(wait_s)}"
        return Request(
            method=method,
            path=f"/v1/intents/{check_intent_id(intent_id)}{suffix}{query}",
            timeout_s=self._patience.timeout_s + (wait_s or 0),
        )

    def _remember(self, error: Refused, asked: Asked) -> str | None:
        """Keep what was asked, so that a later claim can be checked against it."""
        intent_id = error.envelope.get("intent_id")
        if not isinstance(intent_id, str) or _INTENT_ID.fullmatch(intent_id) is None:
            return None
        self._remembered[intent_id] = asked
        while len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return intent_id

    @staticmethod
    def _undecided(last: Refused) -> NotDecided:
        return NotDecided(
            last.code,
            "not decided within the time given; the intent may still be waiting",
            http_status=last.http_status,
            envelope=last.envelope,
            retry_after=last.retry_after,
        )


def _may_not_have_arrived(reply: Reply) -> bool:
    return isinstance(reply, Lost) or reply.status in RETRIED


def _as_refused(envelope: Mapping[str, JSON]) -> Refused:
    code = envelope.get("reason_code")
    known = code if isinstance(code, str) and code in ReasonCode.__members__ else ReasonCode.SERVICE_UNAVAILABLE
    status = http_status(ReasonCode(known))
    if status == OK:  # allowed, and not claimed: there is no token yet
        status = ACCEPTED
    kind = NotDecided if status in (ACCEPTED, UNAVAILABLE) else Refused
    return kind(str(known), _detail(envelope), http_status=status, envelope=envelope)


def _document(answer: Answer) -> dict[str, JSON]:
    """Return the answer's JSON object, or raise ServiceUnavailable."""
    try:
        document = strict_json.loads(answer.body)
    except MalformedJSON as error:
        raise ServiceUnavailable(f"the answer {answer.status} is not the service's") from error
    if not isinstance(document, dict):
        raise ServiceUnavailable(f"the answer {answer.status} is not the service's")
    return document


def _status(envelope: Mapping[str, object]) -> str | None:
    status = envelope.get("status")
    return status if isinstance(status, str) else None


def _detail(document: Mapping[str, JSON]) -> str:
    detail = document.get("detail") or document.get("title")
    return detail if isinstance(detail, str) else "no detail was given"


def _retry_after(answer: Answer, document: Mapping[str, JSON]) -> int | None:
    if answer.retry_after is not None and _SECONDS.fullmatch(answer.retry_after):
        return min(int(answer.retry_after), MAX_RETRY_AFTER_S)
    said = document.get("retry_after")
    if isinstance(said, int) and not isinstance(said, bool) and said >= 0:
        return min(said, MAX_RETRY_AFTER_S)
    return None
