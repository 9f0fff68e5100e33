"""rules/*.cedar: text in, one `Rule` per statement out, with the scope that slicing needs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import cedarpy

from services.decision import finding
from services.decision.cedar import CONTEXT
from services.decision.finding import BundleInvalid
from services.decision.hint import meant
from services.decision.strict_yaml import decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from services.decision.finding import Finding

MAX_RULES: Final = 5_000
MAX_STATEMENT: Final = 64_000
#: Cedar's parser recurses without a bound and takes the process down with it: 200 nested brackets end a thread with
#: 1 MiB of stack, 1,000 one with 8 MiB. Measured with cedarpy 4.12.2.
MAX_NESTING: Final = 32
MAX_OPERATORS: Final = 400
RESERVED_PREFIX: Final = "agent:"
ANNOTATIONS: Final = frozenset({"id", "reason", "requires_approval"})

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_APPROVAL = re.compile(r"(?P<role>[A-Za-z0-9][A-Za-z0-9._-]{0,127})(?::(?P<count>[1-9][0-9]?))?")
# A string, a comment, or the end of a statement; nothing else can hold a semicolon.
# A comment ends where Cedar's does, at a line feed or a carriage return: what stands behind it is a rule.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n\r]*|;', re.DOTALL)
# What makes an expression deeper: a bracket by one level, an operator or an access by one link of a chain.
_DEEPER = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n\r]*|[(\[{]|[)\]}]|&&|\|\||[-+*!.]|\bif\b', re.DOTALL)
_BLANK = re.compile(r"(?:\s|//[^\n\r]*)*")
_FOR_ACTION = re.compile(r' for Action::"(?:[^"\\]|\\.)*"')
_UNKNOWN_ACTION = re.compile(r'unrecognized action `Action::"(?P<name>[^"]*)"`')
_QUOTED = re.compile(r"`(?P<words>[^`]+)`")
_LINE_END = re.compile(r"\r\n?|\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What lifts a holding forbid."""

    role: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One Cedar statement. `actions` and `principals` are the entities of its scope; None is any.

    `context` names the attributes of the context that it can read.
    """

    id: str
    text: str
    forbids: bool
    reason: str | None = None
    approval: Approval | None = None
    actions: frozenset[str] | None = None
    principals: frozenset[tuple[str, str]] | None = None
    context: frozenset[str] = CONTEXT
    path: str = ""
    line: int = 1
    attributes: frozenset[str] = frozenset()
    annotations: frozenset[str] = frozenset()

    def may_match(self, actions: frozenset[str], principals: frozenset[tuple[str, str]]) -> bool:
        """Tell whether the scope can match an action (with its groups) and an agent (with its groups).

        False only when Cedar's own scope check is certainly false: such a rule neither matches nor errs.
        """
        return (self.actions is None or not self.actions.isdisjoint(actions)) and (
            self.principals is None or not self.principals.isdisjoint(principals)
        )


def read_rules(path: str, data: bytes) -> tuple[Rule, ...]:
    """Return the statements of one file. Raises: BundleInvalid, with the line of each statement."""
    rules: list[Rule] = []
    findings: list[Finding] = []
    whole = decode(path, data)
    for line, text in islice(_statements(whole), MAX_RULES + 1):
        try:
            rules.append(_rule(path, line, text))
        except ValueError as failure:
            findings.append(finding.error(path, str(failure), line=line))
        except RecursionError:
            findings.append(finding.error(path, "the rule is nested too deeply", line=line))
    if not findings and len(rules) <= MAX_RULES and _counted(whole) != len(rules):
        # INVARIANT: every rule that Cedar reads in the file is one that was read here.
        findings.append(finding.error(path, "Cedar reads other rules in the file than stand in it one by one"))
    if findings:
        raise BundleInvalid(findings)
    return tuple(rules)


def _counted(text: str) -> int:
    """Return how many rules Cedar reads in the text; -1 if it does not read it."""
    try:
        document: dict[str, Any] = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError:
        return -1
    return len(document["staticPolicies"]) + len(document["templates"])


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield each statement with the line on which it starts; comments before it are left out."""
    start = 0
    for token in _TOKEN.finditer(text):
        if token.group() == ";":
            yield _at(text, start, token.end())
            start = token.end()
    rest = _at(text, start, len(text))
    if rest[1]:
        yield rest


def _at(text: str, start: int, end: int) -> tuple[int, str]:
    blank = _BLANK.match(text, start, end)
    first = blank.end() if blank else start
    return len(_LINE_END.findall(text, 0, first)) + 1, text[first:end]


def _refuse_depth(text: str) -> None:
    """Bound the depth of an expression before Cedar's parser recurses into it. Raises: ValueError."""
    depth = operators = 0
    for token in _DEEPER.finditer(text):
        mark = token.group()
        if mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
        if mark not in ")]}({" and not mark.startswith(('"', "//")):
            operators += 1
        if depth > MAX_NESTING:
            raise ValueError(f"the rule is nested deeper than {MAX_NESTING} brackets")
    if operators > MAX_OPERATORS:
        raise ValueError(f"the rule has more than {MAX_OPERATORS} operators: make several rules of it")


