"""Cedar over a slice of the rules: which match, or why that is not known.

Only what cannot match is sliced away, by the action and by the agent, so that the cost depends neither on the number of
agents nor on the number of rules about other actions. INVARIANT: a slice answers as the full set does.
Source: Cedar 4.12; the measurements in docs/policy.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import cedarpy
import orjson

from services.decision import cedar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from services.decision.catalog import CatalogAction, Category
    from services.decision.cedar import CedarJSON
    from services.decision.manifest import Manifest
    from services.decision.rules import Rule

K = TypeVar("K")
V = TypeVar("V")

#: A slice takes about 40 KB: at worst some 500 MB, and ten thousand agents find theirs ready.
MAX_SLICES: Final = 12_288
#: Only what was held asks for its permits alone.
MAX_PERMITS: Final = 2_048
#: Cedar cannot be interrupted, so what it reads is bounded. Whatever fits an HTTP body fits several times.
MAX_QUESTION_BYTES: Final = 1 << 20


class EvaluationFailed(Exception):
    """Cedar reported an error or gave no answer: nothing is decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What Cedar is asked. `resource` holds the attributes of the Resource entity."""

    resource_id: str
    resource: Mapping[str, CedarJSON]
    context: Mapping[str, CedarJSON]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """The rules that matched: permits when allowed, otherwise every matching forbid (none: no permit matched)."""

    allowed: bool
    rules: tuple[Rule, ...]


class ActionScope:
    """One action of the catalogue as rules see it, with the schemas that its requests are checked against.

    The same action under another impact is another scope: `key` tells them apart.
    """

    def __init__(self, name: str, action: CatalogAction, category: Category) -> None:
        self.name = name
        self.key = name, str(category.impact)
        self.groups = frozenset({name, *cedar.action_groups(action.category, category)})
        self._action = action
        self._category = category
        self._schemas: dict[frozenset[str], cedarpy.Schema] = {}

    def schema(self, context: frozenset[str]) -> cedarpy.Schema:
        """Return the schema of this action alone, so that its cost is flat, with these attributes of the context."""
        found = self._schemas.get(context)
        if found is None:
            document = cedar.schema({self.name: self._action}, {self._action.category: self._category}, context=context)
            found = self._schemas[context] = cedarpy.Schema.from_json_str(json.dumps(document))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentScope:
    """One agent as rules see it, with the rules of its manifest. `entities` are its members of Cedar's entity JSON."""

    name: str
    principals: frozenset[tuple[str, str]]
    entities: str
    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, manifest: Manifest, rules: tuple[Rule, ...]) -> AgentScope:
        """Return the scope. Raises: ValueError if the generated rules are not Cedar."""
        cedarpy.PolicySet.from_str("\n".join(rule.text for rule in rules))
        groups = manifest.metadata.groups
        members: list[CedarJSON] = [
            {
                "uid": {"type": "Agent", "id": manifest.name},
                "attrs": {
                    "owner": manifest.metadata.owner,
                    "labels": [f"{key}={value}" for key, value in sorted(manifest.metadata.labels.items())],
                },
                "parents": [{"type": "AgentGroup", "id": group} for group in groups],
            },
        ]
        members.extend({"uid": {"type": "AgentGroup", "id": group}, "attrs": {}, "parents": []} for group in groups)
        return cls(
            name=manifest.name,
            principals=frozenset({("Agent", manifest.name), *(("AgentGroup", group) for group in groups)}),
            entities=json.dumps(members)[1:-1],
            rules=rules,
        )


@dataclass(frozen=True, slots=True)
class _Slice:
    """Rules that can match, and the part of the context that they can read: nothing else is handed to Cedar."""

    policies: cedarpy.PolicySet
    rules: Mapping[str, Rule]
    context: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A slice with what agent and action settle of every question to it. `entities` holds all but the resource."""

    slice: _Slice
    schema: cedarpy.Schema
    entities: cedarpy.Entities
    principal: Mapping[str, str]
    action: Mapping[str, str]


class _Latest(Generic[K, V]):
    """Keeps what was made last, up to a number."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._made: dict[K, V] = {}

    def get(self, key: K, make: Callable[[], V]) -> V:
        found = self._made.get(key)
        if found is None:
            found = make()
            if len(self._made) >= self._kept:
                self._made.pop(next(iter(self._made)), None)
            self._made[key] = found
        return found


