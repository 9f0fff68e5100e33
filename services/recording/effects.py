"""Effects as checked JSON: what rides to the database beside a record, and what a journal keeps of it.

One malformed effect would fail the whole batch that carries it, so every value is held to its column here, before the
record is chained.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeAlias

import orjson
from holdfast.reasons import Mode

from services.credential_effects import (
    AddKey,
    AddOperator,
    ChangeRole,
    DisableOperator,
    EnableOperator,
    RotateKey,
)
from services.decision.review import CloseReview, ReconcileUse, RemindPile, RemindReview, SumUpActivation
from services.order_effects import ConfirmOrder, EndOrder, PutOrder
from services.ports import (
    ActivateBundle,
    ConsumeToken,
    MoveIntent,
    OpenIntent,
    PutBundle,
    PutCredential,
    PutNotice,
    PutOperator,
    ReportOutcome,
    SetShadow,
)
from services.queue_effects import ApproveIntent, ReorderIntent, RequeueIntent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.credential_effects import CredentialEffect
    from services.decision.approvals import Approval
    from services.decision.review import ReviewEffect, Use
    from services.notices.notice import Notice
    from services.order_effects import OrderEffect
    from services.ports import Effect, QueueRow, Superseded
    from services.queue_effects import QueueEffect

_STATUS: Final = frozenset(
    {"granted", "denied", "held", "queued", "unqueued", "claimable", "expired", "cancelled", "superseded"}
)
_PARKED: Final = frozenset({"waiting", "held"})
_QUEUE_STATE: Final = frozenset({"waiting", "held", "parked", "claimable"})
_OUTCOME: Final = frozenset({"succeeded", "failed", "unknown"})
_CREDENTIAL: Final = frozenset({"agent", "executor", "operator"})
_CALLER: Final = frozenset({"agent", "executor"})
_ORDER: Final = frozenset({"halt", "suspension", "override", "force_open", "break_glass"})
#: Modes of a use that no cap in the store holds.
_UNCAPPED: Final = frozenset({Mode.FAIL_OPEN.value, Mode.OPERATOR.value})
_ROLE: Final = frozenset({"viewer", "operator", "approver", "admin"})

#: A B-tree entry over two such members stays below PostgreSQL's limit of 2,704 bytes.
MAX_TEXT_BYTES: Final = 1024
#: What one commit carries without making the others on its lane wait.
MAX_ARCHIVE_BYTES: Final = 8 << 20
MAX_NOTE_CHARACTERS: Final = 2_000
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: An escaped NUL, which jsonb does not hold; a backslash that is itself escaped does not start one.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_LANES: Final = 4
_MAX_PEOPLE: Final = 100
_INT: Final = 2**31
_BIGINT: Final = 2**63


class EffectMalformed(ValueError):
    """The effect holds a value that its column cannot."""


@dataclass(frozen=True, slots=True)
class EncodedEffect:
    """`op` names the operation of `append_batch`; `members` is a JSON object.

    `notices` are JSON objects, each stored if the effect is applied.
    """

    op: str
    members: bytes
    notices: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        """How many bytes it adds to a batch."""
        return len(self.members) + sum(len(notice) for notice in self.notices)


#: Applied in place of an effect that the database rejects for its values: counts as refused.
REFUSE: Final = EncodedEffect("refuse", b"{}")

#: The operation of notices that ride beside an effect, or beside none.
ATTACH: Final = "attach_notice"

_Members: TypeAlias = "dict[str, object]"


def encode_all(effect: Effect | None, notices: Iterable[Notice], *, origin: str) -> EncodedEffect | None:
    """Return what rides with a record: its effect, and the notices that `origin` will see delivered.

    Raises: EffectMalformed.
    """
    encoded = None if effect is None else encode(effect)
    attached = tuple(_encoded(ATTACH, _notice(notice, origin)).members for notice in notices)
    if not attached:
        return encoded
    if encoded is None:
        return EncodedEffect(ATTACH, attached[0], attached[1:])
    return EncodedEffect(encoded.op, encoded.members, attached)


def encode(effect: Effect) -> EncodedEffect:  # noqa: C901, PLR0911, PLR0912 - one for each effect
    """Return the checked JSON of an effect. Raises: EffectMalformed."""
    match effect:
        case OpenIntent():
            return _encoded("open_intent", _open_intent(effect))
        case MoveIntent():
            return _encoded("move_intent", _move_intent(effect))
        case ConsumeToken():
            members: _Members = {
                "iss": _text(effect.iss),
                "txn": _text(effect.txn),
                "jti": _text(effect.jti),
                "executor": _text(effect.executor),
                "consumed_at": _time(effect.consumed_at),
            }
            return _encoded("consume_token", members)
        case ReportOutcome():
            members = {
                "iss": _text(effect.iss),
                "jti": _text(effect.jti),
                "executor": _text(effect.executor),
                "outcome": _one_of(effect.outcome, _OUTCOME),
                "outcome_at": _time(effect.outcome_at),
            }
            return _encoded("report_outcome", members)
        case PutCredential():
            members = {
                "kind": _one_of(effect.kind, _CREDENTIAL),
                "subject": _text(effect.subject),
                "key_hash": _digest(effect.key_hash),
                "created_at": _time(effect.created_at),
            }
            return _encoded("put_credential", members)
        case PutOperator():
            members = {
                "username": _text(effect.username),
                "password_hash": _text(effect.password_hash),
                "role": _one_of(effect.role, _ROLE),
                "created_at": _time(effect.created_at),
            }
            return _encoded("put_operator", members)
        case PutBundle():
            return _encoded("put_bundle", _put_bundle(effect))
        case ActivateBundle():
            members = {
                "digest": _bundle(effect.digest),
                "expect_active": None if effect.expect_active is None else _bundle(effect.expect_active),
                "activated_at": _time(effect.activated_at),
                "activated_by": _text(effect.activated_by),
                "reason": _text(effect.reason),
                "rolled_back_from": None
                if effect.rolled_back_from is None
                else _integer(effect.rolled_back_from, _BIGINT),
            }
            return _encoded("activate_bundle", members)
        case SetShadow():
            members = {
                "digest": None if effect.digest is None else _bundle(effect.digest),
                "started_at": _time(effect.started_at),
                "started_by": _text(effect.started_by),
            }
            return _encoded("set_shadow", members)
        case PutNotice():
            return _encoded("put_notice", _notice(effect.notice, None))
        case PutOrder() | ConfirmOrder() | EndOrder():
            return _order(effect)
        case AddOperator() | ChangeRole() | DisableOperator() | EnableOperator() | AddKey() | RotateKey():
            return _credential(effect)
        case CloseReview() | RemindReview() | RemindPile() | ReconcileUse() | SumUpActivation():
            return _review(effect)
        case ApproveIntent() | ReorderIntent() | RequeueIntent():
            return _queue_effect(effect)


def _order(effect: OrderEffect) -> EncodedEffect:
    match effect:
        case PutOrder():
            members: _Members = {
                "order_id": _text(effect.order_id),
                "kind": _one_of(effect.kind, _ORDER),
                "scope": _text(effect.scope),
                "document": dict(effect.document),
                "reason": _text(effect.reason),
                "issued_at": _time(effect.issued_at),
                "issued_by": _text(effect.issued_by),
                "people": _integer(effect.people, _MAX_PEOPLE),
                "expires_at": None if effect.expires_at is None else _time(effect.expires_at),
            }
            return _encoded("put_order", members)
        case ConfirmOrder():
            members = {
                "order_id": _text(effect.order_id),
                "confirmed_by": _text(effect.confirmed_by),
                "confirmed_at": _time(effect.confirmed_at),
                "expires_at": None if effect.expires_at is None else _time(effect.expires_at),
            }
            return _encoded("confirm_order", members)
        case EndOrder():
            members = {
                "order_id": _text(effect.order_id),
                "ended_at": _time(effect.ended_at),
                "ended_by": _text(effect.ended_by),
                "note": _text(effect.note),
            }
            return _encoded("end_order", members)


def _credential(effect: CredentialEffect) -> EncodedEffect:
    by: _Members = {"changed_by": _text(effect.by)}
    match effect:
        case AddOperator():
            members: _Members = {
                "username": _text(effect.username),
                "password_hash": _text(effect.password_hash),
                "role": _one_of(effect.role, _ROLE),
                "key_hash": _digest(effect.key_hash),
                "at": _time(effect.at),
            }
            return _encoded("add_operator", by | members)
        case ChangeRole():
            members = {
                "username": _text(effect.username),
                "role": _one_of(effect.role, _ROLE),
                "expect_role": _one_of(effect.expect_role, _ROLE),
            }
            return _encoded("change_role", by | members)
        case DisableOperator():
            return _encoded("disable_operator", by | {"username": _text(effect.username), "at": _time(effect.at)})
        case EnableOperator():
            members = {
                "username": _text(effect.username),
                "key_hash": _digest(effect.key_hash),
                "at": _time(effect.at),
            }
            return _encoded("enable_operator", by | members)
        case AddKey():
            return _encoded("add_key", by | _key(effect, _CALLER))
        case RotateKey():
            until = None if effect.old_until is None else _time(effect.old_until)
            return _encoded("rotate_key", by | _key(effect, _CREDENTIAL) | {"old_until": until})


def _key(effect: AddKey | RotateKey, kinds: frozenset[str]) -> _Members:
    return {
        "kind": _one_of(effect.kind, kinds),
        "subject": _text(effect.subject),
        "key_hash": _digest(effect.key_hash),
        "at": _time(effect.at),
    }


def _review(effect: ReviewEffect) -> EncodedEffect:
    match effect:
        case CloseReview():
            members: _Members = {
                "review_id": _text(effect.review_id),
                "closed_by": _text(effect.closed_by),
                "closed_at": _time(effect.closed_at),
                "verdict": effect.verdict.value,
                "note": _text(effect.note),
            }
            return _encoded("close_review", members)
        case RemindReview():
            members = {
                "review_id": _text(effect.review_id),
                "reminded_at": _time(effect.reminded_at),
                "expected": None if effect.expected is None else _time(effect.expected),
            }
            return _encoded("remind_review", members)
        case RemindPile():
            members = {
                "reminded_at": _time(effect.reminded_at),
                "expected": None if effect.expected is None else _time(effect.expected),
            }
            return _encoded("remind_pile", members)
        case ReconcileUse():
            members = {
                "review_id": _text(effect.review_id),
                "reconciled_at": _time(effect.reconciled_at),
                "would": dict(effect.would),
                "flagged": effect.flagged,
            }
            return _encoded("reconcile_use", members)
        case SumUpActivation():
            members = {
                "activation": _text(effect.activation),
                "summed_at": _time(effect.summed_at),
                "uses": _integer(effect.uses, _BIGINT),
                "document": dict(effect.document),
            }
            return _encoded("sum_up_activation", members)


def close_refusal(stream: str, seq: int) -> EncodedEffect:
    """Return the effect of a void record: the refusal of that record's effect needs no other."""
    return _encoded("close_refusal", {"stream": stream, "seq": seq})


