"""Why a decision is what it is: which rule, which of its conditions, which values; and what came nearest to a permit.

Cedar says which rules matched, not why the others did not. So every rule is taken apart at its top-level `&&`, and each
part is asked as a rule of its own, beside its negation: neither of them holding is an error.
Source: Cedar's JSON policy format, Cedar 4.12.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import cedarpy
from holdfast.reasons import ReasonCode

from services.decision.cedar import CONTEXT
from services.decision.replay import answer_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from holdfast.strict_json import JSON

    from services.decision.evaluation import ActionScope, AgentScope, Question
    from services.decision.policy import Policy, Request
    from services.decision.replay import Answer
    from services.decision.rules import Rule

NEAREST: Final = 5
_ANY: Final = {"op": "All"}
_PERSONAL: Final = "(personal)"


class Holds(StrEnum):
    """What became of one part of a rule."""

    YES = "yes"
    NO = "no"
    ERROR = "error"
    NOT_REACHED = "not_reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One attribute that a part reads. `name` is as in the rule."""

    name: str
    present: bool
    value: JSON

    def to_json(self) -> dict[str, JSON]:
        """Return the wire form."""
        return {"name": self.name, "present": self.present, "value": self.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One top-level part of a rule's conditions. `text` of an `unless` is what must not be so."""

    unless: bool
    text: str
    holds: Holds
    values: tuple[Value, ...]

    def to_json(self) -> dict[str, JSON]:
        """Return the wire form."""
        return {
            "kind": "unless" if self.unless else "when",
            "text": self.text,
            "holds": self.holds.value,
            "values": [value.to_json() for value in self.values],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedRule:
    """One rule and what became of it. `in_scope` is whether agent, action and resource are those it speaks of."""

    rule: Rule
    in_scope: bool
    parts: tuple[Part, ...]

    @property
    def matched(self) -> bool:
        """Whether the rule applies."""
        return self.in_scope and self.failed == 0

    @property
    def failed(self) -> int:
        """How many parts do not hold."""
        return sum(part.holds is not Holds.YES for part in self.parts)

    def to_json(self) -> dict[str, JSON]:
        """Return the wire form."""
        rule = self.rule
        return {
            "id": rule.id,
            "file": rule.path,
            "line": rule.line,
            "effect": "forbid" if rule.forbids else "permit",
            "reason": rule.reason,
            "requires_approval": None if rule.approval is None else f"{rule.approval.role}:{rule.approval.count}",
            "in_scope": self.in_scope,
            "matched": self.matched,
            "parts": [part.to_json() for part in self.parts],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """An answer with the rules that it met. `nearest` are permits, the nearest first, where none matched."""

    answer: Answer
    rules: tuple[ExplainedRule, ...] = ()
    nearest: tuple[ExplainedRule, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        """Return the wire form."""
        answer = self.answer
        return {
            "decision": answer.decision.value,
            "reason_code": answer.reason_code.value,
            "detail": answer.detail,
            "determining": [*answer.determining],
            "rules": [rule.to_json() for rule in self.rules],
            "nearest": [rule.to_json() for rule in self.nearest],
        }


class NotExplained(Exception):
    """Cedar did not take the parts of the rules; the text says why."""


def explain(policy: Policy, request: Request) -> Explanation:
    """Return why the policy answers as it does. Raises: NotExplained."""
    answer = answer_of(policy.evaluate(request))
    scene = policy.scene(request)
    if scene is None or answer.reason_code is ReasonCode.ACTION_NOT_AVAILABLE:
        return Explanation(answer=answer)
    agent, action, question = scene
    personal = frozenset(policy.logged(request.intent, request.classified).personal)
    rules = (*policy.rules, *agent.rules)
    met = [rule for rule in rules if rule.may_match(action.groups, agent.principals)]
    explained = _Probe(agent, action, question, personal).explained(met)
    nearest: tuple[ExplainedRule, ...] = ()
    if answer.reason_code is ReasonCode.NO_MATCHING_POLICY:
        permits = [found for found in explained if not found.rule.forbids]
        beside = [rule for rule in rules if not rule.forbids and _misses_by_one(rule, agent, action)]
        permits.extend(ExplainedRule(rule=rule, in_scope=False, parts=()) for rule in beside)
        permits.sort(key=lambda found: (not found.in_scope, found.failed, found.rule.id))
        nearest = tuple(permits[:NEAREST])
    return Explanation(answer=answer, rules=tuple(sorted(explained, key=_order)), nearest=nearest)


def _order(found: ExplainedRule) -> tuple[bool, bool, int, str]:
    return not found.matched, not found.in_scope, found.failed, found.rule.id


def _misses_by_one(rule: Rule, agent: AgentScope, action: ActionScope) -> bool:
    """Return whether a rule speaks of this action for others, or of this agent by name for another action."""
    actions = rule.actions is None or not rule.actions.isdisjoint(action.groups)
    principals = rule.principals is None or not rule.principals.isdisjoint(agent.principals)
    return actions is not principals


class _Probe:
    """One question, asked of the parts of rules."""

    def __init__(self, agent: AgentScope, action: ActionScope, question: Question, personal: frozenset[str]) -> None:
        self._agent = agent
        self._action = action
        self._question = question
        self._personal = personal
        self._texts: list[str] = []

    def explained(self, rules: Sequence[Rule]) -> list[ExplainedRule]:
        """Return every rule with its parts. Raises: NotExplained."""
        try:
            parsed = [_parsed(rule) for rule in rules]
            asked = [
                (self._add(policy), [self._add_part(body, unless=unless) for body, unless in _parts(policy)])
                for policy in parsed
            ]
            held = self._ask()
        except (ValueError, TypeError, KeyError, RecursionError) as failure:
            raise NotExplained(f"the rules could not be taken apart: {failure}") from failure
        return [
            ExplainedRule(rule=rule, in_scope=scope in held, parts=_judged(parts, held))
            for rule, (scope, parts) in zip(rules, asked, strict=True)
        ]

    def _add(self, policy: Mapping[str, Any], body: object = None) -> str:
        """Take a permit with the scope of `policy`, or with a condition instead, and return its id."""
        name = f"p{len(self._texts)}"
        probe = {
            "effect": "permit",
            **{part: policy[part] if body is None else _ANY for part in ("principal", "action", "resource")},
            "conditions": [] if body is None else [{"kind": "when", "body": body}],
            "annotations": {"id": name},
        }
        document = {"templates": {}, "staticPolicies": {name: probe}, "templateLinks": []}
        self._texts.append(cedarpy.policies_from_json_str(json.dumps(document)))
        return name

    def _add_part(self, body: object, *, unless: bool) -> _Asked:
        yes = self._add({}, body)
        text = self._texts[-1]
        return _Asked(
            unless=unless,
            text=text[text.index("{") + 1 : text.rindex("}")].strip(),
            yes=yes,
            no=self._add({}, {"!": {"arg": body}}),
            values=tuple(self._value(path) for path in dict.fromkeys(_paths(body))),
        )

    def _ask(self) -> frozenset[str]:
        """Return the ids of the probes that hold."""
        question = self._question
        resource = {
            "uid": {"type": "Resource", "id": question.resource_id},
            "attrs": question.resource,
            "parents": [],
        }
        schema = self._action.schema(CONTEXT)
        result = cedarpy.is_authorized(
            {
                "principal": {"type": "Agent", "id": self._agent.name},
                "action": {"type": "Action", "id": self._action.name},
                "resource": {"type": "Resource", "id": question.resource_id},
                "context": json.dumps(dict(question.context)),
            },
            cedarpy.PolicySet.from_str("\n".join(self._texts)),
            cedarpy.Entities.from_json_str(f"[{self._agent.entities},{json.dumps(resource)}]", schema),
            schema,
        )
        ids = result.diagnostics.id_annotations_by_reason
        return frozenset(ids[reason] for reason in result.diagnostics.reasons)

    def _value(self, path: tuple[str, ...]) -> Value:
        name = ".".join(path)
        found: Any = {
            "context": dict(self._question.context),
            "resource": {**self._question.resource, "": self._question.resource_id},
            "principal": {**self._principal(), "": self._agent.name},
            "action": {"": self._action.name},
        }[path[0]]
        for part in path[1:] or ("",):
            if not isinstance(found, dict) or part not in found:
                return Value(name=name, present=False, value=None)
            found = found[part]
        if path == ("context", "parameters"):
            return Value(name=name, present=True, value=sorted(found))
        is_personal = path[:2] == ("context", "parameters") and any(
            ".".join(path[2:end]) in self._personal for end in range(3, len(path) + 1)
        )
        if path == ("principal",):
            found = sorted(name for kind, name in self._agent.principals if kind == "AgentGroup")
            return Value(name=f"groups of {self._agent.name}", present=True, value=found)
        return Value(name=name, present=True, value=_PERSONAL if is_personal else found)

    def _principal(self) -> dict[str, Any]:
        members = json.loads(f"[{self._agent.entities}]")
        attributes: dict[str, Any] = members[0]["attrs"]
        return attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    unless: bool
    text: str
    yes: str
    no: str
    values: tuple[Value, ...]


def _judged(asked: Sequence[_Asked], held: frozenset[str]) -> tuple[Part, ...]:
    """Return what became of each part; what errs behind a part that does not hold was never reached."""
    parts: list[Part] = []
    for one in asked:
        true, false = one.yes in held, one.no in held
        if true is false:
            reached = all(part.holds is Holds.YES for part in parts)
            holds = Holds.ERROR if reached else Holds.NOT_REACHED
        else:
            holds = Holds.YES if true is not one.unless else Holds.NO
        parts.append(Part(unless=one.unless, text=one.text, holds=holds, values=one.values))
    return tuple(parts)


def _parsed(rule: Rule) -> dict[str, Any]:
    document: dict[str, dict[str, Any]] = json.loads(cedarpy.policies_to_json_str(rule.text))
    policy: dict[str, Any] = next(iter(document["staticPolicies"].values()))
    return policy


def _parts(policy: Mapping[str, Any]) -> Iterator[tuple[object, bool]]:
    """Yield each top-level part with whether it must not be so."""
    for condition in policy.get("conditions", []):
        unless = condition["kind"] == "unless"
        for body in _flat(condition["body"], "||" if unless else "&&"):
            yield body, unless


def _flat(body: Any, operator: str) -> Iterator[Any]:
    if isinstance(body, dict) and operator in body:
        yield from _flat(body[operator]["left"], operator)
        yield from _flat(body[operator]["right"], operator)
    else:
        yield body


def _paths(node: Any) -> Iterator[tuple[str, ...]]:
    """Yield every attribute that an expression reads, as the path to it."""
    if isinstance(node, dict):
        if (path := _path(node)) is not None:
            yield path
            return
        for key, value in node.items():
            if key != "Value":
                yield from _paths(value)
    elif isinstance(node, list):
        for value in node:
            yield from _paths(value)


def _path(node: Any) -> tuple[str, ...] | None:
    if not isinstance(node, dict) or len(node) != 1:
        return None
    key, value = next(iter(node.items()))
    if key == "Var":
        return (value,)
    if key in (".", "has"):
        base = _path(value["left"])
        attributes = value["attr"] if isinstance(value["attr"], list) else [value["attr"]]
        return None if base is None else (*base, *attributes)
    return None
