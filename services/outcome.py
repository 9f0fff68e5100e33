"""The answer to an intent, and its envelope on the wire. Source: design 4.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.reasons import Decision, Mode, ReasonCode, Status, http_status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from holdfast.audit.record import Receipt
    from holdfast.reasons import Cause
    from holdfast.strict_json import JSON

    from services.decision.policy import Classified
    from services.decision.risk import Risk

LANE_NAMES = ("safety", "critical", "normal", "bulk")

#: What a stored intent answers when it is asked for again, by status. A claimable one has no token yet: never 200.
_REPEAT_STATUS: Mapping[Status, int] = {Status.CLAIMABLE: 202, Status.GRANTED: 409}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a waiting intent stands. `state` is `durable` or `journal`; `position` is 1-based, approximate."""

    state: str
    lane: int
    position: int | None
    expires_at: datetime

    def to_json(self) -> dict[str, JSON]:
        """Return the wire form."""
        return {
            "state": self.state,
            "lane": LANE_NAMES[self.lane],
            "position": self.position,
            "expires_at": rfc3339(self.expires_at),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One answer. `token` is there exactly when the decision is an allow that was released."""

    intent_id: str
    status: Status
    decision: Decision
    reason_code: ReasonCode
    detail: str
    decided_at: datetime
    cause: Cause | None = None
    mode: Mode = Mode.NORMAL
    classified: Classified | None = None
    risk: Risk | None = None
    bundle: str | None = None
    determining: tuple[str, ...] = ()
    token: str | None = None
    token_expires_at: datetime | None = None
    place: Place | None = None
    retry_after_s: int | None = None
    receipt: Receipt | None = None

    def __post_init__(self) -> None:
        """Refuse a token beside anything but a granted allow."""
        granted = self.decision is Decision.ALLOW and self.status is Status.GRANTED
        if self.token is not None and not (granted and self.reason_code is ReasonCode.ALLOWED):
            raise ValueError("a token stands only in a granted outcome")

    @property
    def http_status(self) -> int:
        """INVARIANT: 200 means that a token is in the body."""
        if self.token is not None:
            return 200
        if self.reason_code is ReasonCode.ALLOWED:
            return _REPEAT_STATUS[self.status]
        return http_status(self.reason_code)

    def to_json(self) -> dict[str, JSON]:
        """Return the envelope."""
        risk = self.risk
        return {
            "intent_id": self.intent_id,
            "status": self.status.value,
            "decision": self.decision.value,
            "reason_code": self.reason_code.value,
            "cause": self.cause.value if self.cause else None,
            "detail": self.detail,
            "mode": self.mode.value,
            "category": self.classified.category if self.classified else None,
            "impact": self.classified.impact if self.classified else None,
            "risk": None
            if risk is None
            else {
                "score": risk.score,
                "tier": risk.tier,
                "factors": [{"name": f.name, "points": f.points, "why": f.why} for f in risk.factors],
            },
            "policy": {"bundle": self.bundle, "determining": list(self.determining)},
            "token": self.token,
            "token_expires_at": rfc3339(self.token_expires_at) if self.token_expires_at else None,
            "queue": self.place.to_json() if self.place else None,
            "retry_after": self.retry_after_s,
            "status_url": f"/v1/intents/{self.intent_id}",
            "receipt": None
            if self.receipt is None
            else {"stream": self.receipt.stream, "seq": self.receipt.seq, "hash": self.receipt.hash},
            "decided_at": rfc3339(self.decided_at),
        }


def rfc3339(moment: datetime) -> str:
    """Return RFC 3339 UTC with milliseconds."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