def _open_intent(effect: OpenIntent) -> _Members:
    return _use(effect.use) | {
        "intent_id": _text(effect.intent_id),
        "agent": _text(effect.agent),
        "idempotency_key": _optional_text(effect.idempotency_key),
        "request_digest": _digest(effect.request_digest),
        "submission": base64.b64encode(effect.submission).decode("ascii"),
        "act_hash": _text(effect.act_hash),
        "status": _one_of(effect.status, _STATUS),
        "reason_code": _text(effect.reason_code),
        "envelope": dict(effect.envelope),
        "claims": None if effect.claims is None else dict(effect.claims),
        "jti": _optional_text(effect.jti),
        "created_at": _time(effect.created_at),
        "decided_at": _time(effect.decided_at),
        "queue": None if effect.queue is None else _queue_row(effect.queue),
        "over_jti": _optional_text(effect.over_jti),
        "supersedes": None if effect.supersedes is None else _superseded(effect.supersedes, effect.decided_at),
    }


def _superseded(effect: Superseded, decided_at: datetime) -> _Members:
    """Return the members of the MoveIntent that the database makes of it."""
    return _move_intent(
        MoveIntent(
            intent_id=effect.intent_id,
            expect_version=effect.expect_version,
            status="superseded",
            reason_code="SUPERSEDED",
            envelope=effect.envelope,
            decided_at=decided_at,
        )
    )


