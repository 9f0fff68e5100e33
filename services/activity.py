"""What this process has seen of each agent lately: denials, velocity, novelty. In memory; it can only add to a risk."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from services.decision.risk import Signals

if TYPE_CHECKING:
    from datetime import datetime

    from holdfast.intent import Intent

_WINDOW_S: Final = 600.0
_VELOCITY_WINDOW_S: Final = 60.0
_AGENTS: Final = 50_000
_EVENTS: Final = 1_000
_SEEN: Final = 5_000


@dataclass(slots=True)
class _Agent:
    denials: deque[float] = field(default_factory=lambda: deque(maxlen=_EVENTS))
    calls: deque[float] = field(default_factory=lambda: deque(maxlen=_EVENTS))
    seen: OrderedDict[tuple[str, str], None] = field(default_factory=OrderedDict)


class RecentActivity:
    """Bounded counters per agent. Forgetting the longest-silent agent lowers nothing but its velocity and denials."""

    def __init__(self) -> None:
        self._agents: OrderedDict[str, _Agent] = OrderedDict()

    def signals(self, agent: str, intent: Intent, now: datetime) -> Signals:
        """Return the signals as of now, this intent not counted."""
        known = self._agents.get(agent)
        if known is None:
            return Signals(recent_denials=0, velocity=0, novel=True)
        at = now.timestamp()
        return Signals(
            recent_denials=sum(1 for moment in known.denials if at - moment <= _WINDOW_S),
            velocity=sum(1 for moment in known.calls if at - moment <= _VELOCITY_WINDOW_S),
            novel=(intent.action, intent.resource.type) not in known.seen,
        )

    def note(self, agent: str, intent: Intent, now: datetime, *, denied: bool) -> None:
        """Count one decided intent."""
        known = self._agents.setdefault(agent, _Agent())
        self._agents.move_to_end(agent)
        if len(self._agents) > _AGENTS:
            self._agents.popitem(last=False)
        at = now.timestamp()
        known.calls.append(at)
        if denied:
            known.denials.append(at)
        else:
            known.seen[intent.action, intent.resource.type] = None
            if len(known.seen) > _SEEN:
                known.seen.popitem(last=False)
