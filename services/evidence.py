"""What an answer must prove before anything rests on it. Each returns, or raises WrongAnswer."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from holdfast.audit.record import leaf_hash

from services.boundary import WrongAnswer
from services.decision.policy import Classified
from services.decision.verdict import Deny

if TYPE_CHECKING:
    from services.ports import Pending, Settled


def is_a_classification(answer: Classified | Deny) -> None:
    """Refuse what is neither a classification nor the denial of one."""
    if not isinstance(answer, (Classified, Deny)):
        raise WrongAnswer("the answer is not a classification")


def stands(pending: Pending, settled: Settled) -> None:
    """Refuse a settlement that is not of these very bytes."""
    if settled.receipt != pending.receipt or not hmac.compare_digest(leaf_hash(pending.body), settled.receipt.hash):
        raise WrongAnswer("the receipt is not of this record")


def durable(pending: Pending, settled: Settled) -> None:
    """Refuse what a permission may not rest on."""
    stands(pending, settled)
    if settled.in_journal:
        raise WrongAnswer("a permission rests on a commit, not on the journal")
