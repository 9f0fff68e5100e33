"""The journal of a process that is gone, on its way to the database."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.recording.journal import JournalUnavailable

if TYPE_CHECKING:
    from holdfast.audit.record import Receipt

    from services.recording.chained import Chained
    from services.recording.journal import Journal


@dataclass(slots=True)
class Orphan:
    """What was read of it so far, the last record of each stream in it, and what was `written` about it."""

    journal: Journal
    frames: int = 0
    tails: dict[str, Receipt] = field(default_factory=dict)
    written: list[Chained] = field(default_factory=list)

    def discard(self) -> None:
        """Delete its files and let go of it. Blocks. Only once everything written about it is durable."""
        with contextlib.suppress(JournalUnavailable):  # whoever comes next drains it again, which changes nothing
            self.journal.drained(self.frames)
        self.journal.close()
