"""Calls on both sides of every condition, for the tests of an imported bundle."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from console.policy_import.conditions import LISTS, NUMERIC, Condition, Operator, kind_of
from console.policy_import.conditions import Untranslatable as Unsaid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from holdfast.strict_json import JSON

MAX_CALLS: Final = 64
_ABSENT: Final = object()


def calls(conditions: Iterable[Condition]) -> Iterator[Mapping[str, JSON]]:
    """Yield parameters that fulfil and miss the conditions, at most `MAX_CALLS` of them, the empty call last."""
    values: dict[tuple[str, ...], list[object]] = {}
    for condition in conditions:
        if not isinstance(kind_of(condition), Unsaid):
            found = values.setdefault(condition.path, [])
            found.extend(value for value in _around(condition) if value not in found)
    paths = list(values)
    for chosen in itertools.islice(itertools.product(*(values[path] for path in paths)), MAX_CALLS):
        yield _call(dict(zip(paths, chosen, strict=True)))
    if paths:
        yield {}


def _around(condition: Condition) -> Iterator[object]:
    op, value = condition.op, condition.value
    if op is Operator.EXISTS:
        yield from ("example", _ABSENT)
    elif op in NUMERIC and isinstance(value, (int, float)):
        yield from (int(value) + step for step in (0, 1, -1))
    elif op is Operator.REGEX and isinstance(value, str):
        yield from (value.strip("^$().*"), "example")
    elif op is Operator.CONTAINS:
        yield from ((f"a{value}b", "example") if isinstance(value, str) else ([value], []))
    elif op in LISTS and isinstance(value, list):
        yield from (*value[:3], *_other(value[0] if value else "example"))
    else:
        yield from (value, *_other(value))


def _other(value: object) -> Iterator[object]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        yield int(value) + 1
    else:
        yield "another"


def _call(chosen: Mapping[tuple[str, ...], object]) -> dict[str, JSON]:
    call: dict[str, JSON] = {}
    for path, value in chosen.items():
        if value is _ABSENT:
            continue
        place = call
        for name in path[:-1]:
            below = place.setdefault(name, {})
            if not isinstance(below, dict):
                break
            place = below
        else:
            place[path[-1]] = value  # type: ignore[assignment]
    return call
