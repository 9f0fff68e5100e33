"""YAML as text, with every scalar in a form that has one reading."""

from __future__ import annotations

import re
import textwrap
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from holdfast.strict_json import JSON

WIDTH: Final = 118

Scalar: TypeAlias = "bool | int | float | str | None"

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_.-]+)*")
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_BYTE: Final = 0xFF
_PLANE: Final = 0xFFFF


def scalar(value: Scalar) -> str:
    """Return one scalar."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) is not None and value.lower() not in _WORDS
        return value if plain else '"' + "".join(map(_escaped, value)) + '"'
    # No exponent: its forms mean different things to different readers.
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)


def flow(value: JSON) -> str:
    """Return a value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def members(fields: Mapping[str, JSON], indent: int) -> list[str]:
    """Return the members of a mapping, each on a line unless it is too long or holds mappings."""
    lines: list[str] = []
    for key, value in fields.items():
        head = f"{' ' * indent}{scalar(key)}:"
        whole = f"{head} {flow(value)}"
        if isinstance(value, dict) and value and len(whole) > WIDTH:
            lines += [head, *members(value, indent + 2)]
        elif isinstance(value, list) and value and len(whole) > WIDTH:
            lines += [head, *entries(value, indent + 2)]
        else:
            lines.append(whole)
    return lines


def entries(values: Sequence[JSON], indent: int) -> list[str]:
    """Return the entries of a list, one on each line."""
    return [f"{' ' * indent}- {flow(value)}" for value in values]


def comment(texts: Iterable[str], *, mark: str = "#", indent: int = 0) -> list[str]:
    """Return texts of printable ASCII as comment lines."""
    lines: list[str] = []
    for text in texts:
        room = WIDTH - indent - len(mark) - 1
        wrapped = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
        lines += [f"{' ' * indent}{mark} {line}" for line in wrapped]
    return lines


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isascii() and character.isprintable():
        return character
    code = ord(character)
    if code <= _BYTE:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _PLANE else f"\\U{code:08x}"
