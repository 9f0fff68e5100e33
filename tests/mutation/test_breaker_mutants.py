"""Every rule of breaker and boundary is held by a test: break one at a time, and something must notice.

A mutant that survives means that a rule stands in the source and in no test. A mutant whose text is gone from the
source fails too, so that this list follows the source.
"""

from __future__ import annotations

import asyncio

import pytest
from mutation.boundary_rules import RULES
from mutation.breaker_model import play
from mutation.mutants import Mutant, MutationLost, loaded

BREAKER = "services/breaker.py"
BOUNDARY = "services/boundary.py"
EXAMPLES = 100

_COUNTS = """        if permit.is_probe:
            return permit is self._probe
        return permit.generation == self._generation"""

BREAKERS = [
    # Permits and generations.
    Mutant(name="a stale live report counts", old=_COUNTS, new=_COUNTS.replace("permit.generation ==", "True or 0 ==")),
    Mutant(name="a stale canary counts", old="permit is self._probe\n", new="True\n"),
    Mutant(
        name="a canary counts by its generation alone, so twice",
        old="permit is self._probe\n",
        new="permit.generation == self._generation\n",
    ),
    Mutant(name="a transition begins no generation", old="self._generation += 1", new="pass"),
    Mutant(name="a generation is skipped", old="self._generation += 1", new="self._generation += 2"),
    Mutant(
        name="a permit carries another generation",
        old="return Permit(generation=self._generation, is_probe=False)",
        new="return Permit(generation=0, is_probe=False)",
    ),
    # Who is let in.
    Mutant(
        name="live calls pass while it is half-open",
        old="if self._state is not State.CLOSED:\n            return None",
        new="if self._state not in (State.CLOSED, State.HALF_OPEN):\n            return None",
    ),
    Mutant(
        name="live calls pass while it is open",
        old="if self._state is not State.CLOSED:\n            return None",
        new="if self._state is State.FORCED_OPEN:\n            return None",
    ),
    Mutant(
        name="live calls pass while it is forced open",
        old="if self._state is not State.CLOSED:\n            return None",
        new="if self._state in (State.OPEN, State.HALF_OPEN):\n            return None",
    ),
    Mutant(
        name="canaries go while it is closed or forced open",
        old="if self._state is not State.HALF_OPEN or",
        new="if self._state is State.OPEN or",
    ),
    Mutant(
        name="many canaries at a time",
        old="is not State.HALF_OPEN or self._probe is not None:",
        new="is not State.HALF_OPEN:",
    ),
    # Closing.
    Mutant(
        name="one right canary is enough",
        old="self._probes_correct >= self._settings.probes",
        new="self._probes_correct >= 1",
    ),
    Mutant(
        name="right canaries are not enough",
        old="self._probes_correct >= self._settings.probes",
        new="self._probes_correct > self._settings.probes",
    ),
    Mutant(
        name="a failed canary closes",
        old='self._enter(State.OPEN, "a canary failed")',
        new='self._enter(State.CLOSED, "a canary failed")',
    ),
    Mutant(
        name="a failed canary is forgiven",
        old='self._enter(State.OPEN, "a canary failed")',
        new="self._probe = None",
    ),
    Mutant(
        name="a report does not free the place of its canary",
        old="            self._probe = None\n            self._probes_correct",
        new="            self._probes_correct",
    ),
    Mutant(
        name="a sign of health closes",
        old='self._enter(State.HALF_OPEN, "the dependency\'s health signal returned")',
        new='self._enter(State.CLOSED, "the dependency\'s health signal returned")',
    ),
    Mutant(
        name="the open time closes",
        old='self._enter(State.HALF_OPEN, "the open time is over")',
        new='self._enter(State.CLOSED, "the open time is over")',
    ),
    Mutant(
        name="a reset closes",
        old="self._enter(State.HALF_OPEN, why)",
        new="self._enter(State.CLOSED, why)",
    ),
    # Leases and time.
    Mutant(name="a lease has no end", old="if self._probe is not None and now >= self._probe_lease_until", new="if 0"),
    Mutant(
        name="a lease ends late",
        old="now >= self._probe_lease_until",
        new="now > self._probe_lease_until",
    ),
    Mutant(
        name="a lost canary only makes room",
        old='self._enter(State.OPEN, "a canary did not come back")',
        new="self._probe = None",
    ),
    Mutant(name="time moves backwards", old="now = max(now, self._now)", new="pass"),
    Mutant(name="the open time has no end", old="self._now - self._opened_at >= self._settings.open_s", new="False"),
    Mutant(
        name="the open time ends late",
        old="self._now - self._opened_at >= self._settings.open_s",
        new="self._now - self._opened_at > self._settings.open_s",
    ),
    Mutant(
        name="the open time begins once",
        old="if state is State.OPEN:\n            self._opened_at",
        new="if state is State.OPEN and not self._opened_at:\n            self._opened_at",
    ),
    Mutant(name="closed since ever", old="self._changed_at = self._now", new="pass"),
    Mutant(
        name="closed for as long as it was open",
        old="if self._state is State.CLOSED else 0.0",
        new="if self._state is not State.HALF_OPEN else 0.0",
    ),
    # Signals and operators.
    Mutant(
        name="a sign of health undoes what an operator forced",
        old='if self._state is State.OPEN:\n            self._enter(State.HALF_OPEN, "the dep',
        new='if self._state in (State.OPEN, State.FORCED_OPEN):\n            self._enter(State.HALF_OPEN, "the dep',
    ),
    Mutant(
        name="a lost sign of health says nothing to a half-open one",
        old="if self._state in {State.CLOSED, State.HALF_OPEN}:",
        new="if self._state is State.CLOSED:",
    ),
    Mutant(
        name="a lost sign of health undoes what an operator forced",
        old="if self._state in {State.CLOSED, State.HALF_OPEN}:",
        new="if self._state is not State.OPEN:",
    ),
    Mutant(
        name="a canary after thirty seconds undoes what an operator forced",
        old="if self._state is State.OPEN and self._now - self._opened_at",
        new="if self._state in (State.OPEN, State.FORCED_OPEN) and self._now - self._opened_at",
    ),
    Mutant(
        name="an operator's reset disturbs what is closed",
        old="if self._state in {State.OPEN, State.FORCED_OPEN}:",
        new="if self._state is not State.HALF_OPEN:",
    ),
    Mutant(
        name="an operator's force is only for what is closed",
        old="if self._state is not State.FORCED_OPEN:",
        new="if self._state is State.CLOSED:",
    ),
    # Tripping.
    Mutant(
        name="a row is one longer",
        old="self._in_a_row >= self._settings.consecutive_failures",
        new="self._in_a_row > self._settings.consecutive_failures",
    ),
    Mutant(
        name="a success does not end a row",
        old="        self._in_a_row = 0\n        self._count(failed=False)",
        new="        self._count(failed=False)",
    ),
    Mutant(name="successes are not counted", old="        self._count(failed=False)\n", new=""),
    Mutant(
        name="failures are counted in rows alone",
        old="            self._count(failed=True)\n",
        new="            pass\n",
    ),
    Mutant(name="a correct answer opens it", old="            failed\n            and total", new="            total"),
    Mutant(
        name="a window needs one call more",
        old="total >= self._settings.window_calls",
        new="total > self._settings.window_calls",
    ),
    Mutant(
        name="more than the ratio is needed",
        old="total >= self._settings.window_failure_ratio",
        new="total > self._settings.window_failure_ratio",
    ),
    Mutant(
        name="a window never forgets",
        old="now - self._calls[0][0] > self._settings.window_s",
        new="False",
    ),
    Mutant(
        name="a window forgets early",
        old="now - self._calls[0][0] > self._settings.window_s",
        new="now - self._calls[0][0] >= self._settings.window_s",
    ),
    Mutant(
        name="a window forgets calls but not that they failed",
        old="self._failed_calls -= self._calls.popleft()[1]",
        new="self._calls.popleft()",
    ),
    # What a transition forgets.
    Mutant(
        name="a row outlives a transition",
        old="self._changed_at = self._now\n        self._in_a_row = 0",
        new="self._changed_at = self._now",
    ),
    Mutant(name="a window outlives a transition", old="        self._calls.clear()\n", new=""),
    Mutant(
        name="failures outlive a transition",
        old="        self._calls.clear()\n        self._failed_calls = 0\n",
        new="        self._calls.clear()\n",
    ),
    Mutant(
        name="right canaries outlive a transition",
        old="        self._probes_correct = 0\n        self._probe = None\n        if",
        new="        self._probe = None\n        if",
    ),
    Mutant(
        name="a canary outlives a transition",
        old="        self._probe = None\n        if state",
        new="        if state",
    ),
    Mutant(name="a transition is not told", old="self._transitions.append(", new="repr("),
    Mutant(
        name="transitions are told twice",
        old="self._transitions = self._transitions, []",
        new="_ = self._transitions, []",
    ),
]

