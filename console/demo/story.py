"""The outage story: a healthy prelude, an outage with five hundred intents, a recovery, and a check of every claim."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import httpx2
from holdfast.client import AsyncClient
from holdfast.errors import HoldfastError, NotDecided, Refused, ServiceUnavailable
from holdfast.reasons import ReasonCode

from console.demo import fleet
from console.demo.processes import Running, signal_tree, started, tree
from console.demo.service import READY_S, tail, until_readiness_is, until_started, up_command
from console.runtime.failure import CommandFailed
from console.runtime.state import Runtime
from services.postgres.log import log_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from holdfast.strict_json import JSON
    from holdfast.submission import Authority

    from console.demo.fleet import Planned

_EXECUTORS: Final = (
    *("knowledge-api", "ticket-api", "customer-api", "delivery-api"),
    *("database-api", "infra-api", "identity-api"),
)
_SUBMIT_S: Final = 12.0  # fifteen minutes, compressed
_RECOVER_S: Final = 90.0
_LOOK_S: Final = 0.3
_TRIES: Final = 30
_LANES: Final = {"critical": 1, "normal": 2, "bulk": 3}
#: How many the drain decides at once at the most: within it, the order of finishing is open.
_WINDOW: Final = 64


class Display(Protocol):
    """Where the story is told."""

    def say(self, line: str) -> None:
        """Tell what happens."""
        ...

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far something is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Something the product promises, and whether it held. `seen` says what was observed."""

    text: str
    held: bool
    seen: str


@dataclass(slots=True)
class Blocked:
    """One intent of the outage: how it was answered, and what became of it."""

    planned: Planned
    envelope: Mapping[str, JSON]
    http_status: int
    final: str = "unknown"
    authority: Authority | None = None

    @property
    def intent_id(self) -> str:
        """The intent's id."""
        return str(self.envelope["intent_id"])

    @property
    def lane(self) -> int:
        """The lane it waits in; 0 if it does not."""
        queue = self.envelope.get("queue")
        return _LANES[str(queue["lane"])] if isinstance(queue, dict) else 0


@dataclass(slots=True)
class Story:
    """Everything the story knows. `executors` maps names to the URL of a running one."""

    data_dir: Path
    ledger: Path
    display: Display
    base_url: str = ""
    clients: dict[str, AsyncClient] = field(default_factory=dict)
    executors: dict[str, str] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    http: httpx2.AsyncClient = field(default_factory=lambda: httpx2.AsyncClient(timeout=15))

    def claim(self, text: str, *, held: bool, seen: str) -> None:
        """Note one claim."""
        self.claims.append(Claim(text=text, held=held, seen=seen))
        self.display.say(f"{'held' if held else 'BROKEN'}: {text} ({seen})")

    def lines(self) -> list[dict[str, str]]:
        """Return what was really executed."""
        text = self.ledger.read_text(encoding="utf-8") if self.ledger.exists() else ""
        return [json.loads(line) for line in text.splitlines()]


async def play(directory: Path, policies: Path, display: Display) -> Sequence[Claim]:
    """Play the whole story in `directory` and return every claim. Raises: CommandFailed if a part cannot be started."""
    story = Story(data_dir=directory / "data", ledger=directory / "ledger.jsonl", display=display)
    logs = directory / "log"
    logs.mkdir()
    fleet.write_policies(policies, directory / "policies")
    command = up_command(story.data_dir, directory / "policies")
    async with contextlib.AsyncExitStack() as stack:
        display.say("starting PostgreSQL, Valkey, signer, API and worker")
        service = await stack.enter_async_context(started("up", command, environment={}, log=logs / "up.log"))
        story.base_url, bootstrap = await until_started(story.http, story.data_dir, service, logs / "up.log")
        await _start_executors(story, stack, bootstrap, logs)
        stack.push_async_callback(story.http.aclose)
        for name in fleet.agents():
            client = AsyncClient(story.base_url, bootstrap["agents"][name], agent=name)
            story.clients[name] = await stack.enter_async_context(client)

        first = await _prelude(story)
        blocked = await _outage(story, first)
        await _recovery(story, blocked)
        await _second_presentation(story, blocked)
        await _read_the_log(story, blocked)
        await _verify(story, blocked, logs)
        await _stop(story, service)
    return story.claims


# --- start ------------------------------------------------------------------------------------------------------------