def _use(use: Use | None) -> _Members:
    """Return the one member that a use is. Absent where there is none: the database looks for that first of all."""
    if use is None:
        return {}
    members: _Members = {
        "review_id": _text(use.review_id),
        "activation": _optional_text(use.activation),
        "instance": _text(use.instance),
        "category": _text(use.category),
        "environment": _text(use.environment),
        "due_at": _time(use.review_due_at),
    }
    if use.max_uses is not None:
        return {"break_glass": members | {"max_uses": _integer(use.max_uses, _INT)}}
    approvals = [_text(approval) for approval in use.approvals]
    return {"use": members | {"mode": _one_of(use.mode, _UNCAPPED), "approvals": approvals}}


def _queue_effect(effect: QueueEffect) -> EncodedEffect:
    version = _integer(effect.expect_version, _INT - 1)
    match effect:
        case ApproveIntent():
            return _encoded("approve_intent", {**_approval(effect.approval), "expect_version": version})
        case ReorderIntent():
            members: _Members = {
                "intent_id": _text(effect.intent_id),
                "expect_version": version,
                "lane": _integer(effect.lane, _LANES),
                "lane_name": _text(effect.lane_name),
                "rank_at": _time(effect.rank_at),
                "at": _time(effect.at),
            }
            return _encoded("reorder_intent", members)
        case RequeueIntent():
            members = {"intent_id": _text(effect.intent_id), "expect_version": version, "at": _time(effect.at)}
            return _encoded("requeue_intent", members)


