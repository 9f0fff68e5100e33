r"""Regular expressions that Cedar's `like` says exactly; all others are left to people.

Translated: alternatives of literal text, each with or without `^` and `$`, in at most one group. RE2 searches
unanchored, `$` is the end of the text, and `.` does not match a line break, so `.*` counts only where it changes
nothing: at an open end. Source: RE2 syntax.
"""

from __future__ import annotations

import re
from typing import Final

from services.decision import cedar

_WHOLE_GROUP = re.compile(r"(?P<start>\^?)\((?:\?:)?(?P<inside>(?:[^()\\]|\\.)*)\)(?P<end>\$?)", re.DOTALL)
_SPECIAL: Final = frozenset(r".*+?()[]{}|^$")


def condition(pattern: str, text: str) -> str | None:
    """Return the Cedar condition under which `pattern` is found in the string `text`; None if there is no exact one."""
    group = _WHOLE_GROUP.fullmatch(pattern)
    if group is not None:
        branches = _branches(group["inside"])
        parts = [(group["start"] + branch + group["end"]) for branch in branches]
    else:
        parts = _branches(pattern)
    tests = [_one(part, text) for part in parts]
    known = [test for test in tests if test is not None]
    if len(known) != len(tests):
        return None
    unique = list(dict.fromkeys(known))
    return unique[0] if len(unique) == 1 else "(" + " || ".join(unique) + ")"


def _branches(pattern: str) -> list[str]:
    """Split at `|` outside escapes; groups and classes are refused later, so their bars do not matter."""
    branches, start, index = [], 0, 0
    while index < len(pattern):
        if pattern[index] == "\\":
            index += 2
            continue
        if pattern[index] == "|":
            branches.append(pattern[start:index])
            start = index + 1
        index += 1
    branches.append(pattern[start:])
    return branches


def _one(pattern: str, text: str) -> str | None:
    left = pattern.startswith("^")
    body = pattern[1:] if left else pattern
    right = body.endswith("$") and not _is_escaped(body, len(body) - 1)
    body = body[:-1] if right else body
    if not left and body.startswith(".*"):
        body = body[2:]
    if not right and body.endswith(".*") and not _is_escaped(body, len(body) - 2):
        body = body[:-2]
    literal = _literal(body)
    if literal is None:
        return None
    if left and right:
        return f"{text} == {cedar.quoted(literal)}"
    quoted = cedar.quoted(literal)[1:-1].replace("*", "\\*")
    return f'{text} like "{"" if left else "*"}{quoted}{"" if right else "*"}"'


def _is_escaped(text: str, index: int) -> bool:
    before = text[:index]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _literal(pattern: str) -> str | None:
    found, index = [], 0
    while index < len(pattern):
        character = pattern[index]
        if character == "\\":
            following = pattern[index + 1 : index + 2]
            # RE2 lets any ASCII punctuation be escaped; a letter or digit after `\` is a class.
            if not following or not following.isascii() or following.isalnum() or following.isspace():
                return None
            found.append(following)
            index += 2
            continue
        if character in _SPECIAL:
            return None
        found.append(character)
        index += 1
    return "".join(found)
