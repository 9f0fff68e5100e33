"""Where a waiting intent stands, and what may happen to it there.

The rules:

1. A lease is taken to decide (from `waiting`) or to expire (from any waiting state). It remembers where it came from.
2. A lease ends in an outcome, or goes back where it came from. Only a lease taken from `waiting` can end in a decision.
3. An outage gives back without counting; a lost lease or a poisonous intent counts an attempt. At `MAX_ATTEMPTS` an
   intent that would wait again is parked: still denied, until an operator moves it.
4. Every lease has a new epoch, so whoever lost a lease can settle nothing.
5. An operator's change ends a lease with nothing counted, and then happens to what was leased.
6. A final state is final.

The SQL in `store` does the same; `tests/integration/test_queue_store.py` holds the two against each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ATTEMPTS: Final = 5


class State(StrEnum):
    """A row's state while it waits, or the final state that removed it."""

    WAITING = "waiting"
    LEASED = "leased"
    HELD = "held"
    PARKED = "parked"
    CLAIMABLE = "claimable"
    GRANTED = "granted"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class Event(StrEnum):
    """What happens to a waiting intent."""

    CLAIM = "claim"  # leased, to be decided
    COME_DUE = "come_due"  # leased, to be expired
    GIVE_BACK = "give_back"  # could not be decided just now; nothing counted
    FAIL = "fail"  # the lease ran out, or the intent is poisonous; an attempt counted
    ALLOW = "allow"  # decided late: the agent may pick its token up
    HOLD = "hold"  # decided late, when it was picked up or approved: a human must approve
    DENY = "deny"
    EXPIRE = "expire"
    CANCEL = "cancel"
    SUPERSEDE = "supersede"
    APPROVE = "approve"
    REQUEUE = "requeue"  # an operator lets it be decided again
    GRANT = "grant"  # the agent picked its token up


FINAL: Final = frozenset({State.GRANTED, State.DENIED, State.EXPIRED, State.CANCELLED, State.SUPERSEDED})
STORED: Final = frozenset(State) - FINAL
LEASABLE: Final = STORED - {State.LEASED}

_BACK = None  # where the lease came from

_TABLE: Final[Mapping[State, Mapping[Event, State | None]]] = MappingProxyType(
    {
        State.WAITING: {
            Event.CLAIM: State.LEASED,
            Event.COME_DUE: State.LEASED,
            Event.APPROVE: State.CLAIMABLE,
            Event.HOLD: State.HELD,
            Event.DENY: State.DENIED,
            Event.CANCEL: State.CANCELLED,
            Event.SUPERSEDE: State.SUPERSEDED,
        },
        State.LEASED: {
            Event.GIVE_BACK: _BACK,
            Event.FAIL: _BACK,
            Event.ALLOW: State.CLAIMABLE,
            Event.HOLD: State.HELD,
            Event.DENY: State.DENIED,
            Event.EXPIRE: State.EXPIRED,
            Event.CANCEL: State.CANCELLED,
            Event.SUPERSEDE: State.SUPERSEDED,
        },
        State.HELD: {
            Event.COME_DUE: State.LEASED,
            Event.APPROVE: State.CLAIMABLE,
            Event.HOLD: State.HELD,
            Event.REQUEUE: State.WAITING,
            Event.DENY: State.DENIED,
            Event.CANCEL: State.CANCELLED,
            Event.SUPERSEDE: State.SUPERSEDED,
        },
        State.PARKED: {
            Event.COME_DUE: State.LEASED,
            Event.REQUEUE: State.WAITING,
            Event.DENY: State.DENIED,
            Event.CANCEL: State.CANCELLED,
            Event.SUPERSEDE: State.SUPERSEDED,
        },
        State.CLAIMABLE: {
            Event.COME_DUE: State.LEASED,
            Event.GRANT: State.GRANTED,
            Event.HOLD: State.HELD,
            Event.DENY: State.DENIED,
            Event.CANCEL: State.CANCELLED,
            Event.SUPERSEDE: State.SUPERSEDED,
        },
    }
)

_DECISIONS: Final = frozenset({Event.ALLOW, Event.HOLD})


class IllegalTransition(Exception):
    """The event cannot happen to an intent in this state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one intent stands. `leased_from` is set exactly while it is leased."""

    state: State = State.WAITING
    leased_from: State | None = None
    attempts: int = 0
    epoch: int = 0

    def __post_init__(self) -> None:
        """Refuse a lease from nowhere, and a home without a lease."""
        if (self.state is State.LEASED) != (self.leased_from is not None):
            raise ValueError("`leased_from` belongs to a lease")
        if self.leased_from is not None and self.leased_from not in LEASABLE:
            raise ValueError(f"nothing is leased from `{self.leased_from}`")


def legal(state: State) -> frozenset[Event]:
    """Return the events that can happen in `state`; none in a final one."""
    return frozenset(_TABLE.get(state, {}))


def after(place: Place, event: Event) -> Place:
    """Return where the intent stands after `event`. Raises: IllegalTransition."""
    row = _TABLE.get(place.state, {})
    if event not in row:
        raise IllegalTransition(f"`{event}` cannot happen to an intent that is `{place.state}`")
    if event in _DECISIONS and place.leased_from not in (None, State.WAITING):
        raise IllegalTransition(f"`{event}` cannot end a lease that was taken from `{place.leased_from}` to expire it")
    target = row[event]
    if target is State.LEASED:
        return replace(place, state=target, leased_from=place.state, epoch=place.epoch + 1)
    if target is not _BACK:
        return replace(place, state=target, leased_from=None)
    attempts = place.attempts + (event is Event.FAIL)
    home = place.leased_from if place.leased_from is not None else State.WAITING
    if event is Event.FAIL and home is State.WAITING and attempts >= MAX_ATTEMPTS:
        home = State.PARKED
    return replace(place, state=home, leased_from=None, attempts=attempts)
