"""What operators change about a waiting intent, beside its outcome. Each rides with its record.

All three are refused unless `expect_version` is the intent's version and it waits, in time, in a state that fits. They
take a worker's lease away, so that whatever the worker found comes too late. They wait for no other writer: where one
has its hands on the intent just now, they are refused, and may be tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime

    from services.decision.approvals import Approval


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproveIntent:
    """Effect: store an approval of a held or waiting intent. Refused if this person gave it before."""

    approval: Approval
    expect_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReorderIntent:
    """Effect: move a waiting, held or parked intent to another place in the queue."""

    intent_id: str
    expect_version: int
    lane: int
    lane_name: str
    rank_at: datetime
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RequeueIntent:
    """Effect: let a parked intent be decided again, with all its attempts."""

    intent_id: str
    expect_version: int
    at: datetime


QueueEffect: TypeAlias = ApproveIntent | ReorderIntent | RequeueIntent
