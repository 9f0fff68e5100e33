"""The one kind of contact with the outside: deadline, breaker, evidence, reason code, one exception out."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from holdfast.reasons import Cause, ReasonCode

from services.breaker import Breaker, BreakerSettings, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from services.breaker import Permit, Transition
    from services.ports import Clock

_log = logging.getLogger(__name__)
_PROBE_LEASE_S: Final = 5.0
T = TypeVar("T")


class BoundaryUnavailable(Exception):
    """The dependency gave no answer that counts. `detail` is for operators; callers get the code."""

    def __init__(self, reason_code: ReasonCode, cause: Cause | None, detail: str) -> None:
        super().__init__(f"{reason_code}: {detail}")
        self.reason_code = reason_code
        self.cause = cause
        self.detail = detail


class WrongAnswer(Exception):
    """The dependency answered, and the answer does not prove what it must."""


class CallCancelled(Exception):
    """What the call waited for was cancelled by somebody else than the caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryState:
    """What readiness and metrics show."""

    name: str
    state: State
    last_error: str | None


class Boundary:
    """One dependency, as the rest of the service sees it.

    `causes` names the cause of each kind of error, where the reason code has causes; the first that fits counts.
    `counts` lists the errors that speak of the dependency; any other, and those in `spares`, belongs to the one call
    that met it and never trips the breaker.
    """

    def __init__(
        self,
        name: str,
        *,
        reason_code: ReasonCode,
        deadline_s: float,
        clock: Clock,
        settings: BreakerSettings | None = None,
        causes: Mapping[type[Exception], Cause] | None = None,
        counts: tuple[type[Exception], ...] = (Exception,),
        spares: tuple[type[Exception], ...] = (),
        open_cause: Cause | None = None,
        on_transition: Callable[[str, Transition], None] | None = None,
    ) -> None:
        if deadline_s <= 0:
            raise ValueError("a boundary has a deadline")
        self.name = name
        self._reason_code = reason_code
        self._deadline_s = deadline_s
        self._clock = clock
        # A canary may take as long as any call: its lease outlives the deadline.
        self._breaker = Breaker(settings or BreakerSettings(probe_lease_s=max(_PROBE_LEASE_S, deadline_s + 1.0)))
        self._causes = dict(causes or {})
        self._counts = counts
        self._spares = spares
        self._open_cause = open_cause
        self._on_transition = on_transition
        self._last_error: str | None = None
        self._refused = 0

    @property
    def generation(self) -> int:
        """How many transitions the breaker has made."""
        return self._breaker.generation

    @property
    def refused(self) -> int:
        """How many calls ended without an answer that counts, canaries not among them."""
        return self._refused

    @property
    def state(self) -> BoundaryState:
        """The boundary as of now."""
        return BoundaryState(name=self.name, state=self._breaker.state, last_error=self._last_error)

    @property
    def is_closed(self) -> bool:
        """Whether live calls are admitted now."""
        return self._breaker.state is State.CLOSED

    def closed_for_s(self) -> float:
        """Return for how many seconds the breaker has been closed, 0 unless it is."""
        return self._breaker.closed_for_s(self._clock.monotonic())

    async def call(
        self, attempt: Callable[[], Awaitable[T]], *, proves: Callable[[T], None], though_open: bool = False
    ) -> T:
        """Make one call. `proves` inspects the answer and raises WrongAnswer unless it is evidence of success.

        `though_open` is for calls that have another way than the dependency the breaker watches: a denial can be
        recorded in the journal while PostgreSQL is away.

        Raises: BoundaryUnavailable, and nothing else but cancellation.
        """
        permit = self._breaker.admit(self._clock.monotonic())
        self._publish()
        if permit is None and not though_open:
            raise self.refusal()
        return await self._under(permit, attempt, proves)

    def refusal(self) -> BoundaryUnavailable:
        """Count a call that is not made because the boundary is open, and return what it would have raised."""
        self._refused += 1
        return BoundaryUnavailable(self._reason_code, self._open_cause, f"the {self.name} boundary is open")

    async def probe(self, canary: Callable[[], Awaitable[T]], *, proves: Callable[[T], None]) -> bool:
        """Send one canary if the breaker wants one. Returns whether it was sent."""
        permit = self._breaker.admit_probe(self._clock.monotonic())
        self._publish()
        if permit is None:
            return False
        try:
            await self._under(permit, canary, proves)
        except BoundaryUnavailable as error:
            _log.warning("canary of the %s boundary failed: %s", self.name, error.detail)
        return True

    def dependency_is_back(self) -> None:
        """Pass on the dependency's own sign of health."""
        self._breaker.dependency_is_back(self._clock.monotonic())
        self._publish()

    def dependency_is_gone(self, why: str) -> None:
        """Pass on the dependency's own sign that it is away."""
        self._last_error = why
        self._breaker.dependency_is_gone(self._clock.monotonic())
        self._publish()

    def dependency_missed(self, why: str) -> None:
        """Count a missed sign of health as one failed call: an idle boundary opens too."""
        self._last_error = why
        now = self._clock.monotonic()
        permit = self._breaker.admit(now)
        if permit is not None:
            self._breaker.fail(permit, now)
            self._publish()

    def force_open(self, why: str) -> None:
        """Refuse every live call until `reset`, whatever the dependency says."""
        self._breaker.force_open(self._clock.monotonic(), why)
        self._publish()

    def reset(self, why: str) -> None:
        """Begin to probe an open boundary. It closes by correct canaries alone."""
        self._breaker.reset(self._clock.monotonic(), why)
        self._publish()

    async def _under(
        self, permit: Permit | None, attempt: Callable[[], Awaitable[T]], proves: Callable[[T], None]
    ) -> T:
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._deadline_s):
                answer = await attempt()
            proves(answer)
            if self._clock.monotonic() - started > self._deadline_s:
                # What blocks the loop cannot be interrupted; it can still be refused.
                raise TimeoutError  # noqa: TRY301 - one way out for a late answer
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                # Something inside was cancelled, and nobody cancelled the caller: the dependency gave no answer.
                raise self._failed(permit, "the call was cancelled from within", CallCancelled()) from error
            # The caller went away. That says nothing of the dependency, but a probe's lease must not stay open.
            if permit is not None and permit.is_probe:
                self._breaker.fail(permit, self._clock.monotonic())
                self._publish()
            raise
        except TimeoutError as error:
            raise self._failed(permit, "no answer in time", error) from error
        except Exception as error:
            raise self._failed(permit, f"{type(error).__name__}: {error}", error) from error
        if permit is not None:
            self._breaker.succeed(permit, self._clock.monotonic())
            self._publish()
        return answer

    def _failed(self, permit: Permit | None, detail: str, error: Exception) -> BoundaryUnavailable:
        self._last_error = detail
        if permit is None or not permit.is_probe:
            self._refused += 1
        counted = isinstance(error, self._counts) and not isinstance(error, self._spares)
        if permit is not None and (permit.is_probe or counted):
            self._breaker.fail(permit, self._clock.monotonic())
            self._publish()
        cause = next((cause for kind, cause in self._causes.items() if isinstance(error, kind)), None)
        return BoundaryUnavailable(self._reason_code, cause, detail)

    def _publish(self) -> None:
        for transition in self._breaker.take_transitions():
            _log.warning("%s boundary: %s -> %s, %s", self.name, transition.before, transition.after, transition.why)
            if self._on_transition is not None:
                self._on_transition(self.name, transition)
