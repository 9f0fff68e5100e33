"""Looks at the boundaries, and publishes their incidents."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from services.breaker import State
from services.notices.incident import IncidentTracker, Phase, Sighting
from services.notices.notice import ID_PREFIX, Kind, Notice, Severity
from services.ports import StoreUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.boundary import Boundary
    from services.notices.incident import Incident, IncidentSettings
    from services.notices.outbox import Outbox, Unresolved
    from services.ports import Clock, Ids, Notices

_LOOK_S: Final = 0.5
_KINDS: Final = {
    Phase.OPENED: Kind.INCIDENT_OPENED,
    Phase.UPDATED: Kind.INCIDENT_UPDATED,
    Phase.RESOLVED: Kind.INCIDENT_RESOLVED,
}
_STATES: Final = {
    State.CLOSED: "closed again",
    State.HALF_OPEN: "probing",
    State.OPEN: "open",
    State.FORCED_OPEN: "forced open",
}


class IncidentWatch:
    """The incidents of one process's boundaries. A breaker is a process's own, so an incident names the instance.

    `in_journal` says whether records of this instance have not reached the store yet.
    """

    def __init__(
        self,
        settings: IncidentSettings,
        notices: Notices,
        outbox: Outbox,
        *,
        origin: str,
        in_journal: Callable[[], bool],
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._settings = settings
        self._notices = notices
        self._outbox = outbox
        self._origin = origin
        self._in_journal = in_journal
        self._clock = clock
        self._ids = ids
        self._boundaries: dict[str, Boundary] = {}
        self._trackers: dict[str, IncidentTracker] = {}
        self._keys: dict[str, list[str]] = {}  # of the incidents that stand open, by boundary

    def watch(self, boundaries: Sequence[Boundary]) -> None:
        """Take the boundaries, which are built after this."""
        self._boundaries = {boundary.name: boundary for boundary in boundaries}
        self._trackers = {name: IncidentTracker(self._settings) for name in self._boundaries}

    def look(self, name: str) -> None:
        """Look at one boundary: at every transition, and now and then."""
        if name in self._boundaries:
            incident = self._trackers[name].see(self._sighting(name))
            if incident is not None:
                self._publish(name, incident)

    async def run(self) -> None:
        """Look until cancelled."""
        taken_over = False
        while True:
            if not taken_over:
                taken_over = await self._take_over()
            for name in self._boundaries:
                self.look(name)
            await asyncio.sleep(_LOOK_S)

    async def _take_over(self) -> bool:
        """Go on with what an earlier process of this instance left open, once the store can say what that is.

        It cannot while what that process opened waits in the journal.
        """
        if self._in_journal():
            return False
        try:
            left = await self._outbox.unresolved(self._origin)
        except StoreUnreachable:
            return False
        for one in left:
            self._adopt(one)
        return True

    def _adopt(self, left: Unresolved) -> None:
        keys = self._keys.setdefault(left.boundary, [])
        if left.boundary in self._trackers and left.dedupe_key not in keys:
            self._trackers[left.boundary].take_over(self._sighting(left.boundary))
            keys.append(left.dedupe_key)

    def _sighting(self, name: str) -> Sighting:
        boundary = self._boundaries[name]
        return Sighting(
            state=boundary.state.state,
            generation=boundary.generation,
            refused=boundary.refused,
            now=self._clock.monotonic(),
        )

    def _publish(self, name: str, incident: Incident) -> None:
        keys = self._keys.setdefault(name, [])
        if not keys:
            keys.append(f"incident:{self._origin}:{name}:{self._ids.new('inc_')}")
        for key in keys:
            self._notices.publish(self._notice(name, incident, key))
        if incident.phase is Phase.RESOLVED:
            keys.clear()

    def _notice(self, name: str, incident: Incident, key: str) -> Notice:
        affected = f"{incident.affected} {'intent' if incident.affected == 1 else 'intents'} refused"
        return Notice(
            notice_id=self._ids.new(ID_PREFIX),
            kind=_KINDS[incident.phase],
            # The ending too: whoever was told of the beginning is told of the end.
            severity=Severity.CRITICAL,
            dedupe_key=key,
            summary=f"{self._origin}: the {name} boundary is {_STATES[incident.state]}, {affected}",
            at=self._clock.now(),
            details={
                "instance": self._origin,
                "boundary": name,
                "state": incident.state.value,
                "generation": str(incident.generation),
                "affected": str(incident.affected),
                "not_closed_seconds": str(int(incident.not_closed_s)),
            },
        )