def _approval(approval: Approval) -> _Members:
    if approval.note is not None and len(approval.note) > MAX_NOTE_CHARACTERS:
        raise EffectMalformed(f"a note is longer than {MAX_NOTE_CHARACTERS} characters")
    return {
        "approval_id": _text(approval.approval_id),
        "intent_id": _text(approval.intent_id),
        "act_hash": _text(approval.act_hash),
        "bundle": _bundle(approval.bundle),
        "approved_by": _text(approval.approved_by),
        "roles": [_text(role) for role in approval.roles],
        "approved_at": _time(approval.approved_at),
        "note": approval.note,
    }


def _put_bundle(effect: PutBundle) -> _Members:
    if not 0 < len(effect.archive) <= MAX_ARCHIVE_BYTES:
        raise EffectMalformed(f"a packed bundle is empty or larger than {MAX_ARCHIVE_BYTES} bytes")
    return {
        "digest": _bundle(effect.digest),
        "archive": base64.b64encode(effect.archive).decode("ascii"),
        "uploaded_at": _time(effect.uploaded_at),
        "uploaded_by": _text(effect.uploaded_by),
        "signatures": [_text(line) for line in effect.signatures],
    }


def _notice(notice: Notice, origin: str | None) -> _Members:
    return {**notice.document(), "origin": _optional_text(origin)}


def _queue_row(row: QueueRow) -> _Members:
    return {
        "lane": _integer(row.lane, _LANES),
        "rank_at": _time(row.rank_at),
        "enqueued_at": _time(row.enqueued_at),
        "expires_at": _time(row.expires_at),
        "not_before": _time(row.not_before),
        "state": _one_of(row.state, _PARKED),
    }


def _move_intent(effect: MoveIntent) -> _Members:
    if effect.use is not None and effect.use.mode is Mode.BREAK_GLASS:
        raise EffectMalformed("break-glass lets no stored intent pass")
    return _use(effect.use) | {
        "intent_id": _text(effect.intent_id),
        "expect_version": _integer(effect.expect_version, _INT - 1),
        "status": _one_of(effect.status, _STATUS),
        "reason_code": _text(effect.reason_code),
        "envelope": dict(effect.envelope),
        "decided_at": _time(effect.decided_at),
        "claims": None if effect.claims is None else dict(effect.claims),
        "jti": _optional_text(effect.jti),
        "claim_by": None if effect.claim_by is None else _time(effect.claim_by),
        "epoch": None if effect.epoch is None else _integer(effect.epoch, _BIGINT),
        "queue_state": None if effect.queue_state is None else _one_of(effect.queue_state, _QUEUE_STATE),
        "not_before": None if effect.not_before is None else _time(effect.not_before),
    }


def _encoded(op: str, members: _Members) -> EncodedEffect:
    try:
        data = orjson.dumps(members)
    except orjson.JSONEncodeError as error:
        raise EffectMalformed(f"the effect `{op}` is not JSON: {error}") from error
    if b"\\u0000" in data and _NUL.search(data):
        raise EffectMalformed(f"the effect `{op}` holds a NUL character")
    return EncodedEffect(op, data)


def _text(value: str) -> str:
    if not value or len(value.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
        raise EffectMalformed(f"a text is empty or longer than {MAX_TEXT_BYTES} bytes")
    return value


def _optional_text(value: str | None) -> str | None:
    return None if value is None else _text(value)


def _digest(value: str) -> str:
    if _DIGEST.fullmatch(value) is None:
        raise EffectMalformed("a digest is not 64 hexadecimal digits")
    return value


def _bundle(value: str) -> str:
    scheme, _, digits = value.partition(":")
    if scheme != "sha256":
        raise EffectMalformed("a bundle's digest does not begin with `sha256:`")
    return f"sha256:{_digest(digits)}"


def _one_of(value: str, allowed: frozenset[str]) -> str:
    if value not in allowed:
        raise EffectMalformed(f"`{value[:64]}` is not one of {', '.join(sorted(allowed))}")
    return value


def _integer(value: int, below: int) -> int:
    if isinstance(value, bool) or not 0 <= value < below:
        raise EffectMalformed(f"an integer is not within 0 and {below}")
    return value


def _time(value: datetime) -> str:
    if value.utcoffset() is None:
        raise EffectMalformed("a time is not aware")
    return value.isoformat()
