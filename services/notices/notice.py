"""One thing that somebody should be told, as a value.

A notice leaves the house. It never carries a secret, a token or an agent's parameters: whoever makes one names what it
is about by ids, and puts into `details` what an operator may read aloud.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.strict_json import JSON

MAX_SUMMARY: Final = 200
MAX_DETAILS: Final = 16
MAX_DETAIL: Final = 256
ID_PREFIX: Final = "ntc_"

_ID: Final = re.compile(r"ntc_[0-9a-z]{26}")
_DEDUPE_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._/-]{0,199}")
_DETAIL_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Kind(StrEnum):
    """What happened. Receivers filter by these words, so none is renamed."""

    INCIDENT_OPENED = "incident.opened"
    INCIDENT_UPDATED = "incident.updated"
    INCIDENT_RESOLVED = "incident.resolved"
    BREAK_GLASS_ACTIVATED = "break_glass.activated"
    BREAK_GLASS_USED = "break_glass.used"
    BREAK_GLASS_REVIEW_DUE = "break_glass.review_due"
    BREAK_GLASS_REVIEW_OVERDUE = "break_glass.review_overdue"
    BREAK_GLASS_REVOKED = "break_glass.revoked"
    BREAK_GLASS_FLAGGED = "break_glass.flagged"
    FAIL_OPEN_USED = "fail_open.used"
    OPERATOR_PERMITTED = "operator.permitted"
    REVIEW_DUE = "review.due"
    REVIEW_OVERDUE = "review.overdue"
    REVIEW_FLAGGED = "review.flagged"
    OVERRIDE_SET = "override.set"
    OVERRIDE_EXPIRED = "override.expired"
    HALT_SET = "halt.set"
    HALT_RESUMED = "halt.resumed"
    POLICY_STALE = "policy.stale"
    QUEUE_PARKED = "queue.parked"
    WEBHOOK_DEAD = "webhook.dead"
    RECEIVER_DEAD = "receiver.dead"
    TEST = "test"


#: After one of these, whatever the dedupe key stands for is over.
ENDINGS: Final = frozenset({Kind.INCIDENT_RESOLVED, Kind.BREAK_GLASS_REVOKED, Kind.OVERRIDE_EXPIRED, Kind.HALT_RESUMED})


class Severity(StrEnum):
    """How much it matters, from least to most."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    def reaches(self, least: Severity) -> bool:
        """Return whether this is at least as grave as `least`."""
        order = list(Severity)
        return order.index(self) >= order.index(least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One notice. Notices with the same `dedupe_key` speak of the same thing, the last one ends it (`ENDINGS`).

    `notice_id` is `Ids.new("ntc_")`: sortable, and what a receiver recognises a repetition by.
    """

    notice_id: str
    kind: Kind
    severity: Severity
    dedupe_key: str
    summary: str
    at: datetime
    details: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what a receiver could misread. Raises: ValueError."""
        if _ID.fullmatch(self.notice_id) is None:
            raise ValueError("a notice's id is `ntc_` and 26 lower-case letters or digits")
        if _DEDUPE_KEY.fullmatch(self.dedupe_key) is None:
            raise ValueError("a dedupe key has 1 to 200 letters, digits or `:._/-`")
        if not self.summary or len(self.summary) > MAX_SUMMARY or not self.summary.isprintable():
            raise ValueError(f"a summary has 1 to {MAX_SUMMARY} printable characters")
        if self.at.utcoffset() is None:
            raise ValueError("a notice's time is aware")
        if len(self.details) > MAX_DETAILS:
            raise ValueError(f"a notice has at most {MAX_DETAILS} details")
        for name, value in self.details.items():
            if _DETAIL_NAME.fullmatch(name) is None:
                raise ValueError("a detail's name is ASCII snake_case of at most 40 characters")
            if len(value) > MAX_DETAIL or not value.isprintable():
                raise ValueError(f"a detail has at most {MAX_DETAIL} printable characters")
        object.__setattr__(self, "details", MappingProxyType(dict(self.details)))

    @property
    def is_ending(self) -> bool:
        """Whether what the dedupe key stands for is over."""
        return self.kind in ENDINGS

    def document(self) -> dict[str, JSON]:
        """Return the notice as JSON: what the outbox stores and what the webhook sends."""
        return {
            "notice_id": self.notice_id,
            "kind": self.kind.value,
            "severity": self.severity.value,
            "dedupe_key": self.dedupe_key,
            "summary": self.summary,
            "at": self.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "details": dict(self.details),
        }


def printable(text: str, *, limit: int) -> str:
    """Return words of others as they may stand in a notice: one line, printable, at most `limit` characters."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= limit else line[: limit - 1] + "…"
