"""One agent's odd text must not stop the others."""

from __future__ import annotations

import pytest
from desk import Desk
from holdfast.reasons import ReasonCode
from world import FakeClock

from services.boundary import Boundary, BoundaryUnavailable
from services.breaker import State


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


async def test_a_parameter_whose_name_no_table_holds_is_denied_and_recorded():
    desk = await Desk().open()
    try:
        odd = desk.world.refund(parameters={"amount_cents": 1, "note": 5, "\x00": 1})

        answer = await desk.submit(odd)

        assert (answer.status, answer.envelope["reason_code"]) == (403, "PARAMETERS_INVALID")
        assert answer.envelope["detail"].isprintable()
    finally:
        await desk.recording.crash(desk.lane)
