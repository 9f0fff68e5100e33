"""One worker of the load generator: sends at the times it was given, whatever comes back, and writes everything down.

A process of its own, started by `benchmarks.openloop`: a job as JSON on the first line of standard input; `ready` once
it is connected; the start time on the second line; the result as JSON. Requests are built before the first one leaves
and answers are judged after the last one came, so that between them only bytes are moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson
import uvloop

from benchmarks.connections import Connections
from benchmarks.schedule import SECOND_NS
from benchmarks.timer import Timer
from benchmarks.traffic import Target, WrongAnswer, judge, request, verify, wall_clock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NICE: Final = -10
_UNANSWERED: Final = "no answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one worker sends. `times_ns` are after the start, `numbers` name the requests; both have one length."""

    target: Target
    run: str
    times_ns: tuple[int, ...]
    numbers: tuple[int, ...]
    warm_up_s: float
    seconds: float
    drain_s: float
    connections: int
    verify_every: int

    def to_json(self) -> bytes:
        """Return one line."""
        return orjson.dumps(
            {
                "target": self.target.to_json(),
                "run": self.run,
                "times_ns": self.times_ns,
                "numbers": self.numbers,
                "warm_up_s": self.warm_up_s,
                "seconds": self.seconds,
                "drain_s": self.drain_s,
                "connections": self.connections,
                "verify_every": self.verify_every,
            }
        )

    @classmethod
    def from_json(cls, line: bytes) -> Job:
        """Read what `to_json` wrote."""
        members = orjson.loads(line)
        return cls(
            target=Target.from_json(members.pop("target")),
            times_ns=tuple(members.pop("times_ns")),
            numbers=tuple(members.pop("numbers")),
            **members,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What one worker found, the warm-up left out. Times are nanoseconds.

    `latencies_ns` are from the intended send time to the last byte of a right answer, and for a request that was not
    answered until the worker stopped waiting. `in_window` counts right answers that came before the schedule ended.
    """

    latencies_ns: list[int]
    lags_ns: list[int]
    errors: dict[str, int]
    ids: list[str]
    in_window: int
    verified: int
    priority: str
    cpu_s: float

    def to_json(self) -> bytes:
        """Return it for another process."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, text: bytes) -> Tally:
        """Read what `to_json` wrote."""
        return cls(**orjson.loads(text))


@dataclass(slots=True)
class _Sent:
    lag_ns: int
    at_ns: int = 0
    status: int = 0
    body: bytes = field(default=b"", repr=False)


class Generator:
    """Sends one job. `ready`, then `run`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._requests = [request(job.target, number, run=job.run) for number in job.numbers]
        self._connections = Connections(*job.target.address, count=job.connections, receiver=self)
        self._sent: list[_Sent] = []
        self._open = len(job.times_ns)
        self._done = asyncio.Event()
        self._start_ns = 0
        self._timer = Timer()

    async def ready(self) -> None:
        """Connect. Raises: OSError."""
        await self._connections.open()

    async def run(self, start_ns: int) -> None:
        """Send everything in time, and return when everything is answered or nothing more is waited for."""
        self._start_ns = start_ns
        loop = asyncio.get_running_loop()
        loop.add_reader(self._timer.fileno(), self._on_time)
        self._timer.arm(start_ns + self._job.times_ns[0])
        last_ns = start_ns + self._job.times_ns[-1] - time.monotonic_ns()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(last_ns / SECOND_NS + self._job.drain_s):
                await self._done.wait()
        loop.remove_reader(self._timer.fileno())
        self._timer.close()
        self._connections.close()

    def _on_time(self) -> None:
        self._timer.acknowledge()
        times_ns = self._job.times_ns
        while (number := len(self._sent)) < len(times_ns):
            due_ns = self._start_ns + times_ns[number]
            lag_ns = time.monotonic_ns() - due_ns
            if lag_ns < 0:
                self._timer.arm(due_ns)
                return
            self._sent.append(_Sent(lag_ns))
            self._connections.send(number, self._requests[number])

    def answered(self, number: int, at_ns: int, status: int, body: bytes) -> None:
        """Write an answer down."""
        sent = self._sent[number]
        sent.at_ns, sent.status, sent.body = at_ns, status, body
        self._closed_one()

    def lost(self, number: int, at_ns: int) -> None:
        """Write down that there will be no answer."""
        self._sent[number].at_ns = at_ns
        self._closed_one()

    def _closed_one(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._done.set()

    # --- after the last answer ------------------------------------------------------------------------------------

    def tally(self, *, priority: str) -> Tally:
        """Judge everything that came."""
        job, stopped_ns = self._job, time.monotonic_ns()
        warm_ns = int(job.warm_up_s * SECOND_NS)
        end_ns = self._start_ns + warm_ns + int(job.seconds * SECOND_NS)
        latencies_ns: list[int] = []
        lags_ns: list[int] = []
        errors: Counter[str] = Counter()
        ids: list[str] = []
        in_window = verified = 0
        for index, (sent, number, time_ns) in enumerate(zip(self._sent, job.numbers, job.times_ns, strict=False)):
            if time_ns < warm_ns:
                continue
            lags_ns.append(sent.lag_ns)
            due_ns = self._start_ns + time_ns
            try:
                if sent.status == 0:
                    latencies_ns.append((sent.at_ns or stopped_ns) - due_ns)
                    raise WrongAnswer("connection lost" if sent.at_ns else _UNANSWERED)  # noqa: TRY301
                ids.append(judge(job.target.kind, sent.status, sent.body))
                if job.target.jwks and index % job.verify_every == 0:
                    verify(job.target, number, sent.body, now=wall_clock(sent.at_ns))
                    verified += 1
            except WrongAnswer as error:
                errors[str(error)] += 1
                continue
            latencies_ns.append(sent.at_ns - due_ns)
            in_window += sent.at_ns <= end_ns
        not_sent = sum(1 for time_ns in job.times_ns[len(self._sent) :] if time_ns >= warm_ns)
        if not_sent:
            errors["not sent"] = not_sent
        return Tally(
            latencies_ns=latencies_ns,
            lags_ns=lags_ns,
            errors=dict(errors),
            ids=ids,
            in_window=in_window,
            verified=verified,
            priority=priority,
            cpu_s=time.process_time(),
        )


async def _work(generator: Generator, lines: Lines) -> None:
    await generator.ready()
    # Nothing that lives now is garbage, and what follows is kept to the end.
    gc.collect()
    gc.freeze()
    gc.disable()
    lines.say(b"ready")
    await generator.run(int(await asyncio.to_thread(lines.read)))


class Lines:
    """Standard input and output, line by line."""

    def read(self) -> bytes:
        """Return the next line."""
        return sys.stdin.buffer.readline()

    def say(self, line: bytes) -> None:
        """Write one line."""
        # Unbuffered output (`PYTHONUNBUFFERED`) may take a part of what it is given, and an event loop leaves a pipe
        # non-blocking.
        os.set_blocking(sys.stdout.fileno(), True)
        left = memoryview(line + b"\n")
        while left:
            left = left[os.write(sys.stdout.fileno(), left) :]


def _go_first() -> str:
    """Raise this process's priority as far as it may be, and return to what.

    Beside the servers it stands for a machine of its own: it must neither wait for them nor for anybody else. It takes
    some 50 microseconds a request, and the kernel bounds what real-time processes take. Source: sched(7).
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        return "SCHED_FIFO 1"
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        return f"nice {_NICE}"
    return "ordinary"


def _step_back() -> None:
    """Take the ordinary priority again: what follows is counting."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def merged(tallies: Sequence[Tally]) -> Tally:
    """Return what several workers found together."""
    errors: Counter[str] = Counter()
    for tally in tallies:
        errors.update(tally.errors)
    ids = [identity for tally in tallies for identity in tally.ids]
    if repeated := len(ids) - len(set(ids)):
        errors["the same answer twice"] = repeated
    return Tally(
        latencies_ns=[value for tally in tallies for value in tally.latencies_ns],
        lags_ns=[value for tally in tallies for value in tally.lags_ns],
        errors=dict(errors),
        ids=ids,
        in_window=sum(tally.in_window for tally in tallies),
        verified=sum(tally.verified for tally in tallies),
        cpu_s=sum(tally.cpu_s for tally in tallies),
        priority="/".join(sorted({tally.priority for tally in tallies})),
    )


def labels(errors: Mapping[str, int]) -> str:
    """Return the errors in words."""
    return ", ".join(f"{count} x {label}" for label, count in sorted(errors.items())) or "none"


def main() -> int:
    """Do one job."""
    lines = Lines()
    job = Job.from_json(lines.read())
    generator = Generator(job)
    priority = _go_first()
    uvloop.run(_work(generator, lines))
    _step_back()
    lines.say(generator.tally(priority=priority).to_json())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