async def _start_executors(
    story: Story, stack: contextlib.AsyncExitStack, bootstrap: Mapping[str, Mapping[str, str]], logs: Path
) -> None:
    story.display.say(f"starting {len(_EXECUTORS)} executors, each a process behind its guard")
    running = []
    for name in _EXECUTORS:
        environment = {
            "HOLDFAST_DEMO_BASE_URL": story.base_url,
            "HOLDFAST_DEMO_CREDENTIAL": bootstrap["executors"][name],
            "HOLDFAST_DEMO_EXECUTOR": name,
            "HOLDFAST_DEMO_LEDGER": str(story.ledger),
        }
        command = [sys.executable, "-m", "console.demo.executor"]
        log = logs / f"{name}.log"
        running.append(
            (log, await stack.enter_async_context(started(name, command, environment=environment, log=log, read=True)))
        )
    for log, executor in running:
        line = await executor.process.stdout.readline() if executor.process.stdout is not None else b""
        if not line.strip().isdigit():
            raise CommandFailed(f"the executor {executor.name} did not start: {tail(log)}")
        story.executors[executor.name] = f"http://127.0.0.1:{int(line)}/run"


# --- the acts ---------------------------------------------------------------------------------------------------------


async def _prelude(story: Story) -> Authority:
    """Twenty agents act; every action is executed once. Returns a consumed authority."""
    story.display.say("prelude: every agent asks for something harmless")
    authorities = []
    for planned in fleet.prelude():
        authority = await _persist(story, planned)
        if authority is None or not await _execute(story, planned, authority):
            raise CommandFailed(f"the prelude failed: {planned.agent} could not {planned.intent.action}")
        authorities.append(authority)
    executed = {line["txn"] for line in story.lines()}
    story.claim(
        "while everything is up, what policy allows is executed",
        held=executed == {authority.intent_id for authority in authorities},
        seen=f"{len(executed)} of {len(authorities)}",
    )
    return authorities[0]


async def _outage(story: Story, consumed: Authority) -> list[Blocked]:
    """PostgreSQL is stopped; five hundred intents come in, and nothing is executed."""
    database = Runtime.read(story.data_dir / "runtime.json").children["postgres"]
    before = len(story.lines())
    count = signal_tree(database, signal.SIGSTOP)
    story.display.say(f"outage: PostgreSQL is stopped ({count} processes)")
    try:
        await until_readiness_is(story.http, story.base_url, ready=False, limit_s=10)
        plan = fleet.outage()
        blocked: list[Blocked] = []
        granted: list[Planned] = []
        pause_s = _SUBMIT_S / len(plan)
        started_at = time.monotonic()
        for number, planned in enumerate(plan):
            # An even pace whatever the answers take: the agents do not know of each other.
            await asyncio.sleep(max(0.0, started_at + number * pause_s - time.monotonic()))
            answer = await _submit_in_outage(story, planned)
            if answer is None:
                granted.append(planned)
            else:
                blocked.append(answer)
            story.display.progress("intents in the outage", number + 1, len(plan))
        replayed = await _present(story, story.executors["infra-api"], consumed, fleet.prelude()[0])
    finally:
        signal_tree(database, signal.SIGCONT)
    unavailable = sum(b.envelope["reason_code"] == ReasonCode.EVALUATION_UNAVAILABLE for b in blocked)
    queued = sum(b.http_status == 503 and b.envelope["status"] == "queued" for b in blocked)  # noqa: PLR2004 - HTTP
    story.claim("no token leaves in the outage", held=not granted, seen=f"{len(granted)} tokens")
    story.claim(
        "every blocked intent is told that it could not be evaluated, and waits",
        held=len(blocked) == unavailable == queued == len(plan),
        seen=f"{unavailable} EVALUATION_UNAVAILABLE, {queued} queued, of {len(plan)}",
    )
    during = len(story.lines()) - before
    story.claim(
        "nothing is executed in the outage",
        held=during == 0 and not replayed,
        seen=f"{during} executed, a consumed token {'ran' if replayed else 'was refused'}",
    )
    return blocked


