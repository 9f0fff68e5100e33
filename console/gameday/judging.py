"""Whether an answer in a fault is the one it must be. Pure, and closed: what is not expected has failed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from holdfast.reasons import Mode, Status

from services.decision.catalog import Effect
from services.decision.settings import FailModeName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.strict_json import JSON

    from console.gameday.samples import Sample
    from services.decision.settings import FailModes

_OK = 200


class Verdict(StrEnum):
    """What became of one check."""

    PASS = "pass"  # noqa: S105 - not a secret
    OPEN = "open by configuration"
    SKIPPED = "skipped"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What an intent must be told in a fault, and whether that is in the log.

    `may_open` says that this fault is one that a fail mode may open reads for.
    """

    http_status: int
    reason_codes: frozenset[str]
    statuses: frozenset[str]
    recorded: bool = True
    may_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One answer, judged. `why` is empty when it passed."""

    verdict: Verdict
    why: str = ""


def judge(
    sample: Sample, http_status: int, body: Mapping[str, JSON], expected: Expected, fail_modes: FailModes
) -> Judged:
    """Return what one answer is worth. A token has failed, unless the bundle opened that very way in advance."""
    told = f"{sample.agent} {sample.intent.action}: {http_status} {body.get('reason_code')}"
    if http_status == _OK or body.get("token") is not None:
        opened = (
            expected.may_open
            and body.get("mode") == Mode.FAIL_OPEN
            and sample.effect is Effect.READ
            and fail_modes.of(sample.impact).mode is FailModeName.OPEN
        )
        if opened and body.get("receipt") is not None:
            return Judged(verdict=Verdict.OPEN, why=f"{sample.agent} {sample.intent.action} passes unevaluated")
        return Judged(verdict=Verdict.FAIL, why=f"a token left: {told}, mode {body.get('mode')}")
    if http_status != expected.http_status or body.get("reason_code") not in expected.reason_codes:
        return Judged(verdict=Verdict.FAIL, why=f"told wrongly: {told}")
    if body.get("status") not in expected.statuses:
        return Judged(verdict=Verdict.FAIL, why=f"status `{body.get('status')}`: {told}")
    if (body.get("receipt") is not None) is not expected.recorded:
        return Judged(verdict=Verdict.FAIL, why=f"{'not ' if expected.recorded else ''}recorded: {told}")
    return Judged(verdict=Verdict.PASS)


def waits(body: Mapping[str, JSON]) -> bool:
    """Return whether an intent is undecided, and must be followed to its end."""
    return body.get("status") in {Status.QUEUED, Status.HELD}


def worst(verdicts: list[Verdict]) -> Verdict:
    """Return what several checks come to: what held least. Nothing checked has failed."""
    for verdict in (Verdict.FAIL, Verdict.OPEN, Verdict.SKIPPED):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS if verdicts else Verdict.FAIL
