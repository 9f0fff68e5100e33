"""Strict JSON: one reading for everybody, or an error.

What this accepts can be canonicalised by RFC 8785 and read again without loss: no duplicate keys, no NaN or infinities,
no integer beyond 2^53 - 1 however it is written, no lone surrogates, bounded nesting.

Source: RFC 8259, RFC 7493 (I-JSON).
"""

from __future__ import annotations

import json
import math
import re
from typing import Final, TypeAlias

from holdfast.errors import MalformedJSON

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

MAX_INTEGER: Final = 2**53 - 1
MAX_DEPTH: Final = 32

_FIRST_WITH_EXPONENT: Final = 1e21  # Source: RFC 8785 3.2.2.3, ECMAScript Number::toString

# One pass whatever the input: the possessive body never backtracks, and a string without an end runs to the end.
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


def loads(data: bytes, *, max_depth: int = MAX_DEPTH) -> JSON:
    """Return the one JSON value in `data`.

    Raises: MalformedJSON for anything that two readers could understand differently.
    """
    try:
        text = data.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise MalformedJSON("the body is not UTF-8") from error
    if text.startswith("\ufeff"):
        raise MalformedJSON("the body starts with a byte order mark")
    _refuse_deep_nesting(data, max_depth)
    try:
        value: JSON = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except ValueError as error:
        raise MalformedJSON(f"the body is not JSON: {error}") from error
    if "\\u" in text and _has_surrogate(value):
        raise MalformedJSON("a string holds a lone surrogate")
    return value


def _refuse_deep_nesting(data: bytes, max_depth: int) -> None:
    """Bound the depth before the parser recurses. A bracket inside a string does not count."""
    if data.count(b"{") + data.count(b"[") <= max_depth:
        return
    depth = 0
    for match in _BRACKETS.finditer(data):
        token = match.group()
        if token in (b"{", b"["):
            depth += 1
            if depth > max_depth:
                raise MalformedJSON(f"nesting is deeper than {max_depth}")
        elif token in (b"}", b"]"):
            depth -= 1


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise MalformedJSON(f"the member `{_printable(key)}` stands twice")
            seen.add(key)
    return value


def _refuse_constant(name: str) -> JSON:
    raise MalformedJSON(f"`{name}` is not JSON")


def _integer(text: str) -> int:
    # 17 characters hold every accepted integer; the check comes before int() makes a huge one.
    if len(text) > 17 or abs(number := int(text)) > MAX_INTEGER:  # noqa: PLR2004 - explained above
        raise MalformedJSON("an integer is beyond 2^53 - 1; send it as a string")
    return number


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise MalformedJSON("a number is too large")
    # RFC 8785 writes these without exponent, as integers that `_integer` would refuse to read back.
    if MAX_INTEGER < abs(number) < _FIRST_WITH_EXPONENT:
        raise MalformedJSON("a number is beyond 2^53 - 1; send it as a string")
    return number


def _has_surrogate(value: JSON) -> bool:
    if isinstance(value, str):
        return _SURROGATE.search(value) is not None
    if isinstance(value, list):
        return any(_has_surrogate(item) for item in value)
    if isinstance(value, dict):
        return any(_SURROGATE.search(key) or _has_surrogate(item) for key, item in value.items())
    return False


def _printable(key: str) -> str:
    return ascii(key[:64])[1:-1]