async def _recovery(story: Story, blocked: list[Blocked]) -> None:
    """PostgreSQL goes on; each intent is evaluated anew, claimed by its agent, and executed."""
    story.display.say("recovery: PostgreSQL goes on")
    await until_readiness_is(story.http, story.base_url, ready=True, limit_s=READY_S)
    waiting: dict[str, list[Blocked]] = {}
    for item in blocked:
        waiting.setdefault(item.planned.agent, []).append(item)
    done = Counter[str]()
    deadline = time.monotonic() + _RECOVER_S

    async def agent(own: list[Blocked]) -> None:
        # The order in which the queue will serve them.
        for item in sorted(own, key=lambda item: item.lane):
            item.final = await _follow(story, item, deadline)
            done[item.final] += 1
            story.display.progress("intents after recovery", done.total(), len(blocked))

    await asyncio.gather(*(agent(own) for own in waiting.values()))
    story.display.say("after recovery: " + ", ".join(f"{count} {final}" for final, count in sorted(done.items())))
    forbidden = [item for item in blocked if item.planned.forbidden]
    allowed = [item for item in blocked if not item.planned.forbidden]
    story.claim(
        "what policy denies stays denied after recovery",
        held=bool(forbidden) and all(item.final == ReasonCode.POLICY_DENIED for item in forbidden),
        seen=f"{sum(item.final == ReasonCode.POLICY_DENIED for item in forbidden)} of {len(forbidden)} denied",
    )
    story.claim(
        "what policy allows is executed after its agent claims it",
        held=bool(allowed) and all(item.final == "executed" for item in allowed),
        seen=f"{sum(item.final == 'executed' for item in allowed)} of {len(allowed)} executed",
    )


async def _second_presentation(story: Story, blocked: Iterable[Blocked]) -> None:
    """Every kind of action is presented a second time, with its own token."""
    again = {item.planned.intent.action: item for item in blocked if item.authority is not None}
    ran = 0
    for item in again.values():
        if item.authority is not None:
            ran += await _execute(story, item.planned, item.authority)
    lines = story.lines()
    tokens = Counter(line["jti"] for line in lines)
    intents = Counter(line["txn"] for line in lines)
    twice = sum(count > 1 for count in (tokens | intents).values())
    story.claim(
        "each token is consumed once",
        held=bool(again) and ran == 0 and twice == 0,
        seen=f"{len(lines)} lines, {twice} double, {ran} of {len(again)} second presentations ran",
    )


async def _read_the_log(story: Story, blocked: Sequence[Blocked]) -> None:
    """Ask the log itself: a consumption for every line, a new decision for every blocked intent, in order."""
    consumed: Counter[str] = Counter()
    drained: list[str] = []
    refused: set[str] = set()
    url = Runtime.read(story.data_dir / "runtime.json").database_url
    async with log_snapshot(url) as snapshot:
        for stream in await snapshot.streams():
            after = -1
            while chunk := await snapshot.chunk(stream, after):
                for _, body, _ in chunk:
                    record = json.loads(body)
                    if record["kind"] == "token.consumed":
                        consumed[record["txn"]] += 1
                    elif record["kind"] == "decision" and record.get("drained"):
                        drained.append(record["intent_id"])
                    elif record["kind"] == "decision" and record["reason_code"] == ReasonCode.EVALUATION_UNAVAILABLE:
                        refused.add(record["intent_id"])
                after = chunk[-1][0]
    executed = {line["txn"] for line in story.lines()}
    story.claim(
        "no line without a consumed token in the log",
        held=executed <= set(consumed),
        seen=f"{len(executed & set(consumed))} of {len(executed)} lines",
    )
    ids = {item.intent_id for item in blocked}
    story.claim(
        "every denial of the outage is in the log, and every intent got a new decision",
        held=ids <= refused and ids <= set(drained),
        seen=f"{len(ids & refused)} denials, {len(ids & set(drained))} new decisions, of {len(ids)}",
    )
    lanes = {item.intent_id: item.lane for item in blocked}
    order = [lanes[intent_id] for intent_id in dict.fromkeys(drained) if intent_id in lanes]
    early = _early(order)
    # Every tenth slot goes to the oldest of all lanes, so that nobody starves.
    story.claim(
        "the queue drains in priority order",
        held=bool(order) and early <= len(order) / 10 + 1,
        seen=f"{early} of {len(order)} ahead of their lane, one in ten may be",
    )