def _rule(path: str, line: int, text: str) -> Rule:
    if len(text) > MAX_STATEMENT:
        raise ValueError(f"the rule is longer than {MAX_STATEMENT} characters")
    _refuse_depth(text)
    try:
        document: dict[str, Any] = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as failure:
        raise ValueError(f"not Cedar: {str(failure).splitlines()[0][:300]}") from failure
    if document["templates"]:
        raise ValueError("templates (`?principal`, `?resource`) are not supported")
    policies = list(document["staticPolicies"].values())
    if len(policies) != 1:
        raise ValueError("not Cedar: the statement holds no rule")
    policy = policies[0]
    annotations: dict[str, str | None] = policy.get("annotations", {})
    rule_id = annotations.get("id") or ""
    if _ID.fullmatch(rule_id) is None:
        raise ValueError("the rule needs an `@id`: letters, digits, `.`, `_`, `:` and `-`")
    if rule_id.startswith(RESERVED_PREFIX):
        raise ValueError(f"the id `{rule_id}` starts with `{RESERVED_PREFIX}`, which is kept for manifests")
    forbids = policy["effect"] == "forbid"
    return Rule(
        id=rule_id,
        text=text,
        forbids=forbids,
        reason=annotations.get("reason") or None,
        approval=_approval(annotations, forbids=forbids),
        actions=_scope_actions(policy["action"]),
        principals=_scope_principals(policy["principal"]),
        context=_context_read(policy.get("conditions", [])),
        path=path,
        line=line,
        attributes=frozenset(_attributes(policy.get("conditions", []))),
        annotations=frozenset(annotations),
    )


def _approval(annotations: dict[str, str | None], *, forbids: bool) -> Approval | None:
    if "requires_approval" not in annotations:
        return None
    if not forbids:
        raise ValueError("`@requires_approval` stands on a forbid only")
    match = _APPROVAL.fullmatch(annotations["requires_approval"] or "")
    if match is None:
        raise ValueError('`@requires_approval` takes "role" or "role:2"')
    return Approval(role=match["role"], count=int(match["count"] or 1))


def _scope_actions(scope: dict[str, Any]) -> frozenset[str] | None:
    if scope["op"] == "All":
        return None
    entities = scope.get("entities") if "entities" in scope else [scope["entity"]]
    return frozenset(entity["id"] for entity in entities or ())


def _scope_principals(scope: dict[str, Any]) -> frozenset[tuple[str, str]] | None:
    entity = scope.get("entity") or scope.get("in", {}).get("entity")
    return frozenset({(entity["type"], entity["id"])}) if entity else None


def _context_read(conditions: object) -> frozenset[str]:
    """Return which attributes of the context a rule can read: all of them where it uses the context as a whole."""
    read = frozenset(_reads(conditions))
    return CONTEXT if None in read else frozenset(name for name in read if name is not None)


def _reads(node: object) -> Iterator[str | None]:
    if isinstance(node, dict):
        if node == {"Var": "context"}:
            yield None
            return
        for key, value in node.items():
            if key in (".", "has") and isinstance(value, dict) and value.get("left") == {"Var": "context"}:
                yield value["attr"]
            else:
                yield from _reads(value)
    elif isinstance(node, list):
        for value in node:
            yield from _reads(value)


def _attributes(node: object) -> Iterator[str]:
    """Yield every attribute that the conditions read."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "attr" and isinstance(value, str):
                yield value
            yield from _attributes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _attributes(value)


def validate(rules: Sequence[Rule], schema_json: str, schema_actions: Iterable[str]) -> Iterable[Finding]:
    """Return what Cedar's strict validator says against the generated schema of these actions, with places."""
    if not rules:
        return []
    result = cedarpy.validate_policies("\n".join(rule.text for rule in rules), schema_json)
    # One fault is said of every action that the rule is about: it is told once.
    faults: dict[tuple[int, str], list[str]] = {}
    for problem in result.errors:
        number = problem.policy_id.removeprefix("policy")
        index = int(number) if number.isdigit() and int(number) < len(rules) else 0
        said = " ".join(problem.error.split()).replace(f"for policy `{problem.policy_id}`, ", "")
        actions = faults.setdefault((index, _FOR_ACTION.sub("", said)), [])
        if said not in actions:
            actions.append(said)
    known = frozenset(schema_actions)
    found = [_invalid(rules[index], said, known) for (index, _), said in faults.items()]
    if not result.validation_passed and not found:
        found = [finding.error(rules[0].path, "Cedar's validator refused the rules without a reason")]
    return found


def _invalid(rule: Rule, said: Sequence[str], known: frozenset[str]) -> Finding:
    first, more = said[0], f" (and for {len(said) - 1} more actions)" if len(said) > 1 else ""
    action = _UNKNOWN_ACTION.search(first)
    hint = meant(action["name"], known) if action else ""
    line, column = _place(rule, first)
    message = f"the rule `{rule.id}` fails Cedar's strict validation: {first}{more}{hint}"
    return finding.error(rule.path, message, line=line, column=column)


def _place(rule: Rule, said: str) -> tuple[int, int]:
    """Return where the words stand that the message quotes first; where the rule begins if that is not plain."""
    quoted = _QUOTED.search(said)
    words = re.escape(quoted["words"]) if quoted else "(?!)"
    places = [match.start() for match in re.finditer(rf"(?<!\w){words}(?!\w)", rule.text)]
    if len(places) != 1:
        return rule.line, 1
    lines = _LINE_END.split(rule.text[: places[0]])
    return rule.line + len(lines) - 1, len(lines[-1]) + 1
