"""What a boundary promises, one rule a function, asked of whichever `services/boundary.py` is handed in."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from holdfast.reasons import Cause, ReasonCode
from world import FakeClock

DEADLINE_S = 0.02
PATIENCE_S = 2
CALLERS = 500
RULES = []


def rule(promise):
    """Keep the promise with the others."""
    RULES.append(promise)
    return promise


class Away(ConnectionError):
    """Speaks of the dependency."""


class Unfit(Away):
    """Speaks of one call, though its kind speaks of the dependency."""


class Backend:
    """Counts who reaches it, and how many at once."""

    def __init__(self) -> None:
        self.reached = self.inside = self.most_at_once = 0
        self.answer: object = "right"
        self.turns = 3

    async def ask(self) -> object:
        self.reached += 1
        self.inside += 1
        self.most_at_once = max(self.most_at_once, self.inside)
        try:
            for _ in range(self.turns):
                await asyncio.sleep(0)
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer
        finally:
            self.inside -= 1


class Bench:
    """One boundary with its backend, a clock that is moved by hand, and what was told of it."""

    def __init__(self, module, **changes) -> None:
        self.module = module
        self.clock = FakeClock()
        self.backend = Backend()
        self.told: list[str] = []
        values = {
            "reason_code": ReasonCode.SIGNING_UNAVAILABLE,
            "deadline_s": DEADLINE_S,
            "clock": self.clock,
            "causes": {TimeoutError: Cause.TIMEOUT, Away: Cause.STORE_UNREACHABLE},
            "counts": (Away, TimeoutError, module.WrongAnswer),
            "spares": (Unfit,),
            "open_cause": Cause.CIRCUIT_OPEN,
            "on_transition": lambda _, transition: self.told.append(transition.after.value),
        }
        self.boundary = module.Boundary("token", **(values | changes))

    @property
    def state(self) -> str:
        return self.boundary.state.state.value

    def proves(self, answer: object) -> None:
        if answer != "right":
            raise self.module.WrongAnswer("not the answer")

    async def call(self, **how) -> object:
        return await self.boundary.call(self.backend.ask, proves=self.proves, **how)

    async def probe(self) -> bool:
        return await self.boundary.probe(self.backend.ask, proves=self.proves)

    async def refused(self, **how):
        with pytest.raises(self.module.BoundaryUnavailable) as caught:
            await self.call(**how)
        return caught.value

    async def trip(self) -> None:
        right, self.backend.answer = self.backend.answer, Away("gone")
        for _ in range(3):
            await self.refused()
        assert self.state == "open"
        self.backend.answer = right
        self.backend.reached = self.backend.most_at_once = 0


# --- an answer --------------------------------------------------------------------------------------------------------


@rule
async def an_answer_that_proves_itself_is_handed_on(module):
    assert await Bench(module).call() == "right"


@rule
async def an_answer_that_proves_nothing_is_none_and_counts(module):
    bench = Bench(module)
    for answer in ("wrong", None, ""):
        bench.backend.answer = answer
        assert (await bench.refused()).reason_code is ReasonCode.SIGNING_UNAVAILABLE
    assert bench.state == "open"


@rule
async def an_error_is_an_unavailability_with_its_cause(module):
    bench = Bench(module)
    for error, cause in ((Away("x"), Cause.STORE_UNREACHABLE), (KeyError("x"), None), (TimeoutError(), Cause.TIMEOUT)):
        bench.backend.answer = error
        assert (await bench.refused()).cause is cause


@rule
async def silence_ends_at_the_deadline(module):
    bench = Bench(module)
    bench.backend.ask = asyncio.Event().wait
    async with asyncio.timeout(PATIENCE_S):
        assert (await bench.refused()).cause is Cause.TIMEOUT


@rule
async def an_answer_that_blocked_the_loop_beyond_the_deadline_is_late(module):
    bench = Bench(module)
    for over_s, late in ((0.0, False), (0.001, True)):

        async def answer(over_s=over_s):
            bench.clock.seconds = round(bench.clock.seconds) + DEADLINE_S + over_s
            return "right"

        bench.clock.seconds = 0.0
        bench.backend.ask = answer
        if late:
            assert (await bench.refused()).cause is Cause.TIMEOUT
        else:
            assert await bench.call() == "right"


@rule
async def a_proof_that_blocked_the_loop_is_late_too(module):
    bench = Bench(module)

    def proves(answer):
        bench.clock.advance(DEADLINE_S * 2)

    bench.proves = proves
    assert (await bench.refused()).cause is Cause.TIMEOUT


@rule
async def an_answer_that_outlives_its_cancellation_is_late(module):
    """Refuse what a driver returns that swallowed its cancellation."""
    bench = Bench(module)

    async def stubborn():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            bench.clock.advance(DEADLINE_S * 2)
        return "right"

    bench.backend.ask = stubborn
    async with asyncio.timeout(PATIENCE_S):
        assert (await bench.refused()).cause is Cause.TIMEOUT


# --- what counts ------------------------------------------------------------------------------------------------------


@rule
async def three_failures_open_it_and_then_nobody_is_asked(module):
    bench = Bench(module)
    await bench.trip()
    assert (await bench.refused()).cause is Cause.CIRCUIT_OPEN
    assert bench.backend.reached == 0
    assert not bench.boundary.is_closed
    assert bench.told == ["open"]


@rule
async def two_failures_and_a_success_leave_it_closed(module):
    bench = Bench(module)
    for answer in ("right", "right", "right", "right", *2 * [Away("x")], "right", *2 * [Away("x")]):
        bench.backend.answer = answer
        if answer == "right":
            await bench.call()
        else:
            await bench.refused()
    assert bench.state == "closed"


@rule
async def what_belongs_to_one_call_never_opens_it(module):
    bench = Bench(module)
    for error in (Unfit("x"), KeyError("x")):
        bench.backend.answer = error
        for _ in range(6):
            await bench.refused()
    assert bench.state == "closed"


@rule
async def a_caller_that_goes_away_says_nothing_of_the_dependency(module):
    bench = Bench(module, deadline_s=60)
    bench.backend.ask = asyncio.Event().wait
    for _ in range(6):
        task = asyncio.create_task(bench.call())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert bench.state == "closed"


@rule
async def a_cancellation_from_within_is_no_answer_and_ends_nobody_else(module):
    """Tell a driver that cancels what it waits for from a caller that went away."""
    bench = Bench(module, counts=(Exception,))

    async def cancelled_inside():
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        return await future

    bench.backend.ask = cancelled_inside
    for _ in range(3):
        try:
            await bench.refused()
        except asyncio.CancelledError:
            raise AssertionError("nobody cancelled the caller") from None
    assert bench.state == "open"


@rule
async def what_has_another_way_may_pass_though_it_is_open(module):
    bench = Bench(module)
    await bench.trip()
    assert await bench.call(though_open=True) == "right"
    bench.backend.answer = "wrong"
    await bench.refused(though_open=True)
    assert bench.state == "open"
    assert bench.told == ["open"], "and says nothing of the dependency"


# --- signs of health --------------------------------------------------------------------------------------------------


@rule
async def signs_of_health_open_it_and_let_canaries_try_but_never_close_it(module):
    bench = Bench(module)
    for _ in range(3):
        bench.boundary.dependency_missed("silent")
    assert bench.state == "open"
    bench.boundary.dependency_is_back()
    assert bench.state == "half_open"
    assert not bench.boundary.is_closed
    bench.boundary.dependency_is_gone("gone")
    assert bench.state == "open"
    assert bench.boundary.state.last_error == "gone"
    assert bench.told == ["open", "half_open", "open"]


@rule
async def a_half_open_boundary_asks_for_no_live_call(module):
    bench = Bench(module)
    await bench.trip()
    bench.boundary.dependency_is_back()
    await asyncio.gather(*(bench.refused() for _ in range(CALLERS)))
    assert bench.backend.reached == 0


@rule
async def three_right_canaries_close_it_and_a_wrong_one_opens_it(module):
    for answers, state in ((["right"] * 3, "closed"), (["right", "right", "wrong"], "open"), ([KeyError()], "open")):
        bench = Bench(module)
        await bench.trip()
        bench.boundary.dependency_is_back()
        for n, answer in enumerate(answers):
            assert bench.state == "half_open", n
            bench.backend.answer = answer
            assert await bench.probe()
        assert bench.state == state
        assert not await bench.probe()
        assert bench.told == ["open", "half_open", state]


@rule
async def a_canary_whose_sender_goes_away_has_failed(module):
    bench = Bench(module, deadline_s=60)
    await bench.trip()
    bench.boundary.dependency_is_back()
    bench.backend.ask = asyncio.Event().wait
    task = asyncio.create_task(bench.probe())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.state == "open"
    assert bench.told[-1] == "open"


@rule
async def a_canary_that_is_lost_is_noticed_by_the_next_caller(module):
    bench = Bench(module, deadline_s=60)
    await bench.trip()
    bench.boundary.dependency_is_back()
    right, bench.backend.ask = bench.backend.ask, asyncio.Event().wait
    lost = asyncio.create_task(bench.probe())
    await asyncio.sleep(0)
    bench.clock.advance(61)
    bench.backend.ask = right
    await bench.refused()
    assert (bench.state, bench.told[-1]) == ("open", "open")
    lost.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lost


# --- the flood --------------------------------------------------------------------------------------------------------


async def _flood(bench) -> Counter[str]:
    """Send 500 callers at once; each asks, sends a canary, and asks again, until it is open or closed."""
    met: Counter[str] = Counter()

    async def caller() -> None:
        while bench.state == "half_open":
            try:
                await bench.call()
            except bench.module.BoundaryUnavailable:
                met["refused"] += 1
            else:
                met["answered"] += 1
                assert bench.told[-1] == "closed", "no live call before it is closed"
                return
            met["sent"] += await bench.probe()
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return met


@rule
async def a_flood_lets_one_at_a_time_and_three_in_all_reach_the_backend(module):
    bench = Bench(module, deadline_s=30)
    await bench.trip()
    bench.boundary.dependency_is_back()
    live, ask = [], bench.backend.ask

    async def watched():
        if bench.state == "closed":
            live.append(1)
            return "right"
        return await ask()

    bench.backend.ask = watched
    met = await _flood(bench)
    assert (met["sent"], bench.backend.reached, bench.backend.most_at_once) == (3, 3, 1)
    assert met["answered"] == len(live)
    assert met["refused"] >= CALLERS
    assert bench.told == ["open", "half_open", "closed"]


@rule
async def a_flood_behind_a_wrong_canary_reaches_the_backend_once(module):
    bench = Bench(module, deadline_s=30)
    await bench.trip()
    bench.boundary.dependency_is_back()
    bench.backend.answer = "wrong"
    met = await _flood(bench)
    assert (met["sent"], bench.backend.reached, met["answered"]) == (1, 1, 0)
    assert bench.told == ["open", "half_open", "open"]


@rule
async def an_answer_from_before_the_trip_changes_nothing_after_it(module):
    """Two calls are under way when it trips: one comes back well and one badly, while a canary is out."""
    bench = Bench(module, deadline_s=60)
    gates = [asyncio.Event() for _ in range(2)]

    async def late(n):
        await gates[n].wait()
        return ("right", "wrong")[n]

    calls = [
        asyncio.create_task(bench.boundary.call(lambda n=n: late(n), proves=bench.proves)) for n in range(len(gates))
    ]
    await asyncio.sleep(0)
    await bench.trip()
    bench.boundary.dependency_is_back()
    for gate in gates:
        gate.set()
    await asyncio.gather(*calls, return_exceptions=True)
    assert bench.state == "half_open"
    for _ in range(3):
        assert await bench.probe()
    assert bench.told == ["open", "half_open", "closed"]


@rule
async def a_canary_may_take_as_long_as_the_deadline_allows(module):
    bench = Bench(module, deadline_s=30.0)
    await bench.trip()
    bench.boundary.dependency_is_back()

    async def slow() -> object:
        bench.clock.advance(29)
        return "right"

    for _ in range(3):
        assert await bench.boundary.probe(slow, proves=bench.proves)
    assert bench.state == "closed"