async def _verify(story: Story, blocked: Iterable[Blocked], logs: Path) -> None:
    """Let the auditor's command verify the chain, and that it still holds what agents were told in the outage."""
    receipts = [receipt for item in blocked if (receipt := item.envelope.get("receipt")) is not None]
    command = [sys.executable, "-m", "console.cli.main", "audit", "verify", "--data-dir", str(story.data_dir)]
    for receipt in receipts:
        if isinstance(receipt, dict):
            command += ["--receipt", f"{receipt['stream']}:{receipt['seq']}:{receipt['hash']}"]
    with (logs / "audit.log").open("wb") as log:
        verify = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=dict(os.environ))
        status = await verify.wait()
    story.claim(
        "the chain verifies with no gap across the outage",
        held=status == 0 and bool(receipts),
        seen=f"{tail(logs / 'audit.log')}; {len(receipts)} receipts found",
    )


async def _stop(story: Story, service: Running) -> None:
    members = tree(service.process.pid)
    status = await service.stop()
    left = [pid for pid in members if pid in tree(1)]
    story.claim(
        "it stops cleanly and leaves nothing behind",
        held=status == 0 and not left,
        seen=f"exit {status}, {len(left)} processes left",
    )


# --- what agents do ---------------------------------------------------------------------------------------------------


async def _persist(story: Story, planned: Planned) -> Authority | None:
    """Submit until there is an answer that is not about the connection; None if it is a denial."""
    for _ in range(_TRIES):
        try:
            return await story.clients[planned.agent].submit(planned.intent, idempotency_key=planned.key)
        except (NotDecided, ServiceUnavailable):
            await asyncio.sleep(_LOOK_S)
        except Refused:
            return None
    return None


async def _submit_in_outage(story: Story, planned: Planned) -> Blocked | None:
    """Submit one intent and return how it was refused, None if a token came."""
    problem: HoldfastError = ServiceUnavailable("never asked")
    for _ in range(_TRIES):
        try:
            await story.clients[planned.agent].submit(planned.intent, idempotency_key=planned.key)
        except Refused as refused:
            if "intent_id" in refused.envelope:
                return Blocked(planned, _envelope(refused), refused.http_status)
            problem = refused
        except ServiceUnavailable as error:
            problem = error
        else:
            return None
        # The API itself was away: the same key makes it the same intent.
        await asyncio.sleep(_LOOK_S)
    raise CommandFailed(f"{planned.agent} got no answer in the outage: {problem}")


async def _follow(story: Story, item: Blocked, deadline: float) -> str:
    """Wait for one intent's new decision, claim it, execute it; return what became of it."""
    client = story.clients[item.planned.agent]
    while time.monotonic() < deadline:
        try:
            envelope = await client.get(item.intent_id)
            if envelope["status"] == "claimable":
                item.authority = await client.claim(item.intent_id, intent=item.planned.intent)
                ran = await _execute(story, item.planned, item.authority)
                return "executed" if ran else "not executed"
            if envelope["status"] not in {"queued", "held"}:
                return str(envelope["reason_code"])
        except (NotDecided, ServiceUnavailable):
            pass
        except Refused as refused:
            if refused.code != ReasonCode.SERVICE_UNAVAILABLE:
                return refused.code
        await asyncio.sleep(_LOOK_S)
    return "still waiting"


async def _execute(story: Story, planned: Planned, authority: Authority) -> bool:
    return await _present(story, story.executors[authority.claims.aud], authority, planned)


async def _present(story: Story, url: str, authority: Authority, planned: Planned) -> bool:
    """Hand a token and its action to an executor; return whether it ran."""
    document = planned.intent.to_json()
    body = {name: document[name] for name in ("action", "resource", "parameters")}
    answer = await story.http.post(url, json={"token": authority.token, **body})
    executed = answer.json().get("executed")
    return executed is True


def _envelope(refused: Refused) -> dict[str, JSON]:
    return dict(refused.envelope)  # type: ignore[arg-type] # it was read from JSON


def _early(order: Sequence[int]) -> int:
    """Count those that were decided though one of a better lane came more than a window later."""
    early = 0
    best = 99
    best_after = [best] * (len(order) + 1)
    for index in range(len(order) - 1, -1, -1):
        best_after[index] = min(best_after[index + 1], order[index])
    for index, lane in enumerate(order):
        later = min(index + 1 + _WINDOW, len(order))
        early += best_after[later] < lane
    return early
