"""What this process has seen of each agent lately: denials, velocity, novelty. In memory, instant; it can only add.

Novelty is about permissions: only what was *allowed* to the agent is familiar, so that no amount of asking makes it so.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson

from services.decision.risk import Signals
from services.decision.verdict import Allow, Deny

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from holdfast.intent import Intent

    from services.decision.verdict import Verdict

#: The windows of the signals. Source: docs/risk.md.
DENIALS_WINDOW_S: Final = 600.0
VELOCITY_WINDOW_S: Final = 60.0
#: How many actions, and how many resources, of one agent are familiar at a time.
MAX_FAMILIAR: Final = 1_000
MAX_AGENTS: Final = 10_000
_EVENTS: Final = 1_000
_DIGEST_BYTES: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What of an intent may be familiar, as digests: what agents write is never kept, and has a bounded size."""

    action: bytes
    resource: bytes

    @classmethod
    def of(cls, intent: Intent) -> Traits:
        """Return the traits of one intent: its action on this type of resource, and the resource."""
        resource = intent.resource
        return cls(
            action=_digest("action", intent.action, resource.type),
            resource=_digest("resource", resource.type, resource.id),
        )


class _Times:
    """The latest times at which something happened, in order: a drain asks how many at every decision."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: list[float] = []

    def add(self, at: float) -> None:
        """Take in one more. Clocks step back: it need not be the latest."""
        insort(self._times, at)
        if len(self._times) > _EVENTS:
            del self._times[0]

    def since(self, moment: float) -> int:
        """Return how many are not before a moment."""
        return len(self._times) - bisect_left(self._times, moment)


@dataclass(slots=True)
class _Agent:
    denials: _Times = field(default_factory=_Times)
    calls: _Times = field(default_factory=_Times)
    actions: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    resources: OrderedDict[bytes, None] = field(default_factory=OrderedDict)


class RecentActivity:
    """Bounded counters per agent. Forgetting the longest-silent agent lowers nothing but its velocity and denials."""

    def __init__(self) -> None:
        self._agents: OrderedDict[str, _Agent] = OrderedDict()

    async def recall(self, agent: str) -> None:
        """Do nothing: there is no other memory."""

    def signals(self, agent: str, intent: Intent, now: datetime) -> Signals:
        """Return the signals as of now, this intent not counted."""
        known = self._agents.get(agent)
        if known is None:
            return Signals(recent_denials=0, velocity=0, novel=True)
        at, traits = now.timestamp(), Traits.of(intent)
        return Signals(
            recent_denials=known.denials.since(at - DENIALS_WINDOW_S),
            velocity=known.calls.since(at - VELOCITY_WINDOW_S),
            novel=traits.action not in known.actions or traits.resource not in known.resources,
        )

    def note(self, agent: str, intent: Intent, now: datetime, verdict: Verdict) -> None:
        """Count one recorded verdict."""
        known = self._known(agent)
        at = now.timestamp()
        known.calls.add(at)
        if isinstance(verdict, Deny):
            known.denials.add(at)
        elif isinstance(verdict, Allow):
            traits = Traits.of(intent)
            _learn(known.actions, traits.action)
            _learn(known.resources, traits.resource)

    def learn(self, agent: str, *, actions: Iterable[bytes], resources: Iterable[bytes]) -> None:
        """Take over what another memory says was allowed to the agent, least recent first."""
        known = self._known(agent)
        for action in actions:
            _learn(known.actions, action)
        for resource in resources:
            _learn(known.resources, resource)

    def _known(self, agent: str) -> _Agent:
        known = self._agents.setdefault(agent, _Agent())
        self._agents.move_to_end(agent)
        if len(self._agents) > MAX_AGENTS:
            self._agents.popitem(last=False)
        return known


def _learn(familiar: OrderedDict[bytes, None], trait: bytes) -> None:
    familiar[trait] = None
    familiar.move_to_end(trait)
    if len(familiar) > MAX_FAMILIAR:
        familiar.popitem(last=False)


def _digest(*parts: str) -> bytes:
    return hashlib.blake2b(orjson.dumps(parts), digest_size=_DIGEST_BYTES).digest()
