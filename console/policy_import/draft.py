"""A bundle in the making: catalogue, manifests, rules, settings, and tests that pin what it answers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from holdfast.errors import InvalidIntent
from holdfast.intent import Intent

from console.policy_import import written
from console.policy_import.source import Imported, Note, NoteKind, UnknownAllowance, visible
from services.decision import cedar, finding
from services.decision.bundle import read_bundle
from services.decision.finding import BundleInvalid
from services.decision.golden import run_suites
from services.decision.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from holdfast.strict_json import JSON

    from services.decision.golden import Result

MAX_REASON: Final = 1_500
MAX_SAMPLES: Final = 3_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ACTION = re.compile(r"[^\s\x00-\x1f\x7f*]{1,128}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._:-]+")
_NOT_ACTIONS: Final = frozenset({"read", "write"})
_GROUPS: Final = ("category:", "impact:", "effect:")


def is_name(text: str) -> bool:
    """Tell whether `text` can name an agent, a role, a category or an executor."""
    return _NAME.fullmatch(text) is not None


def is_action(text: str) -> bool:
    """Tell whether `text` can be an exact action of the catalogue."""
    return _ACTION.fullmatch(text) is not None and text not in _NOT_ACTIONS and not text.startswith(_GROUPS)


def slug(text: str) -> str:
    """Return a name made from `text`; never empty."""
    return _NOT_IN_NAMES.sub("-", text).strip("-._")[:100] or "unnamed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A category as it is written. What the source does not say is taken for the graver."""

    description: str
    impact: str = "high"
    effect: str = "external"
    reversible: bool = False
    taxonomy: str | None = None
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An action as it is written; `parameters` in the catalogue's own form."""

    category: str
    executor: str
    resource: str = "*"
    parameters: Mapping[str, JSON] = field(default_factory=dict)
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A manifest as it is written; `spec` in the manifest's own form."""

    spec: Mapping[str, JSON]
    groups: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A Cedar statement as it is written. None is any; conditions are Cedar."""

    id: str
    forbids: bool
    reason: str = ""
    approval: str | None = None
    principal: str | None = None
    actions: tuple[str, ...] | None = None
    when: str | None = None
    unless: str | None = None
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A question that the bundle's own tests may ask."""

    agent: str
    action: str
    resource: tuple[str, str] = ("any", "example")
    parameters: Mapping[str, JSON] = field(default_factory=dict)
    environment: str | None = None
    model: str | None = None
    now: str | None = None

    def intent(self) -> dict[str, JSON]:
        """Return the wire form."""
        intent: dict[str, JSON] = {
            "action": self.action,
            "resource": {"type": self.resource[0], "id": self.resource[1]},
        }
        if self.parameters:
            intent["parameters"] = dict(self.parameters)
        said: dict[str, JSON] = {"environment": self.environment, "model": self.model}
        context: dict[str, JSON] = {name: value for name, value in said.items() if value is not None}
        if context:
            intent["context"] = context
        return intent


