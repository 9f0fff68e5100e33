"""The boundaries, and how each is tripped: one drill each. What a drill does is undone when its block ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from console.gameday.judging import Expected
from console.runtime.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from console.gameday.samples import Sample
    from console.gameday.twin import Answer, Twin

_UNAVAILABLE: Final = 503
_FORBIDDEN: Final = 403
_FILL_LIMIT_S: Final = 120.0
_FILL_AT_ONCE: Final = 8
#: The drain starts five seconds after the boundaries have closed. A worker that is stopped must not have by then.
_DRAIN_WOULD_START_S: Final = 6.5

Waiting = list[tuple["Sample", "Answer"]]
Trip = Callable[["Twin", "Sequence[Sample]"], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """One boundary and its fault.

    `trip` breaks it and mends it. `allowed` and `held` are what intents must be told that policy would allow, or have
    a human look at; None where the fault does not concern them. `at_first` is what may be told besides, until
    the boundary is open. `tokens_die` says that an executor must be refused,
    with a token that is out. `asks_again` says that nothing waits and the agent has to ask again. `afterwards` runs
    while intents wait, and returns what was wrong.
    """

    name: str
    boundary: str
    fault: str
    trip: Trip
    allowed: Expected
    held: Expected | None = None
    at_first: frozenset[str] = frozenset()
    tokens_die: bool = False
    asks_again: bool = False
    limited_only: bool = False
    afterwards: Callable[[Twin, Waiting], AbstractAsyncContextManager[list[str]]] | None = None

    def expected(self, sample: Sample) -> Expected | None:
        """Return what this sample must be told, None if the fault does not concern it."""
        if self.limited_only and not sample.limited:
            return None
        return self.held if sample.held else self.allowed

    def concerns(self, samples: Sequence[Sample]) -> bool:
        """Return whether this fault changes what any of the samples is told."""
        return any(self.expected(sample) not in {None, _HELD} for sample in samples)


def _waits(*codes: str, may_open: bool = False) -> Expected:
    return Expected(
        http_status=_UNAVAILABLE, reason_codes=frozenset(codes), statuses=frozenset({"queued"}), may_open=may_open
    )


_HELD: Final = Expected(
    http_status=_FORBIDDEN, reason_codes=frozenset({"APPROVAL_REQUIRED"}), statuses=frozenset({"held"})
)
_HALTED: Final = Expected(
    http_status=_FORBIDDEN, reason_codes=frozenset({"EMERGENCY_HALT"}), statuses=frozenset({"denied"})
)
_UNRECORDED: Final = Expected(
    http_status=_UNAVAILABLE,
    reason_codes=frozenset({"AUDIT_UNAVAILABLE"}),
    statuses=frozenset({"unqueued"}),
    recorded=False,
)


# --- how each is tripped ----------------------------------------------------------------------------------------------


def _stopping(child: str) -> Trip:
    @contextlib.asynccontextmanager
    async def trip(twin: Twin, samples: Sequence[Sample]) -> AsyncIterator[None]:  # noqa: ARG001 - a Trip
        with twin.stopped(child):
            yield

    return trip


@contextlib.asynccontextmanager
async def _hanging_commits(twin: Twin, samples: Sequence[Sample]) -> AsyncIterator[None]:  # noqa: ARG001 - a Trip
    async with twin.locked_log():
        yield


@contextlib.asynccontextmanager
async def _held_open(twin: Twin, samples: Sequence[Sample]) -> AsyncIterator[None]:  # noqa: ARG001 - a Trip
    await twin.order("boundaries/evaluation/force-open", {"reason": "gameday"})
    try:
        yield
    finally:
        await twin.order("boundaries/evaluation/reset", {"reason": "gameday"})


@contextlib.asynccontextmanager
async def _halted(twin: Twin, samples: Sequence[Sample]) -> AsyncIterator[None]:  # noqa: ARG001 - a Trip
    await twin.order("halt", {"scope": "all", "reason": "gameday"})
    try:
        yield
    finally:
        await twin.order("resume", {"scope": "all", "note": "gameday"}, as_second=True)


@contextlib.asynccontextmanager
async def _journal_full(twin: Twin, samples: Sequence[Sample]) -> AsyncIterator[None]:
    """Stop the database, and have the journal take denials until it takes no more."""
    with twin.stopped("postgres"):
        await twin.until_ready(ready=False)
        filler, full = replace(samples[0].intent, queue=False), asyncio.Event()

        async def fill() -> None:
            while not full.is_set():
                answer = await twin.submit(samples[0], intent=filler)
                if answer.body.get("receipt") is None:
                    full.set()

        try:
            async with asyncio.timeout(_FILL_LIMIT_S), asyncio.TaskGroup() as tasks:
                for _ in range(_FILL_AT_ONCE):
                    tasks.create_task(fill())
        except TimeoutError as error:
            raise CommandFailed("the journal could not be filled") from error
        yield


@contextlib.asynccontextmanager
async def _worker_stopped(twin: Twin, waiting: Waiting) -> AsyncIterator[list[str]]:
    """Let everything be well again but the worker, and see that nothing is decided without it."""
    problems: list[str] = []
    with twin.stopped("worker"):
        await twin.order("boundaries/evaluation/reset", {"reason": "gameday"})
        await twin.until_ready()
        deadline = time.monotonic() + _DRAIN_WOULD_START_S
        while time.monotonic() < deadline and not problems:
            for sample, answer in waiting:
                seen = await twin.look(sample, str(answer.body["intent_id"]))
                if seen.body.get("status") != "queued":
                    problems.append(f"{sample.intent.action} is {seen.body.get('status')} without a worker")
            await asyncio.sleep(0.5)
        yield problems


@contextlib.asynccontextmanager
async def _held_open_until_reset(twin: Twin, samples: Sequence[Sample]) -> AsyncIterator[None]:  # noqa: ARG001 - a Trip
    await twin.order("boundaries/evaluation/force-open", {"reason": "gameday"})
    yield  # `_worker_stopped` resets it


# --- the drills -------------------------------------------------------------------------------------------------------

_EVALUATION: Final = "EVALUATION_UNAVAILABLE"

DRILLS: Final = (
    Drill(
        name="intent",
        boundary="intent",
        fault="the classifier is stopped",
        trip=_stopping("classifier"),
        allowed=_waits("CLASSIFICATION_UNAVAILABLE"),
        held=_waits("CLASSIFICATION_UNAVAILABLE"),
    ),
    Drill(
        name="evaluation-store",
        boundary="evaluation",
        fault="PostgreSQL is stopped",
        trip=_stopping("postgres"),
        allowed=_waits(_EVALUATION),
        held=_waits(_EVALUATION),
        at_first=frozenset({"AUDIT_UNAVAILABLE"}),
        tokens_die=True,
    ),
    Drill(
        name="evaluation-limits",
        boundary="evaluation",
        fault="Valkey is stopped; concerns agents with limits",
        trip=_stopping("valkey"),
        allowed=_waits(_EVALUATION, may_open=True),
        held=None,
        limited_only=True,
    ),
    Drill(
        name="evaluation-held-open",
        boundary="evaluation",
        fault="an operator holds it open",
        trip=_held_open,
        allowed=_waits(_EVALUATION, may_open=True),
        held=_waits(_EVALUATION),
    ),
    Drill(
        name="token",
        boundary="token",
        fault="the signer is stopped",
        trip=_stopping("signer"),
        allowed=_waits("SIGNING_UNAVAILABLE"),
        held=_HELD,
    ),
    Drill(
        name="audit-commits",
        boundary="audit",
        fault="commits hang",
        trip=_hanging_commits,
        allowed=_waits("AUDIT_UNAVAILABLE"),
        held=_HELD,
        tokens_die=True,
    ),
    Drill(
        name="audit-journal-full",
        boundary="audit",
        fault="PostgreSQL is stopped and the journal is full",
        trip=_journal_full,
        allowed=_UNRECORDED,
        held=_UNRECORDED,
        tokens_die=True,
        asks_again=True,
    ),
    Drill(
        name="queue",
        boundary="queue",
        fault="the worker is stopped while intents wait",
        trip=_held_open_until_reset,
        allowed=_waits(_EVALUATION, may_open=True),
        held=_waits(_EVALUATION),
        afterwards=_worker_stopped,
    ),
    Drill(
        name="halt",
        boundary="every one",
        fault="an emergency halt of everything",
        trip=_halted,
        allowed=_HALTED,
        held=_HALTED,
        tokens_die=True,
        asks_again=True,
    ),
)