BOUNDARIES = [
    Mutant(
        name="an open boundary asks all the same",
        old="if permit is None and not though_open:",
        new="if False:",
    ),
    Mutant(
        name="no other way past an open boundary",
        old="if permit is None and not though_open:",
        new="if permit is None:",
    ),
    Mutant(
        name="an open boundary has no cause", old="self._reason_code, self._open_cause,", new="self._reason_code, None,"
    ),
    Mutant(
        name="a canary's lease ends before its deadline",
        old="max(_PROBE_LEASE_S, deadline_s + 1.0)",
        new="_PROBE_LEASE_S",
    ),
    Mutant(name="no deadline", old="asyncio.timeout(self._deadline_s)", new="asyncio.timeout(None)"),
    Mutant(name="nothing has to prove itself", old="            proves(answer)\n", new=""),
    Mutant(name="what blocked the loop is never late", old="- started > self._deadline_s", new="- started > 1e9"),
    Mutant(
        name="what comes at the deadline is late",
        old="- started > self._deadline_s",
        new="- started >= self._deadline_s",
    ),
    Mutant(
        name="a proof may take as long as it likes",
        old="                answer = await attempt()\n            proves(answer)\n",
        new="                answer = await attempt()\n"
        "            began = self._clock.monotonic()\n"
        "            proves(answer)\n"
        "            started += self._clock.monotonic() - began\n",
    ),
    Mutant(
        name="a cancellation from within ends the caller",
        old="if task is None or not task.cancelling():",
        new="if False:",
    ),
    Mutant(
        name="a caller that goes away is an answer", old="if task is None or not task.cancelling():", new="if True:"
    ),
    Mutant(
        name="a caller that goes away is a failure",
        old="if permit is not None and permit.is_probe:\n",
        new="if permit is not None:\n",
    ),
    Mutant(
        name="a canary whose sender goes away keeps its lease",
        old="if permit is not None and permit.is_probe:\n",
        new="if False:\n",
    ),
    Mutant(name="some errors pass through", old="except Exception as error:", new="except OSError as error:"),
    Mutant(
        name="a late answer has no cause",
        old='raise self._failed(permit, "no answer in time", error) from error',
        new='raise self._failed(permit, "no answer in time", Exception()) from error',
    ),
    Mutant(
        name="successes are not reported",
        old="self._breaker.succeed(permit, self._clock.monotonic())",
        new="pass",
    ),
    Mutant(
        name="failures are not reported",
        old="if permit is not None and (permit.is_probe or counted):\n            self._breaker.fail(",
        new="if permit is not None and (permit.is_probe or counted):\n            print(",
    ),
    Mutant(
        name="a canary's own error is spared",
        old="if permit is not None and (permit.is_probe or counted):",
        new="if permit is not None and counted:",
    ),
    Mutant(
        name="every error counts",
        old="counted = isinstance(error, self._counts) and not isinstance(error, self._spares)",
        new="counted = True",
    ),
    Mutant(name="nothing is spared", old=" and not isinstance(error, self._spares)", new=""),
    Mutant(
        name="every live call may be a canary",
        old="permit = self._breaker.admit(self",
        new="permit = self._breaker.admit_probe(self",
    ),
    Mutant(
        name="a canary goes without leave",
        old="if permit is None:\n            return False",
        new="if permit is None:\n            pass",
    ),
    Mutant(
        name="a canary that failed looks like one that was not sent",
        old="error.detail)\n        return True",
        new="error.detail)\n            return False\n        return True",
    ),
    Mutant(
        name="a missed sign of health says nothing",
        old="            self._breaker.fail(permit, now)\n",
        new="            pass\n",
    ),
    Mutant(
        name="a returned sign of health says nothing",
        old="self._breaker.dependency_is_back(self._clock.monotonic())",
        new="pass",
    ),
    Mutant(
        name="a lost sign of health says nothing",
        old="self._breaker.dependency_is_gone(self._clock.monotonic())",
        new="pass",
    ),
    Mutant(
        name="an operator is not told why",
        old="        self._last_error = why\n        self._breaker",
        new="        self._breaker",
    ),
    Mutant(
        name="half-open counts as closed",
        old="return self._breaker.state is State.CLOSED",
        new="return self._breaker.state is not State.OPEN",
    ),
    Mutant(
        name="a transition that a caller meets is told later",
        old="        self._publish()\n        if permit is None and not though_open:",
        new="        if permit is None and not though_open:",
    ),
    Mutant(name="transitions reach nobody", old="self._on_transition(self.name, transition)", new="pass"),
]