class Draft:
    """Collects the parts of one bundle. `keep` holds the names of omissions that stay allowed."""

    def __init__(self, origin: str, keep: frozenset[str]) -> None:
        self.categories: dict[str, Category] = {}
        self.executors: dict[str, str] = {}
        self.actions: dict[str, Action] = {}
        self.agents: dict[str, Agent] = {}
        self.roles: dict[str, str] = {}
        self.remarks: list[str] = []
        self.environment = "production"
        self.ttl_seconds: int | None = None
        self._origin = origin.rsplit("/", 1)[-1]
        self._keep = keep
        self._rules: dict[str, list[Rule]] = {}
        self._rule_comments: dict[str, list[str]] = {}
        self._ids: set[str] = set()
        self._samples: list[Sample] = []
        self._notes: list[Note] = []

    def keeps(self, name: str) -> bool:
        """Tell whether an omission of this name stays allowed."""
        return name in self._keep

    def omission(self, path: str, line: int, name: str, message: str) -> bool:
        """Note what the source allows by omission; return whether it stays allowed."""
        kept = name in self._keep
        self._notes.append(Note(path=path, line=line, kind=NoteKind.OMISSION, message=message, name=name, kept=kept))
        return kept

    def stricter(self, path: str, line: int, message: str) -> None:
        """Note where the bundle is stricter than the source."""
        self._notes.append(Note(path=path, line=line, kind=NoteKind.STRICTER, message=message))

    def left_out(self, path: str, line: int, message: str) -> None:
        """Note what decides nothing here."""
        self._notes.append(Note(path=path, line=line, kind=NoteKind.LEFT_OUT, message=message))

    def rule_id(self, *parts: str) -> str:
        """Return an id that no other rule has."""
        text = ":".join(_NOT_IN_IDS.sub("-", part).strip("-.:_") or "any" for part in parts)[:100]
        base = text if not text.startswith("agent:") else f"from:{text}"
        number, unique = 1, base
        while unique in self._ids:
            number += 1
            unique = f"{base}-{number}"
        self._ids.add(unique)
        return unique

    def rule(self, file: str, rule: Rule) -> None:
        """Add a rule to `rules/FILE.cedar`."""
        self._rules.setdefault(file, []).append(rule)

    def remark(self, file: str, text: str) -> None:
        """Add a comment at the head of `rules/FILE.cedar`."""
        self._rule_comments.setdefault(file, []).append(text)

    def sample(self, sample: Sample) -> None:
        """Offer a question to the bundle's tests; one that could not be asked is left out."""
        try:
            Intent.from_json(sample.intent())
        except InvalidIntent:
            return
        if len(self._samples) < MAX_SAMPLES:
            self._samples.append(sample)

    def finish(self) -> Imported:
        """Return the bundle. Raises: BundleInvalid, UnknownAllowance.

        1. Every allowance that was asked for exists.
        2. The files are read back by the service's own reader: what it refuses is never handed out.
        3. The tests say what the bundle answers, one question for each different answer.
        """
        names = {note.name for note in self._notes if note.kind is NoteKind.OMISSION}
        if unknown := sorted(self._keep - names):
            known = ", ".join(f"`{name}`" for name in sorted(names)) or "nothing"
            raise UnknownAllowance(f"the source allows nothing by omission as `{unknown[0]}`; it does so as: {known}")
        files = self._files()
        try:
            read_bundle(files)
        except BundleInvalid as refused:
            raise BundleInvalid(
                finding.error(self._origin, f"the import would not pass lint: {found}") for found in refused.findings
            ) from refused
        if self._samples:
            files["tests/imported.yaml"] = self._tests(files)
        return Imported(files=files, notes=tuple(sorted(set(self._notes))))

    def _files(self) -> dict[str, bytes]:
        files = {"catalog.yaml": self._catalog(), "holdfast.yaml": self._settings()}
        for name, agent in sorted(self.agents.items()):
            files[f"agents/{name}.yaml"] = _manifest(name, agent)
        for file in sorted({*self._rules, *self._rule_comments}):
            head = written.comment([self._imported(), *self._rule_comments.get(file, ())], mark="//")
            statements = [statement(rule) for rule in self._rules.get(file, ())]
            files[f"rules/{file}.cedar"] = ("\n\n".join(["\n".join(head), *statements]) + "\n").encode()
        return files

    def _imported(self) -> str:
        return f"Imported from {visible(self._origin)}. Read it, then change it: nothing here is written again."

    def _catalog(self) -> bytes:
        lines = [*written.comment([self._imported(), *self.remarks]), "version: 1", "", "categories:"]
        for name, category in self.categories.items():
            said: dict[str, JSON] = {
                "description": category.description,
                "impact": category.impact,
                "effect": category.effect,
                "reversible": category.reversible,
            }
            if category.taxonomy is not None:
                said["taxonomy"] = category.taxonomy
            lines += written.comment(category.comments, indent=2)
            lines += [f"  {written.scalar(name)}:", *written.members(said, 4)]
        lines += ["", "executors:"]
        lines += [
            f"  {written.scalar(name)}: {written.flow({'description': text})}" for name, text in self.executors.items()
        ]
        lines += ["", "actions:"]
        for name, action in self.actions.items():
            fields: dict[str, JSON] = {
                "category": action.category,
                "executor": action.executor,
                "resource": action.resource,
            }
            lines += written.comment(action.comments, indent=2)
            lines += [f"  {written.scalar(name)}:", *written.members(fields, 4)]
            if action.parameters:
                lines += ["    parameters:", *written.members(action.parameters, 6)]
        return ("\n".join(lines) + "\n").encode()

    def _settings(self) -> bytes:
        lines = [*written.comment([self._imported()]), "version: 1", f"environment: {written.scalar(self.environment)}"]
        lines.append("fail_modes: {low: closed, medium: closed, high: closed, critical: closed}")
        if self.ttl_seconds is not None:
            lines += written.comment(["How long an approval may take: the shortest that the source names."])
            lines.append(f"queue: {{ttl_seconds: {self.ttl_seconds}}}")
        if self.roles:
            lines += written.comment(["Name the people: until then, what needs approval waits and expires."])
            lines += ["approvals:", "  roles:"]
            for role, why in self.roles.items():
                lines += [*written.comment([why], indent=4), f"    {written.scalar(role)}: []"]
        return ("\n".join(lines) + "\n").encode()

    def _tests(self, files: Mapping[str, bytes]) -> bytes:
        cases = [_case(sample, {"decision": "deny"}, str(number)) for number, sample in enumerate(self._samples)]
        asked = {**files, "tests/imported.yaml": _suite(self._imported(), cases)}
        bundle = read_bundle(asked)
        results = run_suites(Policy.compile(bundle), bundle).results
        answered: dict[tuple[object, ...], dict[str, JSON]] = {}
        for sample, result in zip(self._samples, results, strict=True):
            answer = result.answer
            key = (sample.agent, sample.action, answer.decision, answer.reason_code, frozenset(answer.determining))
            answered.setdefault(key, _case(sample, _expected(result), _title(sample, len(answered) + 1)))
        return _suite(self._imported(), list(answered.values()))


