"""What an importer reads and what it says: sources with their names, notes with their lines."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from services.decision import finding
from services.decision.finding import BundleInvalid
from services.decision.strict_yaml import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.strict_json import JSON

_MARKER = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_NOTHING = re.compile(r"(?:\s|#[^\n]*|\.\.\.)*")
_UNSEEN = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file as the caller named it."""

    path: str
    data: bytes


class NoteKind(StrEnum):
    """What a note is about."""

    #: The source allows it because nothing says otherwise.
    OMISSION = "allowed by omission"
    #: The bundle denies, or asks a person, where the source may allow.
    STRICTER = "stricter"
    #: The source says something that decides nothing here.
    LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Note:
    """One thing to know about an import. `name` is what `--keep-allow` takes; only omissions have one."""

    path: str
    line: int
    kind: NoteKind
    message: str
    name: str = ""
    kept: bool = False

    def __str__(self) -> str:
        outcome = ""
        if self.kind is NoteKind.OMISSION:
            outcome = f" [{visible(self.name)}] -> {'kept' if self.kept else 'denied'}"
        return f"{self.path}:{self.line}: {self.kind}: {self.message}{outcome}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A whole bundle by relative path, and what its reader must know."""

    files: dict[str, bytes]
    notes: tuple[Note, ...]


class UnknownAllowance(Exception):
    """`--keep-allow` names something that the source does not allow by omission."""


class Refusals:
    """Collects what is wrong with a source, so that one run tells all of it."""

    def __init__(self) -> None:
        self._found: list[finding.Finding] = []

    def add(self, path: str, line: int, message: str) -> None:
        """Add one refusal."""
        self._found.append(finding.error(path, message, line=line))

    def check(self) -> None:
        """Raise BundleInvalid if there is any."""
        if self._found:
            raise BundleInvalid(self._found)


def documents(source: Source) -> Iterator[bytes]:
    """Yield each YAML document of a file, padded so that lines and columns stay those of the file.

    Raises: BundleInvalid for a file that is not UTF-8, or holds nothing.
    """
    text = decode(source.path, source.data)
    starts = [0, *(match.start() for match in _MARKER.finditer(text))]
    found = False
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        part = text[start:end]
        body = "   " + part[3:] if _MARKER.match(part) else part
        if _NOTHING.fullmatch(body) is None:
            found = True
            yield ("\n" * text.count("\n", 0, start) + body).encode()
    if not found:
        raise BundleInvalid([finding.error(source.path, "the file is empty")])


def original(value: JSON) -> str:
    """Return a piece of the source on one line, for reasons and comments."""
    return visible(json.dumps(value, ensure_ascii=False))


def visible(text: str) -> str:
    """Return `text` on one line of printable ASCII, so that no comment ends early."""
    return _UNSEEN.sub(lambda match: match.group().encode("ascii", "backslashreplace").decode("ascii"), text).replace(
        "\n", " "
    )
