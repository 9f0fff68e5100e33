"""A game day: each drill in turn on one twin, then the log. Returns what held, what did not, and how long it took."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from console.gameday.judging import Judged, Verdict, judge, waits, worst

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.strict_json import JSON

    from console.gameday.drills import Drill, Waiting
    from console.gameday.samples import Sample
    from console.gameday.twin import Answer, Twin
    from services.decision.settings import FailModes

_OK: Final = 200
_DECIDE_S: Final = 60.0
_LOOK_S: Final = 0.3
#: So many receipts are handed to the auditor's command at once: a command line has an end.
_RECEIPTS_AT_ONCE: Final = 500


@dataclass(slots=True, kw_only=True)
class Result:
    """What became of one drill. Times are in seconds; None where there was nothing to time."""

    name: str
    boundary: str
    fault: str
    asked: int = 0
    detected_s: float | None = None
    recovered_s: float | None = None
    decided_s: float | None = None
    checks: list[Judged] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """What all checks come to."""
        return worst([check.verdict for check in self.checks])

    def check(self, problem: str | None) -> None:
        """Note one check, None if it held."""
        self.checks.append(
            Judged(verdict=Verdict.PASS) if problem is None else Judged(verdict=Verdict.FAIL, why=problem)
        )

    def why(self) -> list[str]:
        """Return what there is to say of the checks that did not simply hold."""
        return list(dict.fromkeys(check.why for check in self.checks if check.why))

    def to_json(self) -> dict[str, JSON]:
        """Return what `--json` prints."""
        return {
            "name": self.name,
            "boundary": self.boundary,
            "fault": self.fault,
            "result": self.verdict.value,
            "asked": self.asked,
            "checks": len(self.checks),
            "detected_s": self.detected_s,
            "recovered_s": self.recovered_s,
            "decided_s": self.decided_s,
            "why": [*self.why()],
        }


async def play(
    twin: Twin, samples: Sequence[Sample], drills: Sequence[Drill], fail_modes: FailModes, say: Callable[[str], None]
) -> list[Result]:
    """Play every drill, then verify the log. Raises: CommandFailed if the twin itself fails."""
    results = [await _healthy(twin, samples)]
    for drill in drills:
        say(f"{drill.name}: {drill.fault}")
        results.append(await _drilled(twin, samples, drill, fail_modes))
    results.append(await _log(twin))
    return results


async def _healthy(twin: Twin, samples: Sequence[Sample]) -> Result:
    """Without this, a refusal in a drill would prove nothing."""
    result = Result(name="healthy", boundary="none", fault="none: what policy allows is granted and executed once")
    for sample in samples:
        result.asked += 1
        answer = await _submit(twin, sample)
        if sample.held:
            result.check(await _held(twin, sample, answer))
            continue
        result.check(None if answer.http_status == _OK else _told(sample, answer, "should be granted"))
        if answer.http_status == _OK:
            result.check(await _executed_once(twin, sample, answer))
    return result


async def _drilled(twin: Twin, samples: Sequence[Sample], drill: Drill, fail_modes: FailModes) -> Result:
    result = Result(name=drill.name, boundary=drill.boundary, fault=drill.fault)
    concerned = [sample for sample in samples if drill.expected(sample) is not None]
    if not drill.concerns(samples):
        result.checks.append(Judged(verdict=Verdict.SKIPPED, why="no intent of the bundle can show it"))
        return result
    # 1. A token that is out already, from before.
    before = await _token(twin, samples)
    # 2. Trip, and ask for one of everything.
    waiting: Waiting = []
    if any(sample.limited for sample in concerned):
        await twin.forget_limits()
    async with drill.trip(twin, samples):
        tripped = time.monotonic()
        await _ask_at_once(twin, drill, concerned, fail_modes, result, waiting)
        result.detected_s = round(time.monotonic() - tripped, 2)
        if drill.at_first:
            await twin.until_open(drill.boundary)
        await _ask(twin, drill, concerned, fail_modes, result, waiting)
        # 3. Nothing is executed either, where the executor's own check needs what is broken.
        if drill.tokens_die and before is not None:
            consumed = await twin.consume(*before)
            result.check("a token from before was consumed" if consumed.http_status == _OK else None)
        if drill.afterwards is not None:
            async with drill.afterwards(twin, waiting) as problems:
                for problem in problems:
                    result.check(problem)
    # 4. It heals by itself, and what waited is decided, claimed and executed once.
    mended = time.monotonic()
    await twin.until_ready()
    result.recovered_s = round(time.monotonic() - mended, 2)
    for sample, answer in waiting:
        result.check(await _decided(twin, sample, str(answer.body["intent_id"])))
    if drill.asks_again:
        await _ask_again(twin, concerned, result)
    result.decided_s = round(time.monotonic() - mended, 2)
    return result


async def _ask(
    twin: Twin, drill: Drill, concerned: Sequence[Sample], fail_modes: FailModes, result: Result, waiting: Waiting
) -> None:
    for sample in concerned:
        expected = drill.expected(sample)
        if expected is None:
            continue
        answer = await _submit(twin, sample)
        result.asked += 1
        result.checks.append(judge(sample, answer.http_status, answer.body, expected, fail_modes))
        _keep(waiting, sample, answer)


async def _ask_again(twin: Twin, concerned: Sequence[Sample], result: Result) -> None:
    for sample in concerned:
        if not sample.held:
            answer = await _submit(twin, sample)
            result.check(None if answer.http_status == _OK else _told(sample, answer, "is not granted afterwards"))


async def _ask_at_once(
    twin: Twin, drill: Drill, concerned: Sequence[Sample], fail_modes: FailModes, result: Result, waiting: Waiting
) -> None:
    """Ask before anybody can have noticed: even the first intent after the fault gets no token."""
    for sample in concerned:
        expected = drill.expected(sample)
        if sample.held or expected is None:
            continue
        intent = sample.intent
        if drill.at_first:
            # Nothing that waits for another reason: asked again, its action would be answered with what waits.
            intent, expected = replace(intent, queue=False), replace(expected, statuses=frozenset({"unqueued"}))
        answer = await twin.submit(sample, intent=intent)
        result.asked += 1
        if answer.body.get("reason_code") in drill.at_first and answer.body.get("token") is None:
            result.check(None)
        else:
            result.checks.append(judge(sample, answer.http_status, answer.body, expected, fail_modes))
        _keep(waiting, sample, answer)
        return


def _keep(waiting: Waiting, sample: Sample, answer: Answer) -> None:
    """Note what waits, once: asked for again while it waits, an action is answered with the intent that waits."""
    known = [earlier.body.get("intent_id") for _, earlier in waiting]
    if waits(answer.body) and answer.body.get("intent_id") not in known:
        waiting.append((sample, answer))


async def _submit(twin: Twin, sample: Sample) -> Answer:
    """Submit a sample as if its agent had asked for nothing before: a game day asks more than limits may allow."""
    if sample.limited:
        await twin.forget_limits()
    return await twin.submit(sample)


async def _token(twin: Twin, samples: Sequence[Sample]) -> tuple[Sample, JSON] | None:
    sample = next((sample for sample in samples if not sample.held), None)
    if sample is None:
        return None
    answer = await _submit(twin, sample)
    return (sample, answer.body["token"]) if answer.http_status == _OK else None


async def _decided(twin: Twin, sample: Sample, intent_id: str) -> str | None:
    """Follow an intent to its decision; return what was wrong."""
    deadline = time.monotonic() + _DECIDE_S
    while (answer := await twin.look(sample, intent_id)).body.get("status") == "queued":
        if sample.limited:
            await twin.forget_limits()
        if time.monotonic() > deadline:
            return f"{sample.intent.action} still waits after {_DECIDE_S:.0f} s"
        await asyncio.sleep(_LOOK_S)
    if sample.held:
        return await _held(twin, sample, answer)
    if answer.body.get("status") != "claimable":
        return _told(sample, answer, "should be claimable")
    claimed = await twin.claim(sample, intent_id)
    if claimed.http_status != _OK:
        return _told(sample, claimed, "could not be claimed")
    return await _executed_once(twin, sample, claimed)


async def _held(twin: Twin, sample: Sample, answer: Answer) -> str | None:
    """Check that a human is waited for, and wait no longer: while it waits, the same action is not asked anew."""
    if answer.body.get("status") != "held":
        return _told(sample, answer, "should be held")
    cancelled = await twin.cancel(sample, str(answer.body["intent_id"]))
    return None if cancelled.http_status == _OK else _told(sample, cancelled, "could not be cancelled")


async def _executed_once(twin: Twin, sample: Sample, granted: Answer) -> str | None:
    token = granted.body.get("token")
    first, second = await twin.consume(sample, token), await twin.consume(sample, token)
    if first.http_status != _OK:
        return _told(sample, first, "has a token that is refused")
    return None if second.http_status != _OK else f"{sample.intent.action}: a token was consumed twice"


async def _log(twin: Twin) -> Result:
    """Let the auditor's command verify the twin's log, and that it holds every receipt that was given."""
    result = Result(name="log", boundary="none", fault="none: the log is verified, with every receipt that was given")
    receipts = list(twin.receipts)
    result.asked = len(receipts)
    for start in range(0, max(1, len(receipts)), _RECEIPTS_AT_ONCE):
        result.check(await twin.verify(receipts[start : start + _RECEIPTS_AT_ONCE]))
    return result


def _told(sample: Sample, answer: Answer, what: str) -> str:
    return f"{sample.intent.action} of {sample.agent} {what}: {answer.http_status} {answer.body.get('reason_code')}"
