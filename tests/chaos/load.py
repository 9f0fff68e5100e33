"""Agents that submit, claim and act through the real SDK, and remember every word the service said to them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import httpx2
from e2e.running_service import PATIENCE_S, held, read_note, refund
from holdfast.client import AsyncClient
from holdfast.errors import NotDecided, Refused, ServiceUnavailable, TokenRejected
from holdfast.executor import Guard
from holdfast.intent import Intent
from holdfast.submission import Patience

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.running_service import RunningService
    from holdfast.submission import Authority

AGENTS = ("alpha", "beta", "gamma", "metered")
EXECUTORS = ("notes-api", "bank-api")
_ONCE = Patience(timeout_s=4, attempts=1)
_PAUSE_S = 0.05
_LOAD_TRIES = 2
#: What one intent may come to. Anything else is still open.
FINAL = frozenset({"executed", "denied", "cancelled", "over"})


@dataclass(slots=True)
class Planned:
    """One intent of one agent, and what became of it. `ids` are the intents it was told that it has."""

    agent: str
    key: str
    document: dict[str, Any]
    ids: set[str] = field(default_factory=set)
    waits: bool = False
    token: Authority | None = None
    became: str = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One JSON answer to one agent, by this machine's clock: when the question was sent, when the answer was read."""

    agent: str
    submitted: bool
    sent_at: float
    read_at: float
    status: int
    body: dict[str, Any]


class Heard(httpx2.AsyncHTTPTransport):
    """A transport that keeps every JSON answer."""

    def __init__(self, agent: str, answers: list[Answer]) -> None:
        super().__init__()
        self._agent = agent
        self._answers = answers

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        sent_at = time.time()
        response = await super().handle_async_request(request)
        body = await response.aread()
        if response.headers.get("content-type") in {"application/json", "application/problem+json"}:
            self._answers.append(
                Answer(
                    agent=self._agent,
                    submitted=request.method == "POST" and request.url.path == "/v1/intents",
                    sent_at=sent_at,
                    read_at=time.time(),
                    status=response.status_code,
                    body=json.loads(body),
                )
            )
        return response


class Load:
    """Everything the agents do on one service, across its faults."""

    def __init__(self, service: RunningService, ledger: Path, *, name: str, seed: int, intents: int) -> None:
        self._service = service
        self._ledger_path = ledger
        self._random = random.Random(seed)
        self.answers: list[Answer] = []
        self.plan = [self._planned(name, number) for number in range(intents)]
        self.answered = asyncio.Event()
        self._moment = self._random.randrange(intents // 4, intents // 2)
        self._started = 0

    def _planned(self, name: str, number: int) -> Planned:
        kinds = [
            read_note(f"n{number}"),
            refund(100 + number),
            refund(2_000_000 + number),
            held(f"p{number}"),
            refund(7, f"q{number}"),
        ]
        document = self._random.choices(kinds, weights=[4, 4, 1, 1, 2])[0]
        agents = [agent for agent in AGENTS if document["action"] == "note.read" or agent != "metered"]
        return Planned(agent=agents[number % len(agents)], key=f"{name}-{number}", document=document)

    async def run(self, fault: asyncio.Task[None] | None = None) -> None:
        """Submit everything once or twice, wait for the fault to be over, then see every intent through."""
        async with _Hands(self._service, self._ledger_path, self.answers) as hands:
            queues = {agent: iter([p for p in self.plan if p.agent == agent]) for agent in AGENTS}
            await asyncio.gather(*(self._submit(hands, planned) for planned in queues.values() for _ in range(2)))
            self.answered.set()
            if fault is not None:
                await fault
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*(self._see_through(hands, planned) for planned in self.plan))

    async def moment(self) -> None:
        """Return at the seeded moment of the load."""
        await self.answered.wait()

    async def _submit(self, hands: _Hands, mine: Iterator[Planned]) -> None:
        for planned in mine:
            self._started += 1
            if self._started >= self._moment:
                self.answered.set()
            for _ in range(_LOAD_TRIES):
                await hands.act(planned)
                if planned.waits or planned.became in FINAL:
                    break
                await asyncio.sleep(_PAUSE_S)

    async def _see_through(self, hands: _Hands, planned: Planned) -> None:
        while planned.became not in FINAL:
            await hands.act(planned)
            await asyncio.sleep(4 * _PAUSE_S)

    # --- what is known afterwards ---------------------------------------------------------------------------------

    def receipts(self) -> list[str]:
        """Return every receipt of every answer."""
        found = {}
        for answer in self.answers:
            if (receipt := answer.body.get("receipt")) is not None:
                found[f"{receipt['stream']}:{receipt['seq']}:{receipt['hash']}"] = None
        return list(found)

    def tokens(self) -> set[str]:
        """Return every token that was released."""
        return {answer.body["token"] for answer in self.answers if answer.body.get("token") is not None}

    def lines(self) -> list[dict[str, Any]]:
        """Return what was really executed."""
        text = self._ledger_path.read_text() if self._ledger_path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def summary(self) -> Counter[str]:
        return Counter(planned.became for planned in self.plan)


