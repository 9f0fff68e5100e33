"""A record that has its place in the chain and waits to become durable."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.ports import RecordingFailed, Settled

if TYPE_CHECKING:
    from holdfast.audit.record import Receipt

    from services.audit.chain import Link
    from services.recording.effects import EncodedEffect


class Chained:
    """The Pending port. Lives on one event loop.

    `own` marks what the lane writes for itself: nobody waits for its release, so it is never voided. `settles` is the
    record that this one voids and whose answer waits for it.
    """

    __slots__ = (
        "_body",
        "_done",
        "_receipt",
        "effect",
        "kind",
        "may_release",
        "own",
        "prev",
        "released",
        "settles",
        "size",
        "voided",
    )

    def __init__(
        self,
        link: Link,
        *,
        kind: str,
        effect: EncodedEffect | None,
        may_release: bool,
        own: bool = False,
        settles: Chained | None = None,
    ) -> None:
        self._receipt = link.receipt
        self._body = link.body
        self.prev = link.prev
        self._done: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        self.kind = kind
        self.effect = effect
        self.may_release = may_release
        self.own = own
        self.settles = settles
        self.size = len(link.body) + (0 if effect is None else effect.size)
        self.released = True
        self.voided = False

    @property
    def receipt(self) -> Receipt:
        """Its place and hash, final as of now."""
        return self._receipt

    @property
    def body(self) -> bytes:
        """The exact bytes whose leaf hash the receipt carries."""
        return self._body

    @property
    def done(self) -> bool:
        """Return whether `settled` would return or raise at once."""
        return self._done.done()

    async def settled(self) -> Settled:
        """Return once the record is durable. Raises: RecordingFailed."""
        # Shielded: one caller that gives up does not take the answer from another.
        return await asyncio.shield(self._done)

    def settle(self, *, applied: bool = True, in_journal: bool) -> None:
        """Say that it is durable. Only the lane does, and only the first word counts."""
        if not self._done.done():
            self._done.set_result(Settled(receipt=self._receipt, applied=applied, in_journal=in_journal))
        if self.settles is not None:
            self.settles.settle(applied=False, in_journal=in_journal)

    def fail(self, why: str) -> None:
        """Say that its entry may not be released."""
        if not self._done.done():
            self._done.set_exception(RecordingFailed(why))
            self._done.exception()  # marks it as seen: not everybody waits for an answer
        if self.settles is not None:
            self.settles.fail(why)
