"""Which rules of a bundle its tests turn on: the one notion behind `policy test` and lint's warning.

A rule counts as determined when some case's answer names it, and as exercised when it had a part in an answer that does
not name it: a hold that approvals lifted, a permit beneath a hold. One that only would have matched, had another not
denied before it, is not covered: without it every case would be answered alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from services.decision.manifest_rules import rule_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from services.decision.bundle import Bundle
    from services.decision.policy import Policy


class Source(StrEnum):
    """Where a rule is written."""

    RULE = "rule"
    MANIFEST = "manifest"


class Use(StrEnum):
    """What the tests do with a rule."""

    DETERMINED = "determined"
    EXERCISED = "exercised"
    UNCOVERED = "uncovered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverable:
    """A Cedar rule, or what an entry or bound of a manifest compiled to, with its place in the bundle."""

    id: str
    source: Source
    path: str
    line: int
    use: Use


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Every rule of a bundle: those of rules/*.cedar in file order, then those of the manifests by agent."""

    rules: tuple[Coverable, ...]

    @property
    def uncovered(self) -> tuple[Coverable, ...]:
        """The rules that no case turned on."""
        return tuple(rule for rule in self.rules if rule.use is Use.UNCOVERED)

    @property
    def covered(self) -> int:
        """How many rules some case turned on."""
        return len(self.rules) - len(self.uncovered)

    @property
    def percent(self) -> int:
        """The share that is covered, rounded down, so that 100 means all; 0 where there is no rule at all."""
        return self.covered * 100 // len(self.rules) if self.rules else 0


def measure(policy: Policy, bundle: Bundle, *, determined: AbstractSet[str], exercised: AbstractSet[str]) -> Coverage:
    """Return the coverage, given the ids of the rules that the cases turned on."""

    def use(name: str) -> Use:
        if name in determined:
            return Use.DETERMINED
        return Use.EXERCISED if name in exercised else Use.UNCOVERED

    return Coverage(
        rules=tuple(
            Coverable(id=name, source=source, path=path, line=line, use=use(name))
            for name, source, path, line in _rules(policy, bundle)
        )
    )


def _rules(policy: Policy, bundle: Bundle) -> Iterator[tuple[str, Source, str, int]]:
    for rule in bundle.rules:
        yield rule.id, Source.RULE, rule.path, rule.line
    for agent in sorted(bundle.manifests):
        for rule in policy.manifest_rules(agent):
            yield rule.id, Source.MANIFEST, rule.path, rule.line
        path, spec = bundle.manifest_paths[agent], bundle.manifests[agent].spec
        for bound, stands in (("environments", spec.environments), ("schedule", spec.schedule)):
            if stands is not None:
                yield rule_id(agent, bound), Source.MANIFEST, path, bundle.trees[path].at("spec", bound)[0]
