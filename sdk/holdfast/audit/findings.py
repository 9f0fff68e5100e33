"""What an auditor finds, and which exit code says it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from holdfast import strict_json
from holdfast.audit.encoding import decode_b64url
from holdfast.audit.record import Receipt
from holdfast.errors import AuditInvalid, MalformedJSON
from holdfast.token import MAX_TOKEN_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Iterable

_RECEIPT: Final = re.compile(r"([A-Za-z0-9_.-]{1,128}):(0|[1-9][0-9]{0,15}):([0-9a-f]{64})")


class Kind(StrEnum):
    """The kinds of findings. A log can be wrong, lack something, end too early, or rest on nothing but itself."""

    INVALID = "INVALID"
    MISSING = "MISSING"
    GAP = "GAP"
    UNANCHORED = "UNANCHORED"


#: Exit codes, worst first; 2 is a usage error.
EXIT_CODES: Final = {Kind.INVALID: 1, Kind.MISSING: 3, Kind.GAP: 4, Kind.UNANCHORED: 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong (`fatal`) or worth a look. `stream` and `seq` name the record, where there is one."""

    kind: Kind
    stream: str | None
    seq: int | None
    why: str
    fatal: bool = True

    def __str__(self) -> str:
        place = self.stream or "the log"
        if self.seq is not None:
            place += f":{self.seq}"
        return f"{self.kind.value} {place}: {self.why}"


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0 when nothing is fatal, or the code of the worst kind."""
    fatal = {finding.kind for finding in findings if finding.fatal}
    return next((code for kind, code in EXIT_CODES.items() if kind in fatal), 0)


def parse_receipt(text: str) -> Receipt:
    """Read `stream:seq:hash`, or the `rcp` of a token. Raises: AuditInvalid.

    The token's signature is not checked: a receipt is worth what its holder's safekeeping is worth.
    """
    if text.count(".") == 2 and ":" not in text and len(text) <= MAX_TOKEN_CHARACTERS:  # noqa: PLR2004 - a JWS
        text = _receipt_of_token(text)
    match = _RECEIPT.fullmatch(text)
    if match is None:
        raise AuditInvalid("a receipt is `stream:seq:hash`, or a token that carries one")
    return Receipt(stream=match[1], seq=int(match[2]), hash=match[3])


def _receipt_of_token(token: str) -> str:
    try:
        payload = strict_json.loads(decode_b64url(token.split(".")[1]))
    except MalformedJSON as error:
        raise AuditInvalid("the token cannot be read") from error
    receipt = payload.get("rcp") if isinstance(payload, dict) else None
    if not isinstance(receipt, str):
        raise AuditInvalid("the token carries no receipt")
    return receipt
