"""Conditions over untyped arguments, as typed parameters and Cedar.

The source compares whatever the call holds: a number, a text, a list. Here every argument that a condition reads gets
one type, so that no condition is slipped by sending another type. Source: Intercept POLICY.md, docs/importing.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from console.policy_import import regex
from services.decision import cedar
from services.decision.catalog import CEDAR_ESCAPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from holdfast.strict_json import JSON

#: Beyond this, a JSON number is not exact.
MAX_EXACT: Final = 2**53 - 1
MAX_DEPTH: Final = 8

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED: Final = frozenset({"true", "false", "if", "then", "else", "in", "is", "like", "has", "__cedar"})
_PARAMETER = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


class Operator(StrEnum):
    """What a condition compares with."""

    EQ = "eq"
    NEQ = "neq"
    IN = "in"
    NOT_IN = "not_in"
    LT = "lt"
    LTE = "lte"
    GT = "gt"
    GTE = "gte"
    REGEX = "regex"
    CONTAINS = "contains"
    EXISTS = "exists"


NUMERIC: Final = frozenset({Operator.LT, Operator.LTE, Operator.GT, Operator.GTE})
LISTS: Final = frozenset({Operator.IN, Operator.NOT_IN})


class Kind(StrEnum):
    """The type that a condition gives to its argument."""

    TEXT = "text"
    WHOLE = "a whole number"
    TRUTH = "true or false"
    LIST = "a list of whole numbers"
    RECORD = "an object"


_TYPES: Final[dict[Kind, dict[str, JSON]]] = {
    Kind.TEXT: {"type": "string"},
    Kind.WHOLE: {"type": "integer"},
    Kind.TRUTH: {"type": "boolean"},
    Kind.LIST: {"type": "array", "items": {"type": "integer"}},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition on an argument; `path` is without the leading `args`.

    `needs` tells whether a call without the argument fails.
    """

    path: tuple[str, ...]
    op: Operator
    value: JSON
    line: int
    needs: bool = True


@dataclass(frozen=True, slots=True)
class Untranslatable:
    """A condition without an exact form here, and why."""

    why: str


@dataclass(slots=True)
class _Field:
    kinds: set[Kind] = field(default_factory=set)
    required: bool = False
    spoiled: bool = False
    read: bool = False
    line: int = 1
    fields: dict[str, _Field] = field(default_factory=dict)

    def kind(self) -> Kind | None:
        """Return the one type, or None when the conditions give it several."""
        kinds = self.kinds | ({Kind.RECORD} if self.fields else set())
        if self.spoiled or len(kinds) > 1:
            return None
        return next(iter(kinds), Kind.TEXT)

    def declared(self) -> dict[str, JSON] | None:
        """Return the declaration; None for a field that nothing can be said about."""
        kind = self.kind()
        if kind is None:
            return None
        if kind is not Kind.RECORD:
            declaration: dict[str, JSON] = dict(_TYPES[kind])
        else:
            fields = {name: part.declared() for name, part in self.fields.items()}
            declaration = {"type": "object", "fields": {name: said for name, said in fields.items() if said}}
        return {**declaration, "required": True} if self.required else declaration


class Arguments:
    """The arguments of one tool as its conditions type them."""

    def __init__(self, conditions: Iterable[Condition]) -> None:
        self._root = _Field()
        self._conditions = tuple(conditions)
        for condition in self._conditions:
            self._learn(condition)
        for condition in self._conditions:
            if self.untranslatable(condition) is None:
                self._require(condition)

    def _learn(self, condition: Condition) -> None:
        kind = kind_of(condition)
        if isinstance(kind, Untranslatable) or len(condition.path) > MAX_DEPTH:
            return
        place = self._root
        for name in condition.path:
            place = place.fields.setdefault(name, _Field(line=condition.line))
            place.spoiled = place.spoiled or not is_parameter(name)
        place.read = True
        if kind is not None:
            place.kinds.add(kind)

    def _require(self, condition: Condition) -> None:
        if not condition.needs or (condition.op is Operator.EXISTS and condition.value is not True):
            return
        place = self._root
        for name in condition.path:
            place = place.fields[name]
            place.required = True

    def untranslatable(self, condition: Condition) -> str | None:
        """Return why a condition has no exact form; None when it has one."""
        if len(condition.path) > MAX_DEPTH:
            return f"it reads deeper than {MAX_DEPTH} levels"
        kind = kind_of(condition)
        if isinstance(kind, Untranslatable):
            return kind.why
        place = self._root
        for name in condition.path:
            place = place.fields[name]
            if place.spoiled:
                return f"`{name[:60]}` cannot be the name of a parameter"
            if place.kind() is None:
                return f"the conditions give `{name[:60]}` several types"
        return None

    def parameters(self) -> dict[str, JSON]:
        """Return the catalogue's declaration."""
        declared = {name: part.declared() for name, part in self._root.fields.items()}
        return {name: said for name, said in declared.items() if said}

    def typed(self) -> Iterator[tuple[str, int, Kind, bool]]:
        """Yield path, line, type and whether it is required, of every argument that a condition reads."""
        yield from _typed(self._root, ())

    def expression(self, condition: Condition) -> str | bool | Untranslatable:
        """Return the Cedar under which a condition holds for a call that fits the declaration; a bool if always so."""
        if (why := self.untranslatable(condition)) is not None:
            return Untranslatable(why)
        if condition.op is Operator.EXISTS:
            return self._existence(condition)
        text = _comparison(condition, access(condition.path))
        return text if isinstance(text, bool) else self._guarded(condition, text)

    def _existence(self, condition: Condition) -> str | bool:
        present = self._presence(condition.path)
        if not present:
            return condition.value is True
        text = " && ".join(present)
        return text if condition.value is True else f"!({text})"

    def _guarded(self, condition: Condition, text: str) -> str:
        present = self._presence(condition.path)
        return f"({' && '.join([*present, text])})" if present else text

    def _presence(self, path: Sequence[str]) -> list[str]:
        """Return the `has` tests for the optional parts of a path."""
        place, tests = self._root, []
        for index, name in enumerate(path):
            place = place.fields[name]
            if not place.required:
                attribute = name if _is_identifier(name) else cedar.quoted(name)
                tests.append(f"{access(path[:index])} has {attribute}")
        return tests


