"""Puts the notifications of one process together: who is told, what is told, and how it gets there."""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import TYPE_CHECKING, Final

from services.notices import configuration
from services.notices.board import Noticeboard
from services.notices.notice import ID_PREFIX, MAX_DETAIL, MAX_SUMMARY, Kind, Notice, Severity, printable
from services.notices.outbox import Standing
from services.notices.sender import Sender
from services.notices.watch import IncidentWatch
from services.postgres.notices import PostgresOutbox
from services.postgres.pool import ReadPool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from services.boundary import Boundary
    from services.breaker import Transition
    from services.metrics import Metrics
    from services.notices.configuration import Notifications, Outline
    from services.policies import ActivePolicies
    from services.recording.lane import Lane
    from services.settings import Settings
    from services.system import SystemClock, SystemIds

FILE_NAME: Final = "notify.yaml"
KEY_NAME: Final = "webhook.key"
_CONNECTIONS: Final = 2
_POLICIES_S: Final = 1.0
_NOTHING: Final = Standing(due=0, oldest_s=0.0, dead=0)


def read_notifications(settings: Settings) -> Notifications:
    """Read who is told: from `HOLDFAST_NOTIFY`, else `notify.yaml` in the data directory, else nobody.

    Raises: ConfigurationInvalid.
    """
    return notifications_of(settings.notify, settings.data_dir, source=settings.issuer)


def notifications_of(path: Path | None, data_dir: Path, *, source: str) -> Notifications:
    """Read the file at `path`, or the one in the data directory if there is one. Raises: ConfigurationInvalid."""
    return configuration.read(
        _file(path, data_dir), default_key_file=data_dir / KEY_NAME, environment=os.environ, source=source
    )


def outline_of(path: Path | None, data_dir: Path) -> Outline:
    """Read the same file without its secrets. Raises: ConfigurationInvalid."""
    return configuration.outline(_file(path, data_dir), default_key_file=data_dir / KEY_NAME)


def _file(path: Path | None, data_dir: Path) -> Path | None:
    if path is None and os.path.lexists(data_dir / FILE_NAME):
        return data_dir / FILE_NAME
    return path


class Notifying:
    """The Notices port, and everything behind it."""

    def __init__(
        self,
        notifications: Notifications,
        *,
        instance: str,
        lane: Lane,
        database_url: str,
        metrics: Metrics,
        clock: SystemClock,
        ids: SystemIds,
    ) -> None:
        self._metrics = metrics
        self._names = tuple(channel.name for channel in notifications.channels)
        # Of its own: what waits for a silent database here keeps no connection from the heartbeat.
        self._pool = ReadPool(database_url, size=_CONNECTIONS)
        outbox = PostgresOutbox(self._pool)
        self._sender = Sender(
            notifications.channels, outbox, origin=instance, clock=clock, jitter=secrets.SystemRandom().random
        )
        self._board = Noticeboard(lane, self._sender, clock=clock, ids=ids, origin=instance)
        self._watch = IncidentWatch(
            notifications.incidents,
            self._board,
            outbox,
            origin=instance,
            in_journal=lambda: lane.in_journal,
            clock=clock,
            ids=ids,
        )
        lane.on_notices = self._sender.noticed
        self._sender.on_dead = self._board.receiver_is_dead
        self._sender.on_result = self._count
        self._sender.on_standings = self._measure
        self._clock = clock
        self._ids = ids
        self._instance = instance
        self._policies: ActivePolicies | None = None

    async def start(self) -> None:
        """Make it usable. Connects to nothing."""
        await self._pool.start()

    def publish(self, notice: Notice) -> None:
        """Record the notice and tell it. Returns at once, and never raises."""
        self._board.publish(notice)

    def watch(self, boundaries: Sequence[Boundary], policies: ActivePolicies) -> None:
        """Take the boundaries whose outages are incidents, and the policies that can become stale."""
        self._watch.watch(boundaries)
        self._policies = policies

    def on_transition(self, boundary: str, transition: Transition) -> None:  # noqa: ARG002 - the boundary is looked at
        """Take a transition of a boundary."""
        self._watch.look(boundary)

    async def run(self) -> None:
        """Watch and deliver until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch.run())
            tasks.create_task(self._sender.run())
            tasks.create_task(self._watch_policies())

    async def close(self) -> None:
        """Close the connections to receivers and to the outbox."""
        await self._sender.close()
        await self._pool.close()

    async def _watch_policies(self) -> None:
        """Tell of each time the policies are no longer what they should be."""
        told = False
        while True:
            trouble = None if self._policies is None else self._policies.trouble()
            if trouble is not None and not told:
                self.publish(self._policy_stale(trouble))
            told = trouble is not None
            await asyncio.sleep(_POLICIES_S)

    def _policy_stale(self, trouble: str) -> Notice:
        return Notice(
            notice_id=self._ids.new(ID_PREFIX),
            kind=Kind.POLICY_STALE,
            severity=Severity.ERROR,
            dedupe_key=f"policy:{self._instance}",
            summary=printable(f"{self._instance}: the policies are stale or refused: {trouble}", limit=MAX_SUMMARY),
            at=self._clock.now(),
            details={"instance": self._instance, "trouble": printable(trouble, limit=MAX_DETAIL)},
        )

    def _count(self, channel: str, result: str) -> None:
        self._metrics.notice_deliveries.labels(channel, result).inc()

    def _measure(self, standings: Mapping[str, Standing]) -> None:
        for name in {*self._names, *standings}:
            standing = standings.get(name, _NOTHING)
            self._metrics.notices_due.labels(name).set(standing.due)
            self._metrics.notices_oldest_seconds.labels(name).set(standing.oldest_s)
            self._metrics.notices_dead.labels(name).set(standing.dead)