class _Hands:
    """The clients and guards of one load."""

    def __init__(self, service: RunningService, ledger: Path, answers: list[Answer]) -> None:
        self._clients = {
            agent: AsyncClient(
                service.base_url,
                service.key("agent", agent),
                agent=agent,
                patience=_ONCE,
                transport=Heard(agent, answers),
            )
            for agent in AGENTS
        }
        self._guards = {
            name: Guard(service.base_url, service.key("executor", name), name, call_s=4) for name in EXECUTORS
        }
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients.values():
            await client.aclose()
        for guard in self._guards.values():
            await guard.aclose()
        os.close(self._ledger)

    async def act(self, planned: Planned) -> None:
        """Do the next thing for one intent, whatever state it is in."""
        client = self._clients[planned.agent]
        try:
            if planned.token is not None:
                await self._execute(planned, planned.token)
            elif planned.waits:
                await self._follow(client, planned)
            else:
                intent = Intent.from_json(planned.document)
                planned.token = await client.submit(intent, idempotency_key=planned.key)
                await self._execute(planned, planned.token)
        except NotDecided as error:
            self._told(planned, error)
        except Refused as error:
            self._told(planned, error)
            self._refused(planned, error)
        except ServiceUnavailable:
            pass  # the same key makes it the same intent

    @staticmethod
    def _told(planned: Planned, error: Refused) -> None:
        intent_id = error.envelope.get("intent_id")
        # What could not be stored is the client's to keep: it is asked again.
        if isinstance(intent_id, str) and error.envelope["status"] != "unqueued":
            planned.ids.add(intent_id)
            planned.waits = True

    @staticmethod
    def _refused(planned: Planned, error: Refused) -> None:
        if error.code in {"INTENT_FINISHED", "EXPIRED"}:
            planned.became = "over"
        elif error.code == "NOT_FOUND":
            planned.ids.clear()
            planned.waits = False  # another intent won the key: ask again who
        elif error.envelope.get("status") == "denied":
            planned.became = "denied"

    async def _follow(self, client: AsyncClient, planned: Planned) -> None:
        intent_id = min(planned.ids)
        envelope = await client.get(intent_id)
        status = envelope["status"]
        if status in {"claimable", "granted"}:
            planned.token = await client.claim(intent_id, intent=Intent.from_json(planned.document))
            await self._execute(planned, planned.token)
        elif status == "held":
            await client.cancel(intent_id)
            planned.became = "cancelled"
        elif status != "queued":
            planned.became = {"denied": "denied", "cancelled": "cancelled"}.get(str(status), "over")

    async def _execute(self, planned: Planned, authority: Authority) -> None:
        intent = Intent.from_json(planned.document)
        guard = self._guards[authority.claims.aud]
        asked_at = time.time()
        try:
            async with guard.authorize(
                authority.token, action=intent.action, resource=intent.resource, parameters=intent.parameters
            ) as grant:
                line = {
                    "txn": grant.claims.txn,
                    "jti": grant.claims.jti,
                    "key": planned.key,
                    "asked_at": asked_at,
                    "ran_at": time.time(),
                }
                os.write(self._ledger, json.dumps(line).encode() + b"\n")
            planned.became = "executed"
        except TokenRejected as error:
            if error.code in {"TOKEN_CONSUMED", "TOKEN_INVALID"}:
                # Consumed by a call whose answer was lost, or out of time: it never ran, and never will.
                planned.became = "over"
            elif error.code == "TOKEN_REVOKED":
                raise AssertionError(f"{planned.key} was released and then revoked: {authority.claims.jti}") from error
