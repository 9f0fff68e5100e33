"""Makes a record stand, behind the audit boundary, before anything rests on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.evidence import durable, stands

if TYPE_CHECKING:
    from services.boundary import Boundary
    from services.ports import Entry, Pending, Recorder, Settled


async def committed(recorder: Recorder, audit: Boundary, entry: Entry, *, though_open: bool = False) -> Settled:
    """Record what rests on a commit alone. While the boundary is open nothing is even chained, unless `though_open`.

    Raises: BoundaryUnavailable. `applied` of the answer says whether the effect was.
    """

    async def attempt() -> tuple[Pending, Settled]:
        pending = recorder.append(entry)
        return pending, await pending.settled()

    _, settled = await audit.call(attempt, proves=lambda answer: durable(*answer), though_open=though_open)
    return settled


async def kept(recorder: Recorder, audit: Boundary, entry: Entry, *, though_open: bool = True) -> Settled:
    """Record what may rest on the journal too, so that an open boundary is no obstacle, unless it is to be.

    Raises: BoundaryUnavailable. `applied` of the answer says whether the effect was, as far as it is known.
    """

    async def attempt() -> tuple[Pending, Settled]:
        pending = recorder.append(entry)
        return pending, await pending.settled()

    _, settled = await audit.call(attempt, proves=lambda answer: stands(*answer), though_open=though_open)
    return settled
