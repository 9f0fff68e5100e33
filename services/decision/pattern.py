"""Names with `*`: what they match, which is more specific, and whether two can match a common name.

`*` matches any run of characters, dots and slashes included. Source: the bundle format, docs/policy.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

T = TypeVar("T")


def is_glob(pattern: str) -> bool:
    """Tell a pattern from an exact name."""
    return "*" in pattern


def matches(pattern: str, name: str) -> bool:
    """Tell whether `pattern` matches the whole of `name`. Takes time linear in the name for any number of stars."""
    head, *rest = pattern.split("*")
    if not rest:
        return pattern == name
    *middle, tail = rest
    if len(name) < len(head) + len(tail) or not name.startswith(head) or not name.endswith(tail):
        return False
    position, end = len(head), len(name) - len(tail)
    for literal in middle:
        # The leftmost place is always as good as any other, so nothing is ever tried twice.
        found = name.find(literal, position, end)
        if found < 0:
            return False
        position = found + len(literal)
    return True


def specificity(pattern: str) -> tuple[bool, int, int]:
    """Return what orders patterns, most specific last: exact, longest literal prefix, longest literal text."""
    return not is_glob(pattern), len(pattern.split("*", 1)[0]), len(pattern.replace("*", ""))


def overlap(first: str, second: str) -> bool:
    """Tell whether some name is matched by both patterns."""
    # row[j]: the part of `first` read so far and second[:j] match a common text.
    row = [True] + [False] * len(second)
    for j, character in enumerate(second, 1):
        row[j] = row[j - 1] and character == "*"
    for left in first:
        above, row = row, [row[0] and left == "*"] + [False] * len(second)
        for j, right in enumerate(second, 1):
            if left == "*" or right == "*":
                row[j] = above[j] or row[j - 1]
            else:
                row[j] = above[j - 1] and left == right
    return row[-1]


def ties(patterns: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each two globs of equal specificity that can match a common name."""
    groups: dict[tuple[bool, str, int], list[str]] = {}
    for pattern in patterns:
        if is_glob(pattern):
            # Two prefixes of one length overlap only when they are the same text.
            _, _, literal = specificity(pattern)
            groups.setdefault((False, pattern.split("*", 1)[0], literal), []).append(pattern)
    for group in groups.values():
        for index, second in enumerate(group):
            yield from ((first, second) for first in group[:index] if overlap(first, second))


class MostSpecific(Generic[T]):
    """Values by pattern, looked up by name; the most specific pattern wins."""

    def __init__(self, values: Mapping[str, T]) -> None:
        self._exact = {pattern: value for pattern, value in values.items() if not is_glob(pattern)}
        by_prefix: dict[str, list[tuple[str, T]]] = {}
        for pattern, value in values.items():
            if is_glob(pattern):
                by_prefix.setdefault(pattern.split("*", 1)[0], []).append((pattern, value))
        for group in by_prefix.values():
            group.sort(key=lambda entry: (specificity(entry[0]), entry[0]), reverse=True)
        self._by_prefix = by_prefix
        self._lengths = sorted({len(prefix) for prefix in by_prefix}, reverse=True)

    def find(self, name: str) -> tuple[str, T] | None:
        """Return the winning pattern and its value."""
        if name in self._exact:
            return name, self._exact[name]
        for length in self._lengths:
            for pattern, value in self._by_prefix.get(name[:length], ()):
                if matches(pattern, name):
                    return pattern, value
        return None
