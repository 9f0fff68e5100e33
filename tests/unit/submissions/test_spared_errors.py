"""One agent's odd text must not stop the others."""

from __future__ import annotations

import pytest
from desk import Desk
from holdfast.reasons import ReasonCode
from world import FakeClock

from services.boundary import Boundary, BoundaryUnavailable
from services.breaker import State
from services.decision.verdict import Deny


class Unfit(ConnectionError):
    """Speaks of one call, though its kind speaks of the dependency."""


async def test_an_error_that_is_spared_never_opens_the_breaker_and_its_kind_still_does():
    boundary = Boundary(
        "audit",
        reason_code=ReasonCode.AUDIT_UNAVAILABLE,
        deadline_s=1,
        clock=FakeClock(),
        counts=(ConnectionError,),
        spares=(Unfit,),
    )

    async def fail(error: Exception) -> None:
        raise error

    for error, state in [(Unfit, State.CLOSED), (ConnectionError, State.OPEN)]:
        for _ in range(5):
            with pytest.raises(BoundaryUnavailable):
                await boundary.call(lambda error=error: fail(error()), proves=lambda _: None)
        assert boundary.state.state is state


async def test_a_detail_that_quotes_what_no_table_holds_is_recorded_and_printable():
    desk = await Desk().open()

    async def quotes_the_agent(policy, intent):
        return Deny(reason_code=ReasonCode.PARAMETERS_INVALID, detail="the parameter `\x00\x1b[31m` is not declared")

    desk.world.classifier.classify = quotes_the_agent
    try:
        answer = await desk.submit(desk.world.refund())

        assert (answer.status, answer.envelope["reason_code"]) == (403, "PARAMETERS_INVALID")
        assert answer.envelope["detail"] == "the parameter `\\x00\\x1b[31m` is not declared"
        assert answer.envelope["receipt"] is not None
    finally:
        await desk.recording.crash(desk.lane)