def _typed(place: _Field, above: tuple[str, ...]) -> Iterator[tuple[str, int, Kind, bool]]:
    for name, part in place.fields.items():
        kind = part.kind()
        if kind is None:
            continue
        if part.read or kind is Kind.RECORD:
            yield ".".join((*above, name)), part.line, kind, part.required
        yield from _typed(part, (*above, name))


def is_parameter(name: str) -> bool:
    """Tell whether the catalogue can declare a parameter of this name."""
    return _PARAMETER.fullmatch(name) is not None and name not in CEDAR_ESCAPES


def access(path: Sequence[str]) -> str:
    """Return the Cedar that reads a parameter."""
    parts = [f".{name}" if _is_identifier(name) else f"[{cedar.quoted(name)}]" for name in path]
    return "context.parameters" + "".join(parts)


def _is_identifier(name: str) -> bool:
    return _IDENTIFIER.fullmatch(name) is not None and name not in _RESERVED


def kind_of(condition: Condition) -> Kind | Untranslatable | None:
    """Return the type that a condition gives to its argument; None if it gives none."""
    op, value = condition.op, condition.value
    if op is Operator.EXISTS or (op in LISTS and value == []):
        return None
    if op is Operator.REGEX:
        if isinstance(value, str) and regex.condition(value, "x") is not None:
            return Kind.TEXT
        return Untranslatable("Cedar has no regular expressions")
    if op is Operator.CONTAINS:
        found = {Kind.WHOLE: Kind.LIST, Kind.TEXT: Kind.TEXT}.get(_kind(value) or Kind.RECORD)
        return found or Untranslatable("Cedar cannot look for such a value")
    return _compared(condition)


def _compared(condition: Condition) -> Kind | Untranslatable:
    value = condition.value
    values = value if condition.op in LISTS and isinstance(value, list) else [value]
    kinds = {_kind(item) for item in values}
    if len(kinds) > 1:
        return Untranslatable("it compares with values of several types")
    kind = next(iter(kinds))
    if condition.op in NUMERIC and kind is not Kind.WHOLE:
        return Untranslatable("it compares the size of what is no exact number")
    return kind if kind is not None else Untranslatable("it compares with a value that Cedar cannot hold")


def _kind(value: JSON) -> Kind | None:
    if isinstance(value, bool):
        return Kind.TRUTH
    if isinstance(value, str):
        return Kind.TEXT
    if isinstance(value, (int, float)) and math.isfinite(value) and abs(value) <= MAX_EXACT:
        return Kind.WHOLE
    return None


def _literal(value: JSON) -> str | None:
    """Return a Cedar literal; None for a fraction, which no whole number equals."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return cedar.quoted(value)
    if isinstance(value, (int, float)) and value == int(value):
        return str(int(value))
    return None


_SIZES: Final[dict[Operator, tuple[str, Callable[[float], int]]]] = {
    Operator.LT: ("<", math.ceil),
    Operator.LTE: ("<=", math.floor),
    Operator.GT: (">", math.floor),
    Operator.GTE: (">=", math.ceil),
}


def _comparison(condition: Condition, text: str) -> str | bool:
    op, value = condition.op, condition.value
    if op in NUMERIC and isinstance(value, (int, float)):
        sign, rounded = _SIZES[op]
        return f"{text} {sign} {rounded(value)}"
    if op is Operator.REGEX and isinstance(value, str):
        found = regex.condition(value, text)
        return found if found is not None else False
    if op is Operator.CONTAINS:
        return _containing(value, text)
    equal = op in (Operator.EQ, Operator.IN)
    values = value if op in LISTS and isinstance(value, list) else [value]
    literals = list(dict.fromkeys(said for said in map(_literal, values) if said is not None))
    if not literals:
        return not equal
    if len(literals) == 1:
        return f"{text} {'==' if equal else '!='} {literals[0]}"
    found = f"[{', '.join(literals)}].contains({text})"
    return found if equal else f"!{found}"


def _containing(value: JSON, text: str) -> str | bool:
    if isinstance(value, str):
        inside = cedar.quoted(value)[1:-1].replace("*", "\\*")
        return f'{text} like "*{inside}*"'
    literal = _literal(value)
    return False if literal is None else f"{text}.contains({literal})"
