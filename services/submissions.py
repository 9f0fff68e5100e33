"""The agents' side: submit once, look, claim, cancel. Repeats answer with what stands, never with a second effect."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import orjson
from holdfast import strict_json
from holdfast.errors import MalformedJSON
from holdfast.intent import Intent
from holdfast.reasons import ReasonCode, Status, http_status
from holdfast.token import Claims

from services.authorizer import AlreadyKnown, IdempotencyKeyRequired, MovedOn
from services.boundary import BoundaryUnavailable
from services.changes import OPEN, UNDECIDED, shown
from services.hub import Crowded
from services.judgement import Ask, WaitingIntent
from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.strict_json import JSON

    from services.authorizer import Authorizer
    from services.hub import Hub
    from services.outcome import Outcome
    from services.ports import Clock, Ids, IntentStore, StoredIntent

MAX_WAIT_S = 60.0
_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An envelope with its HTTP status. `version` is that of the stored intent, where the envelope was read there."""

    status: int
    envelope: Mapping[str, JSON]
    retry_after_s: int | None = None
    version: int = 0


class Problem(Exception):
    """A refusal that is not the outcome of an intent; becomes `application/problem+json`. `members` are added to it."""

    def __init__(
        self,
        status: int,
        reason_code: ReasonCode,
        detail: str,
        *,
        retry_after_s: int | None = None,
        members: Mapping[str, JSON] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reason_code = reason_code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.members = members or {}


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What this process answered lately; it speaks for the store while the store is away.

    Kept as bytes: thousands of small objects would be looked at by every full garbage collection.
    """

    agent: str
    request_digest: str
    status: int
    envelope: bytes
    retry_after_s: int | None

    def answer(self) -> Answer:
        """Return the answer as it was given, token included."""
        return Answer(status=self.status, envelope=orjson.loads(self.envelope), retry_after_s=self.retry_after_s)


class Submissions:
    """What an agent may do with its own intents.

    `in_journal` says whether records wait in the journal for the store. Until they have reached it, what the store says
    may be about to change, and what it does not know may still come: then nothing is granted again, and nothing that is
    missing is called unknown.
    """

    def __init__(
        self,
        *,
        authorizer: Authorizer,
        store: IntentStore,
        clock: Clock,
        ids: Ids,
        hub: Hub,
        on_parked: Callable[[], None],
        in_journal: Callable[[], bool],
        on_ended: Callable[[str, str], None] = lambda _agent, _act_hash: None,
    ) -> None:
        self._authorizer = authorizer
        self._on_parked = on_parked
        self._on_ended = on_ended
        self._store = store
        self._clock = clock
        self._ids = ids
        self._hub = hub
        self._in_journal = in_journal
        self._flights: dict[tuple[str, str], tuple[str, asyncio.Future[Answer]]] = {}
        self._claims: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._by_id: OrderedDict[str, _Remembered] = OrderedDict()
        self._by_key: OrderedDict[tuple[str, str], str] = OrderedDict()

    # --- submit ---------------------------------------------------------------------------------------------------

    async def submit(
        self, agent: str, intent: Intent, idempotency_key: str | None, *, supersedes: str | None = None
    ) -> Answer:
        """Decide an intent, or answer as before if the key is known or the same action waits already.

        `supersedes` is the key of the agent's own waiting intent that ends when this one is stored; it needs a key.
        Raises: Problem 422 for a key used with another body, 404, 409, 503 for what cannot be superseded;
        IdempotencyKeyRequired.
        """
        if supersedes is not None and idempotency_key is None:
            raise IdempotencyKeyRequired("superseding another intent")
        submission = orjson.dumps(intent.to_json(), option=orjson.OPT_SORT_KEYS)
        digest = hashlib.sha256(submission).hexdigest()
        ask = Ask(
            intent_id=self._ids.new("int_"),
            agent=agent,
            intent=intent,
            submission=submission,
            request_digest=digest,
            idempotency_key=idempotency_key,
            received_at=self._clock.now(),
        )
        if idempotency_key is None:
            return await self._decide(ask)
        flight = self._flights.get((agent, idempotency_key))
        if flight is not None:
            _same_request(flight[0], digest)
            return await asyncio.shield(flight[1])
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._flights[agent, idempotency_key] = (digest, future)
        try:
            answer = await self._repeat(agent, idempotency_key, digest)
            if answer is None:
                if supersedes is not None:
                    ask = replace(ask, supersedes=await self._superseded(agent, supersedes))
                answer = await self._decide(ask)
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # nobody may be waiting for it
            raise
        finally:
            del self._flights[agent, idempotency_key]
        future.set_result(answer)
        return answer

    async def _superseded(self, agent: str, idempotency_key: str) -> WaitingIntent:
        """Return the agent's waiting intent with this key. Raises: Problem 404, 409, 503."""
        settled = not self._in_journal()
        try:
            stored = await self._store.by_key(agent, idempotency_key)
        except StoreUnreachable:
            stored, settled = None, False
        if not settled:
            raise _away("the intent to supersede cannot be read now")
        if stored is None:
            raise Problem(404, ReasonCode.NOT_FOUND, "there is no intent to supersede")
        if stored.status not in OPEN:
            raise Problem(409, ReasonCode.NOT_CANCELLABLE, f"the intent to supersede is {stored.status}")
        return waiting_intent(stored, epoch=None)

    async def _decide(self, ask: Ask, *, again: bool = True) -> Answer:
        try:
            outcome = await self._authorizer.submit(ask)
        except AlreadyKnown as known:
            # Our token, if one was signed, is thrown away.
            stands = await self._standing(ask, known)
            if stands is not None:
                return stands
            if not again:
                raise _away("the intent was stored elsewhere and cannot be read now") from None
            # What waited for the same action has ended meanwhile.
            self._on_ended(ask.agent, known.act_hash)
            return await self._decide(replace(ask, intent_id=self._ids.new("int_")), again=False)
        answer = _answer(outcome)
        if outcome.receipt is not None:
            # What was not recorded never happened: with the same key it may be asked again.
            self._remember(ask, answer)
        if outcome.status is Status.QUEUED:
            self._on_parked()
        return answer

    async def _standing(self, ask: Ask, known: AlreadyKnown) -> Answer | None:
        """Answer with what stands in the way of an intent, None if it is gone. Raises: Problem."""
        # Another replica stored this key first?
        if ask.idempotency_key is not None:
            repeat = await self._repeat(ask.agent, ask.idempotency_key, ask.request_digest)
            if repeat is not None:
                return repeat
        # The same action of the same agent waits?
        settled = not self._in_journal()
        try:
            same = await self._store.waiting_for(ask.agent, known.act_hash)
        except StoreUnreachable:
            same, settled = None, False
        if same is not None:
            return await self._as_stored(same)
        remembered = None if settled or known.same is None else self._by_id.get(known.same)
        if remembered is not None:
            return remembered.answer()
        if ask.supersedes is not None:
            raise Problem(409, ReasonCode.NOT_CANCELLABLE, "the intent to supersede was settled meanwhile")
        return None

    async def _repeat(self, agent: str, idempotency_key: str, digest: str) -> Answer | None:
        """Answer for a key that was used before, None if it was not. Raises: Problem."""
        settled = not self._in_journal()
        try:
            stored = await self._store.by_key(agent, idempotency_key)
        except StoreUnreachable:
            stored, settled = None, False
        if stored is None:
            if settled:
                return None
            # Stored where nobody can look now: the journal's intents are known here only.
            remembered = self._by_id.get(self._by_key.get((agent, idempotency_key), ""))
            if remembered is None:
                return None
            _same_request(remembered.request_digest, digest)
            return _without_token(remembered.answer())
        _same_request(stored.request_digest, digest)
        if stored.status == Status.GRANTED:
            return await self._token_again(stored, settled=settled)
        return await self._as_stored(stored)

    async def _token_again(self, stored: StoredIntent, *, settled: bool) -> Answer:
        """Answer with the same token while it is unexpired and unconsumed. Raises: Problem 409, 503.

        Not unless the log was `settled` before the store was read: an allow whose commit is in doubt reads as granted,
        and what voids it may wait in the journal.
        """
        if not settled:
            raise _away("the token's state cannot be read now")
        claims = Claims.from_json(stored.claims) if stored.claims is not None else None
        now = self._clock.now()
        if claims is None or stored.consumed or stored.revoked or now.timestamp() >= claims.exp:
            raise Problem(409, ReasonCode.INTENT_FINISHED, "the intent was granted and is over")
        try:
            stopped = self._authorizer.stopped(claims)
        except StoreUnreachable:
            raise _away("the operators' orders are not known now") from None
        if stopped is not None:
            raise Problem(403, stopped.reason_code, stopped.detail)
        try:
            token = await self._authorizer.sign_again(claims)
        except BoundaryUnavailable as error:
            raise Problem(503, error.reason_code, "the token could not be signed", retry_after_s=2) from error
        return Answer(status=200, envelope={**stored.envelope, "token": token})

    # --- look -----------------------------------------------------------------------------------------------------

    async def get(self, agent: str, intent_id: str, *, wait_s: float = 0.0) -> Answer:
        """Return the envelope, with HTTP 200 whatever it says; it never holds a token. Waits for a change if asked.

        Raises: Problem 404, 503.
        """
        if wait_s <= 0:
            return (await self._look(agent, intent_id))[0]
        try:
            # Registered first, then read: no change falls between the two.
            with self._hub.waiting(agent, intent_id) as waiter:
                answer, undecided = await self._look(agent, intent_id)
                if not undecided:
                    return answer
                change = await waiter.changed(min(wait_s, MAX_WAIT_S))
        except Crowded:
            raise _away("too many wait already") from None
        if change is not None and change.agent == agent:
            return Answer(status=200, envelope=change.envelope())
        return (await self._look(agent, intent_id))[0]

    async def _look(self, agent: str, intent_id: str) -> tuple[Answer, bool]:
        """Return the envelope without a token, and whether it is undecided as far as this process knows."""
        try:
            stored = await self._own(agent, intent_id)
        except StoreUnreachable:
            remembered = self._by_id.get(intent_id)
            if remembered is None or remembered.agent != agent:
                raise _away("the intent cannot be read now") from None
            envelope = remembered.answer().envelope
            return Answer(status=200, envelope={**envelope, "token": None}), envelope["status"] in UNDECIDED
        envelope = (await self._as_stored(stored)).envelope
        return Answer(status=200, envelope=envelope, version=stored.version), stored.status in UNDECIDED

    async def _own(self, agent: str, intent_id: str) -> StoredIntent:
        settled = not self._in_journal()
        stored = await self._store.get(intent_id)
        if stored is None and not settled:
            raise StoreUnreachable("the intent may still be in the journal")
        if stored is None or stored.agent != agent:
            raise Problem(404, ReasonCode.NOT_FOUND, "there is no such intent")
        return stored

    async def _as_stored(self, stored: StoredIntent) -> Answer:
        envelope = shown(stored.envelope, status=stored.status, claim_by=stored.claim_by)
        queue = envelope.get("queue")
        if stored.status == Status.QUEUED and isinstance(queue, dict):
            envelope["queue"] = {**queue, "position": await self._position(stored.intent_id)}
        retry_after = envelope.get("retry_after")
        code = ReasonCode(stored.reason_code)
        status = 202 if stored.status == Status.CLAIMABLE else http_status(code)
        return Answer(
            status=409 if status == 200 else status,  # noqa: PLR2004 - 200 is for answers with a token
            envelope=envelope,
            retry_after_s=retry_after if isinstance(retry_after, int) else None,
        )

    async def _position(self, intent_id: str) -> int | None:
        try:
            return await self._store.position(intent_id)
        except StoreUnreachable:
            return None  # the place in line is a courtesy

    # --- claim, cancel --------------------------------------------------------------------------------------------

    async def claim(self, agent: str, intent_id: str) -> Answer:
        """Pick up a late allow. Raises: Problem 404, 409, 410, 503."""
        # One at a time: a second claim finds the first one settled, never in doubt.
        async with self._claims.setdefault(intent_id, asyncio.Lock()):
            return await self._claim(agent, intent_id)

    async def _claim(self, agent: str, intent_id: str) -> Answer:
        settled = not self._in_journal()
        try:
            stored = await self._own(agent, intent_id)
        except StoreUnreachable:
            raise _away("the intent cannot be read now") from None
        if stored.status == Status.GRANTED:
            return await self._token_again(stored, settled=settled)
        overdue = stored.claim_by is not None and stored.claim_by <= self._clock.now()
        if stored.status == Status.EXPIRED or (stored.status == Status.CLAIMABLE and overdue):
            raise Problem(410, ReasonCode.EXPIRED, "the time to claim is over")
        if stored.status != Status.CLAIMABLE:
            raise Problem(409, ReasonCode.NOT_CLAIMABLE, f"the intent is {stored.status}")
        try:
            return _answer(await self._authorizer.claim(waiting_intent(stored, epoch=None)))
        except MovedOn:
            return await self._claimed_meanwhile(agent, intent_id)

    async def _claimed_meanwhile(self, agent: str, intent_id: str) -> Answer:
        settled = not self._in_journal()
        try:
            stored = await self._own(agent, intent_id)
        except StoreUnreachable:
            raise _away("the intent cannot be read now") from None
        if stored.status == Status.GRANTED:
            return await self._token_again(stored, settled=settled)
        raise Problem(409, ReasonCode.NOT_CLAIMABLE, f"the intent is {stored.status}")

    async def cancel(self, agent: str, intent_id: str) -> Answer:
        """End a waiting intent. Raises: Problem 404, 409, 503."""
        try:
            stored = await self._own(agent, intent_id)
        except StoreUnreachable:
            raise _away("the intent cannot be read now") from None
        if stored.status == Status.CANCELLED:
            return Answer(status=200, envelope=stored.envelope)
        if stored.status not in OPEN:
            raise Problem(409, ReasonCode.NOT_CANCELLABLE, f"the intent is {stored.status}")
        try:
            outcome = await self._authorizer.end(
                waiting_intent(stored, epoch=None),
                status=Status.CANCELLED,
                reason_code=ReasonCode.CANCELLED,
                detail="the agent cancelled it",
            )
        except MovedOn:
            raise Problem(409, ReasonCode.NOT_CANCELLABLE, "the intent was settled meanwhile") from None
        if outcome.status is not Status.CANCELLED:
            raise _away("the cancellation could not be recorded")
        return Answer(status=200, envelope=outcome.to_json())

    # --- memory ---------------------------------------------------------------------------------------------------

    def _remember(self, ask: Ask, answer: Answer) -> None:
        self._by_id[ask.intent_id] = _Remembered(
            ask.agent, ask.request_digest, answer.status, orjson.dumps(answer.envelope), answer.retry_after_s
        )
        if ask.idempotency_key is not None:
            self._by_key[ask.agent, ask.idempotency_key] = ask.intent_id
        for memory in (self._by_id, self._by_key):
            while len(memory) > _REMEMBERED:
                memory.popitem(last=False)


def waiting_intent(stored: StoredIntent, *, epoch: int | None) -> WaitingIntent:
    """Return a stored intent as the authorizer takes it. Raises: ValueError if what was stored cannot be read."""
    try:
        intent = Intent.from_json(strict_json.loads(stored.submission))
    except MalformedJSON as error:
        raise ValueError("the stored submission is damaged") from error
    ask = Ask(
        intent_id=stored.intent_id,
        agent=stored.agent,
        intent=intent,
        submission=stored.submission,
        request_digest=stored.request_digest,
        idempotency_key=stored.idempotency_key,
        received_at=stored.created_at,
    )
    return WaitingIntent(ask=ask, version=stored.version, epoch=epoch)


def _same_request(known: str, digest: str) -> None:
    if known != digest:
        raise Problem(422, ReasonCode.IDEMPOTENCY_KEY_REUSED, "this idempotency key was used with another body")


def _answer(outcome: Outcome) -> Answer:
    return Answer(status=outcome.http_status, envelope=outcome.to_json(), retry_after_s=outcome.retry_after_s)


def _without_token(answer: Answer) -> Answer:
    if answer.envelope.get("token") is None:
        return answer
    raise Problem(503, ReasonCode.SERVICE_UNAVAILABLE, "the token's state cannot be read now", retry_after_s=2)


def _away(detail: str) -> Problem:
    return Problem(503, ReasonCode.SERVICE_UNAVAILABLE, detail, retry_after_s=2)
