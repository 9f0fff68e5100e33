"""What is asked in a game day: one intent of each impact that the bundle's own agents may submit. Pure.

Taken from the bundle's tests where one is allowed now, else made from the catalogue; either is asked of the policy
first, so that a boundary is never blamed for a rule's no.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Final

from holdfast.errors import InvalidIntent
from holdfast.intent import RESOURCE_TYPE, Context, Intent, Resource

from services.decision.catalog import (
    ArrayParameter,
    BooleanParameter,
    DecimalParameter,
    Effect,
    Impact,
    IntegerParameter,
    ObjectParameter,
    StringParameter,
)
from services.decision.pattern import matches
from services.decision.policy import Classified, Request
from services.decision.verdict import Allow, Hold

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from holdfast.strict_json import JSON

    from services.decision.bundle import Bundle
    from services.decision.catalog import CatalogAction, Parameter
    from services.decision.manifest import Manifest
    from services.decision.policy import Policy

#: What stands wherever a name may be any.
_NAME: Final = "gameday"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One intent. `held` says that policy will have a human look at it; `limited`, that its agent has limits.

    `origin` says where it comes from.
    """

    agent: str
    intent: Intent
    executor: str
    impact: Impact
    effect: Effect
    held: bool
    limited: bool
    origin: str


def choose(bundle: Bundle, policy: Policy, now: datetime) -> list[Sample]:
    """Return one sample of each impact for which there is one, and one more of an agent with limits.

    Allowed before held, without limits before with, from a test before from the catalogue.
    """
    found = [*_from_tests(bundle, policy, now), *_from_catalogue(bundle, policy, now)]
    chosen = []
    for impact in Impact:
        of_impact = [sample for sample in found if sample.impact is impact]
        if of_impact:
            chosen.append(min(of_impact, key=lambda sample: (sample.held, sample.limited)))
    limited = [sample for sample in found if sample.limited and not sample.held]
    if limited and not any(sample.limited for sample in chosen):
        chosen.append(limited[0])
    return chosen


def _from_tests(bundle: Bundle, policy: Policy, now: datetime) -> Iterator[Sample]:
    for path, suite in sorted(bundle.suites.items()):
        for case in suite.cases:
            if case.approvals:
                continue
            try:
                intent = Intent.from_json(dict(case.intent))
            except InvalidIntent:
                continue  # a case may expect just that
            yield from _sample(bundle, policy, now, case.agent, intent, origin=f"{path}: {case.name}")


def _from_catalogue(bundle: Bundle, policy: Policy, now: datetime) -> Iterator[Sample]:
    for name, action in sorted(bundle.catalog.actions.items()):
        for agent, manifest in sorted(bundle.manifests.items()):
            for resource, environment in product(_resources(action, manifest), (None, *_environments(manifest))):
                intent = Intent(
                    action=name.replace("*", _NAME),
                    resource=resource,
                    parameters={key: _value(kind) for key, kind in action.parameters.items() if kind.required},
                    context=Context(environment=environment),
                )
                yield from _sample(bundle, policy, now, agent, intent, origin="the catalogue")


def _environments(manifest: Manifest) -> tuple[str, ...]:
    return manifest.spec.environments or ()


def _resources(action: CatalogAction, manifest: Manifest) -> Iterator[Resource]:
    """Return a resource of any name, and one of each pattern by which the manifest allows some."""
    yield Resource(type=_NAME if action.resource == "*" else action.resource, id=_NAME)
    for entry in manifest.entries() or ():
        kind, _, name = entry.resource.partition("/")
        if action.resource != "*" and matches(kind, action.resource):
            kind = action.resource
        kind, name = kind.replace("*", _NAME), name.replace("*", _NAME)
        if name and RESOURCE_TYPE.fullmatch(kind):
            yield Resource(type=kind, id=name)


def _sample(
    bundle: Bundle, policy: Policy, now: datetime, agent: str, intent: Intent, *, origin: str
) -> Iterator[Sample]:
    classified = policy.classify(intent)
    if not isinstance(classified, Classified) or classified.proof_of_possession or agent not in bundle.manifests:
        return
    risk = policy.assess(intent, classified, agent=agent, now=now)
    verdict = policy.evaluate(Request(agent=agent, intent=intent, classified=classified, risk=risk, now=now))
    if isinstance(verdict, (Allow, Hold)):
        yield Sample(
            agent=agent,
            intent=replace(intent, queue=True, callback_url=None, expires_in=None),
            executor=classified.executor,
            impact=classified.impact,
            effect=classified.effect,
            held=isinstance(verdict, Hold),
            limited=policy.rate_limit(agent) is not None,
            origin=origin,
        )


def _value(kind: Parameter) -> JSON:
    match kind:
        case StringParameter():
            return kind.enum[0] if kind.enum else _NAME[: kind.max_length]
        case IntegerParameter():
            return kind.enum[0] if kind.enum else _least(kind)
        case BooleanParameter():
            return False
        case DecimalParameter():
            return kind.min or kind.max or "1.0"
        case ArrayParameter():
            return []
        case ObjectParameter():
            return {name: _value(field) for name, field in kind.fields.items() if field.required}


def _least(kind: IntegerParameter) -> int:
    if kind.min is not None:
        return kind.min
    return 1 if kind.max is None else min(1, kind.max)