class Evaluator:
    """The compiled rules of one bundle."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)
        # Agents that no rule tells apart share a slice of the rules; a manifest is added to it on demand.
        self._shared: _Latest[tuple[tuple[str, str], frozenset[tuple[str, str]]], _Slice] = _Latest(MAX_SLICES)
        self._whole: _Latest[tuple[str, tuple[str, str]], _Ready] = _Latest(MAX_SLICES)
        self._permits: _Latest[tuple[str, tuple[str, str]], _Ready] = _Latest(MAX_PERMITS)
        self._principals = frozenset[tuple[str, str]]().union(*(rule.principals or () for rule in rules))

    def matched(self, agent: AgentScope, action: ActionScope, question: Question) -> Matched:
        """Return what matches. Raises: EvaluationFailed on any error of any rule, whatever the others say."""
        return _ask(lambda: self._ready(agent, action), question)

    def seen(self, agent: AgentScope, action: ActionScope, question: Question) -> Question:
        """Return the question without the part of the context that no rule can read. Raises: EvaluationFailed."""
        try:
            readable = self._ready(agent, action).slice.context
        except ValueError as failure:
            raise EvaluationFailed(f"Cedar refused the rules: {failure}"[:500]) from failure
        return Question(
            resource_id=question.resource_id,
            resource=question.resource,
            context={name: value for name, value in question.context.items() if name in readable},
        )

    def permits(self, agent: AgentScope, action: ActionScope, question: Question) -> Matched:
        """Return which permits match, as if no forbid existed. Raises: EvaluationFailed."""

        def make() -> _Ready:
            candidates = [*self._candidates(agent, action), *_manifest_part(agent, action)]
            return _ready(_compile([rule for rule in candidates if not rule.forbids]), agent, action)

        return _ask(lambda: self._permits.get((agent.name, action.key), make), question)

    def _ready(self, agent: AgentScope, action: ActionScope) -> _Ready:
        def make() -> _Ready:
            return _ready(_added(self._shared_slice(agent, action), _manifest_part(agent, action)), agent, action)

        return self._whole.get((agent.name, action.key), make)

    def _shared_slice(self, agent: AgentScope, action: ActionScope) -> _Slice:
        key = action.key, agent.principals & self._principals
        return self._shared.get(key, lambda: _compile(self._candidates(agent, action)))

    def _candidates(self, agent: AgentScope, action: ActionScope) -> list[Rule]:
        return [rule for rule in self._rules if rule.may_match(action.groups, agent.principals)]


def _manifest_part(agent: AgentScope, action: ActionScope) -> list[Rule]:
    return [rule for rule in agent.rules if rule.may_match(action.groups, agent.principals)]


def _compile(rules: Sequence[Rule]) -> _Slice:
    text = "\n".join(rule.text for rule in rules)
    return _Slice(cedarpy.PolicySet.from_str(text), {rule.id: rule for rule in rules}, _read(rules))


def _added(base: _Slice, rules: Sequence[Rule]) -> _Slice:
    if not rules:
        return base
    text = "\n".join(rule.text for rule in rules)
    known = {**base.rules, **{rule.id: rule for rule in rules}}
    return _Slice(base.policies.with_added_str(text), known, base.context | _read(rules))


def _read(rules: Sequence[Rule]) -> frozenset[str]:
    return frozenset[str]().union(*(rule.context for rule in rules))


def _ready(chosen: _Slice, agent: AgentScope, action: ActionScope) -> _Ready:
    schema = action.schema(chosen.context)
    # A schema passed beside an `Entities` handle is not applied to the entities: the handle is built with it.
    # The schema brings the action and its groups, too.
    entities = cedarpy.Entities.from_json_str(f"[{agent.entities}]", schema)
    principal, of = {"type": "Agent", "id": agent.name}, {"type": "Action", "id": action.name}
    return _Ready(chosen, schema, entities, principal, of)


def _ask(choose: Callable[[], _Ready], question: Question) -> Matched:
    try:
        ready = choose()
        uid = {"type": "Resource", "id": question.resource_id}
        # The schema's own check of one resource would cost as much as the whole evaluation.
        cedar.check_resource(question.resource)
        resource = orjson.dumps([{"uid": uid, "attrs": question.resource, "parents": ()}])
        context = orjson.dumps({name: value for name, value in question.context.items() if name in ready.slice.context})
        if len(context) + len(resource) > MAX_QUESTION_BYTES:
            raise EvaluationFailed("the intent is too large to be evaluated")
        request = {
            "principal": ready.principal,
            "action": ready.action,
            "resource": uid,
            "context": context.decode(),
        }
        entities = ready.entities.with_added_json_str(resource.decode())
        result = cedarpy.is_authorized(request, ready.slice.policies, entities, ready.schema)
        decision, diagnostics = result.decision, result.diagnostics
        # Cedar skips a rule that errs, a forbid too: any error leaves the question open.
        if diagnostics.errors:
            raise EvaluationFailed("; ".join(diagnostics.errors)[:500])
        ids = diagnostics.id_annotations_by_reason
        rules = tuple(ready.slice.rules[ids[reason]] for reason in diagnostics.reasons)
    except (ValueError, TypeError, KeyError) as failure:
        raise EvaluationFailed(f"Cedar refused the request: {failure}"[:500]) from failure
    if decision is cedarpy.Decision.Allow and rules and not any(rule.forbids for rule in rules):
        return Matched(allowed=True, rules=rules)
    if decision is cedarpy.Decision.Deny and all(rule.forbids for rule in rules):
        return Matched(allowed=False, rules=rules)
    raise EvaluationFailed("Cedar gave no decision")
