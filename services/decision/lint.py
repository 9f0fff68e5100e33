"""Everything there is to say about a bundle before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.decision import finding
from services.decision.bundle import read_bundle
from services.decision.coverage import Source
from services.decision.finding import BundleInvalid
from services.decision.golden import run_suites
from services.decision.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from services.decision.bundle import Bundle
    from services.decision.finding import Finding


def lint(files: Mapping[str, bytes]) -> tuple[Finding, ...]:
    """Return every finding, in file order; the bundle may be used when none is an error."""
    try:
        bundle = read_bundle(files)
        policy = Policy.compile(bundle)
    except BundleInvalid as refused:
        return refused.findings
    return tuple(sorted((*policy.warnings, *_uncovered(policy, bundle))))


def _uncovered(policy: Policy, bundle: Bundle) -> Iterator[Finding]:
    """Yield the rules that no test turns on. Of the manifests' entries `policy test` tells: they come by the fleet."""
    for rule in run_suites(policy, bundle).coverage.uncovered:
        if rule.source is Source.RULE:
            yield finding.warning(rule.path, f"no test covers the rule `{rule.id}`", line=rule.line)
