"""The closed sets of the wire contract. A code is never renamed and never used again."""

from __future__ import annotations

from enum import StrEnum


class Decision(StrEnum):
    """What was decided about an intent."""

    ALLOW = "allow"
    DENY = "deny"
    HOLD = "hold"


class Status(StrEnum):
    """Where an intent stands."""

    GRANTED = "granted"
    DENIED = "denied"
    HELD = "held"
    QUEUED = "queued"
    UNQUEUED = "unqueued"
    CLAIMABLE = "claimable"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class Mode(StrEnum):
    """By which way a token was permitted; anything but `normal` was opened by policy in advance."""

    NORMAL = "normal"
    OPERATOR = "operator"
    BREAK_GLASS = "break_glass"
    FAIL_OPEN = "fail_open"


class Cause(StrEnum):
    """Why an evaluation was unavailable."""

    TIMEOUT = "timeout"
    STORE_UNREACHABLE = "store_unreachable"
    POLICY_ERROR = "policy_error"
    STALE_BUNDLE = "stale_bundle"
    LIMITS_UNREACHABLE = "limits_unreachable"
    CIRCUIT_OPEN = "circuit_open"


class ReasonCode(StrEnum):
    """Why the answer is what it is."""

    # Outcomes of an intent.
    ALLOWED = "ALLOWED"
    INTENT_UNCLASSIFIED = "INTENT_UNCLASSIFIED"
    PARAMETERS_INVALID = "PARAMETERS_INVALID"
    ACTION_NOT_AVAILABLE = "ACTION_NOT_AVAILABLE"
    POLICY_DENIED = "POLICY_DENIED"
    NO_MATCHING_POLICY = "NO_MATCHING_POLICY"
    RATE_LIMITED = "RATE_LIMITED"
    APPROVAL_REQUIRED = "APPROVAL_REQUIRED"
    CLASSIFICATION_UNAVAILABLE = "CLASSIFICATION_UNAVAILABLE"
    EVALUATION_UNAVAILABLE = "EVALUATION_UNAVAILABLE"
    SIGNING_UNAVAILABLE = "SIGNING_UNAVAILABLE"
    AUDIT_UNAVAILABLE = "AUDIT_UNAVAILABLE"
    QUEUE_FULL = "QUEUE_FULL"
    AGENT_SUSPENDED = "AGENT_SUSPENDED"
    EMERGENCY_HALT = "EMERGENCY_HALT"
    PREAUTHORIZATION_REFUSED = "PREAUTHORIZATION_REFUSED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    SUPERSEDED = "SUPERSEDED"
    OPERATOR_DENIED = "OPERATOR_DENIED"

    # Requests that never became an intent, and later steps.
    REQUEST_MALFORMED = "REQUEST_MALFORMED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    CALLBACK_REFUSED = "CALLBACK_REFUSED"
    IDEMPOTENCY_KEY_REQUIRED = "IDEMPOTENCY_KEY_REQUIRED"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    INTENT_FINISHED = "INTENT_FINISHED"
    NOT_CLAIMABLE = "NOT_CLAIMABLE"
    NOT_CANCELLABLE = "NOT_CANCELLABLE"
    TOKEN_INVALID = "TOKEN_INVALID"  # noqa: S105 - a code, not a secret
    TOKEN_MISMATCH = "TOKEN_MISMATCH"  # noqa: S105 - a code, not a secret
    TOKEN_CONSUMED = "TOKEN_CONSUMED"  # noqa: S105 - a code, not a secret
    TOKEN_REVOKED = "TOKEN_REVOKED"  # noqa: S105 - a code, not a secret
    CONSUMPTION_UNAVAILABLE = "CONSUMPTION_UNAVAILABLE"
    OUTCOME_CONFLICT = "OUTCOME_CONFLICT"
    CONFLICT = "CONFLICT"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"


#: Outcomes that mean "could not decide": never a rule's no. Each is HTTP 503, and the intent may wait.
NOT_DECIDED = frozenset(
    {
        ReasonCode.CLASSIFICATION_UNAVAILABLE,
        ReasonCode.EVALUATION_UNAVAILABLE,
        ReasonCode.SIGNING_UNAVAILABLE,
        ReasonCode.AUDIT_UNAVAILABLE,
    }
)


def http_status(reason_code: ReasonCode) -> int:
    """Return the HTTP status of an intent's outcome. Only ALLOWED is 200. Source: design 4.1."""
    if reason_code is ReasonCode.ALLOWED:
        return 200
    if reason_code in NOT_DECIDED or reason_code is ReasonCode.QUEUE_FULL:
        return 503
    if reason_code is ReasonCode.RATE_LIMITED:
        return 429
    return 403