def statement(rule: Rule) -> str:
    """Return a rule as Cedar, whatever its texts hold."""
    lines = [*written.comment(rule.comments, mark="//"), f"@id({cedar.quoted(rule.id)})"]
    if rule.reason:
        lines.append(f"@reason({cedar.quoted(rule.reason[:MAX_REASON])})")
    if rule.approval is not None:
        lines.append(f"@requires_approval({cedar.quoted(rule.approval)})")
    effect = "forbid" if rule.forbids else "permit"
    lines.append(f"{effect} ({rule.principal or 'principal'}, {_scope(rule.actions)}, resource)")
    lines += [f"{word} {{ {text} }}" for word, text in (("when", rule.when), ("unless", rule.unless)) if text]
    return "\n".join(lines) + ";"


def _scope(actions: Sequence[str] | None) -> str:
    if actions is None:
        return "action"
    entities = [f"Action::{cedar.quoted(action)}" for action in actions]
    return f"action == {entities[0]}" if len(entities) == 1 else f"action in [{', '.join(entities)}]"


def _manifest(name: str, agent: Agent) -> bytes:
    metadata: dict[str, JSON] = {"name": name}
    if agent.owner:
        metadata["owner"] = agent.owner
    if agent.groups:
        metadata["groups"] = list(agent.groups)
    if agent.labels:
        metadata["labels"] = dict(agent.labels)
    lines = [*written.comment(agent.comments), "apiVersion: holdfast.dev/v1", "kind: Agent"]
    lines += [f"metadata: {written.flow(metadata)}", "spec:"]
    for key, value in agent.spec.items():
        whole = f"  {key}: {written.flow(value)}"
        if isinstance(value, list) and value and (len(whole) > written.WIDTH or isinstance(value[0], dict)):
            lines += [f"  {key}:", *written.entries(value, 4)]
        else:
            lines.append(whole)
    return ("\n".join(lines) + "\n").encode()


def _case(sample: Sample, expect: dict[str, JSON], name: str) -> dict[str, JSON]:
    case: dict[str, JSON] = {"name": name, "agent": sample.agent, "intent": sample.intent()}
    if sample.now is not None:
        case["now"] = sample.now
    case["expect"] = expect
    return case


def _title(sample: Sample, number: int) -> str:
    return f"{visible(sample.action)}, case {number}"


def _expected(result: Result) -> dict[str, JSON]:
    answer = result.answer
    expected: dict[str, JSON] = {"decision": str(answer.decision), "reason_code": str(answer.reason_code)}
    if answer.determining:
        expected["determining"] = list(answer.determining)
    return expected


def _suite(origin: str, cases: Iterable[dict[str, JSON]]) -> bytes:
    lines = [*written.comment([origin, "What the imported bundle answers; a change that is meant changes these too."])]
    lines += ["suite: imported", "cases:"]
    for case in cases:
        first, *rest = written.members(case, 4)
        lines += [f"  - {first.lstrip()}", *rest]
    return ("\n".join(lines) + "\n").encode()