#: How a check says no, and how an error comes through that a boundary should have held back.
NOTICED = (AssertionError, pytest.fail.Exception, KeyError, ConnectionError, TimeoutError)


def keep_the_rules(boundary) -> None:
    async def ask() -> None:
        for rule in RULES:
            await rule(boundary)

    asyncio.run(ask())


def test_the_sources_themselves_pass():
    with loaded(BREAKER) as breaker:
        play(breaker, examples=EXAMPLES)
    with loaded(BOUNDARY) as boundary:
        keep_the_rules(boundary)


@pytest.mark.parametrize("mutant", BREAKERS, ids=str)
def test_a_broken_breaker_is_noticed(mutant):
    with loaded(BREAKER, mutant) as broken, pytest.raises(NOTICED):
        play(broken, examples=EXAMPLES)


@pytest.mark.parametrize("mutant", BOUNDARIES, ids=str)
def test_a_broken_boundary_is_noticed(mutant):
    with loaded(BOUNDARY, mutant) as broken, pytest.raises((*NOTICED, broken.BoundaryUnavailable, broken.WrongAnswer)):
        keep_the_rules(broken)


def test_a_mutant_whose_text_is_gone_is_a_failure():
    with pytest.raises(MutationLost), loaded(BREAKER, Mutant(name="of another time", old="no such text", new="")):
        pass


def test_no_two_mutants_are_the_same():
    for mutants in (BREAKERS, BOUNDARIES):
        assert len({(one.old, one.new) for one in mutants}) == len({one.name for one in mutants}) == len(mutants)
