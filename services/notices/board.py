"""Where the service says what others should hear: recorded first, then told."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from services.notices.notice import ID_PREFIX, Kind, Notice, Severity, printable
from services.ports import Entry, RecordingFailed

if TYPE_CHECKING:
    from services.notices.sender import Sender
    from services.ports import Clock, Ids, Recorder

_log = logging.getLogger(__name__)

#: A receiver that is dead stays dead for a while; the others hear of it once an hour.
_DEATH_NOTICE_S: Final = 3600.0


class Noticeboard:
    """The Notices port."""

    def __init__(self, recorder: Recorder, sender: Sender, *, clock: Clock, ids: Ids, origin: str) -> None:
        self._recorder = recorder
        self._sender = sender
        self._clock = clock
        self._ids = ids
        self._origin = origin
        self._deaths: dict[str, float] = {}

    def publish(self, notice: Notice) -> None:
        """Record the notice and tell it. Returns at once. Told even when nothing can be recorded. Never raises."""
        self._sender.insist(notice)
        entry = Entry(
            kind="notice.published",
            at=notice.at,
            members={"notice": notice.document()},
            journal_may_release=True,
            notices=(notice,),
        )
        try:
            self._recorder.append(entry)
        except RecordingFailed as error:
            _log.error("%s (%s) could not be recorded: %s", notice.kind, notice.summary, error)
            self._sender.send_now(notice)

    def receiver_is_dead(self, channel: str, why: str) -> None:
        """Tell the other channels."""
        now = self._clock.monotonic()
        last = self._deaths.get(channel)
        if last is not None and now - last < _DEATH_NOTICE_S:
            return
        self._deaths[channel] = now
        self.publish(
            Notice(
                notice_id=self._ids.new(ID_PREFIX),
                kind=Kind.RECEIVER_DEAD,
                severity=Severity.ERROR,
                dedupe_key=f"receiver:{channel}",
                summary=f"the channel {channel} takes no notices any more",
                at=self._clock.now(),
                details={"channel": channel, "instance": self._origin, "why": printable(why, limit=200)},
            )
        )
