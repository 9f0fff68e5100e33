"""Golden tests: the suites of a bundle, run against its policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from holdfast.intent import Intent
from holdfast.reasons import Decision, ReasonCode

from services.decision.coverage import measure
from services.decision.policy import Classified, Request, Risk
from services.decision.verdict import Allow, Deny, Hold, Unavailable

if TYPE_CHECKING:
    from services.decision.bundle import Bundle
    from services.decision.coverage import Coverage
    from services.decision.policy import Policy
    from services.decision.suite import Case, Expected
    from services.decision.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a policy answered, in the words of the wire contract. `risk` is None when nothing was classified."""

    decision: Decision
    reason_code: ReasonCode
    determining: tuple[str, ...]
    risk: int | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One case. `differences` is empty when the answer is the expected one."""

    path: str
    line: int
    suite: str
    name: str
    answer: Answer
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the answer is the expected one."""
        return not self.differences


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All cases, in file order."""

    results: tuple[Result, ...]
    coverage: Coverage

    @property
    def failed(self) -> tuple[Result, ...]:
        """The cases that got another answer."""
        return tuple(result for result in self.results if not result.passed)

    @property
    def passed(self) -> bool:
        """Whether there is at least one case and none failed: no tests prove nothing."""
        return bool(self.results) and not self.failed


def run_suites(policy: Policy, bundle: Bundle) -> Results:
    """Run every case of the bundle, and measure which rules the cases turn on."""
    results: list[Result] = []
    determined: set[str] = set()
    exercised: set[str] = set()
    everyone = tuple({person for people in bundle.settings.approvals.roles.values() for person in people})
    for path in sorted(bundle.suites):
        suite = bundle.suites[path]
        for index, case in enumerate(suite.cases):
            answer, beneath = _ask(policy, case, everyone)
            determined.update(answer.determining)
            exercised.update(beneath)
            results.append(
                Result(
                    path=path,
                    line=bundle.trees[path].at("cases", index)[0],
                    suite=suite.suite,
                    name=case.name,
                    answer=answer,
                    differences=_differences(case.expect, answer),
                )
            )
    coverage = measure(policy, bundle, determined=determined, exercised=exercised)
    return Results(results=tuple(results), coverage=coverage)


def _ask(policy: Policy, case: Case, everyone: tuple[str, ...]) -> tuple[Answer, tuple[str, ...]]:
    """Return the answer, and what had a part in it unnamed: the holds that were lifted, the permits beneath one."""
    intent = Intent.from_json(dict(case.intent))
    classified = policy.classify(intent)
    if isinstance(classified, Deny):
        return _answer(classified, None), ()
    risk = policy.assess(intent, classified, agent=case.agent, now=case.at())
    verdict = policy.evaluate(_request(case, intent, classified, risk, case.approvals))
    beneath: tuple[str, ...] = ()
    if case.approvals:
        beneath += policy.evaluate(_request(case, intent, classified, risk, ())).determining
    if isinstance(verdict, Hold):
        beneath += policy.evaluate(_request(case, intent, classified, risk, everyone)).determining
    return _answer(verdict, risk), beneath


def _request(case: Case, intent: Intent, classified: Classified, risk: Risk, approvals: tuple[str, ...]) -> Request:
    return Request(
        agent=case.agent, intent=intent, classified=classified, risk=risk, now=case.at(), approvals=approvals
    )


def _answer(verdict: Verdict, risk: Risk | None) -> Answer:
    decision, code, detail = _outcome(verdict)
    return Answer(
        decision=decision,
        reason_code=code,
        determining=verdict.determining,
        risk=None if risk is None else risk.score,
        detail=detail,
    )


def _outcome(verdict: Verdict) -> tuple[Decision, ReasonCode, str]:
    match verdict:
        case Allow():
            return Decision.ALLOW, ReasonCode.ALLOWED, ""
        case Deny() | Unavailable():
            return Decision.DENY, verdict.reason_code, verdict.detail
        case Hold():
            return Decision.HOLD, ReasonCode.APPROVAL_REQUIRED, verdict.detail
        case _:
            assert_never(verdict)


def _differences(expected: Expected, answer: Answer) -> tuple[str, ...]:
    found: list[str] = []
    if expected.decision is not None and expected.decision != answer.decision:
        found.append(f"decision: expected {expected.decision}, got {answer.decision} ({answer.detail})")
    if expected.reason_code is not None and expected.reason_code != answer.reason_code:
        found.append(f"reason_code: expected {expected.reason_code}, got {answer.reason_code}")
    if expected.determining is not None and set(expected.determining) != set(answer.determining):
        found.append(f"determining: expected {_listed(expected.determining)}, got {_listed(answer.determining)}")
    if (bounds := expected.risk) is not None and (
        answer.risk is None or not bounds.at_least <= answer.risk <= bounds.at_most
    ):
        found.append(f"risk: expected {bounds.at_least} to {bounds.at_most}, got {answer.risk}")
    return tuple(found)


def _listed(ids: tuple[str, ...]) -> str:
    return ", ".join(sorted(ids)) or "none"
