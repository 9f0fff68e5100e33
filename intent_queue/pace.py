"""How much the drain does at once: additive increase, multiplicative decrease.

A recovered dependency is fragile and live traffic goes first, so the drain starts small, grows slowly and yields fast.
Source: design 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

START: Final = 4
CAP: Final = 64
GOOD_PER_STEP: Final = 20
DECREASE: Final = 0.6


class Live(StrEnum):
    """How live submissions fare."""

    NONE = "none"  # nobody submits
    QUICK = "quick"
    SLOW = "slow"  # they need the room


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveWord:
    """The last word on live submissions. `number` grows with each word, so that one counts once."""

    fares: Live = Live.NONE
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How many intents are decided at once (`window`, 1 to `CAP`), and how many went well since it last changed."""

    window: int = START
    good: int = 0

    def __post_init__(self) -> None:
        """Refuse a window that is closed or beyond the cap."""
        if not 1 <= self.window <= CAP:
            raise ValueError(f"a window is 1 to {CAP}")
        if not 0 <= self.good < GOOD_PER_STEP:
            raise ValueError(f"the good since the last step are 0 to {GOOD_PER_STEP - 1}")

    def after_good(self) -> Pace:
        """Return the pace after one intent was decided in good time."""
        if self.good + 1 < GOOD_PER_STEP:
            return Pace(window=self.window, good=self.good + 1)
        return Pace(window=min(CAP, self.window + 1))

    def after_trouble(self) -> Pace:
        """Return the pace after trouble: a dependency failed or was slow. Once a slice, however many intents met it."""
        return Pace(window=max(1, int(self.window * DECREASE)))

    def beside_slow_live_traffic(self) -> Pace:
        """Return the pace after word that live traffic is slow. Where the start is too much, it is not the drain."""
        return Pace(window=max(min(START, self.window), int(self.window * DECREASE)))
