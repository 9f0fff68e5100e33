"""YAML with one reading: bytes in, a tree with line numbers out.

Refused: anything that is not UTF-8, a second document, duplicate keys, keys that are no strings, tags and directives,
deep nesting, anchors that expand beyond 1 MB, and every plain scalar that YAML 1.1 and YAML 1.2 read differently
(`no`, `017`, `12:30`, `1_000`, `1e3`). What is left means the same to every reader.
Source: YAML 1.1 (types), YAML 1.2.2 (10.3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import yaml

from services.decision import finding
from services.decision.finding import BundleInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.strict_json import JSON

    from services.decision.finding import Finding

MAX_DEPTH: Final = 32
MAX_EXPANDED: Final = 1_000_000
MAX_INTEGER_DIGITS: Final = 19

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Final = yaml.resolver.Resolver()
_MERGE: Final = "<<"

# Line separators to some readers and not to others, and what turns the direction of text around.
# Source: YAML 1.2.2 5.4; Boucher and Anderson, Trojan Source, 2021.
_MISLEADING = re.compile("[\u0085\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_TAB: Final = "a tab stands where only spaces may: write spaces"
_COMMENT = re.compile(r"(?:^|(?<=[\s]))#[^\n\r]*")
_LINE_END = re.compile(r"\r\n?|\n")
_NULL_12 = re.compile(r"null|Null|NULL|~|")
_BOOL_12 = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT_12 = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT_12 = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_DECIMAL_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")

_KINDS_11: Final = {
    "tag:yaml.org,2002:null": "null",
    "tag:yaml.org,2002:bool": "boolean",
    "tag:yaml.org,2002:int": "integer",
    "tag:yaml.org,2002:float": "number",
    "tag:yaml.org,2002:value": "default value",
    "tag:yaml.org,2002:merge": "merge",
}

Scalar: TypeAlias = "str | int | float | bool | None"


@dataclass(frozen=True, slots=True)
class Member:
    """One `key: value` of a mapping, with the key's place."""

    line: int
    column: int
    node: Node


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place. `size` counts characters with every alias written out."""

    line: int
    column: int
    value: Scalar | tuple[Node, ...] | dict[str, Member]
    size: int

    def plain(self) -> JSON:
        """Return the value without places."""
        if isinstance(self.value, tuple):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: member.node.plain() for key, member in self.value.items()}
        return self.value

    def at(self, *path: str | int) -> tuple[int, int]:
        """Return line and column of what `path` leads to, or of the last part that exists."""
        node, place = self, (self.line, self.column)
        for part in path:
            if isinstance(node.value, dict) and isinstance(part, str) and part in node.value:
                member = node.value[part]
                node, place = member.node, (member.line, member.column)
            elif isinstance(node.value, tuple) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                place = (node.line, node.column)
        return place

    def nulls(self, *, except_below: str | None) -> Iterator[Node]:
        """Yield every missing value, except below keys of the given name."""
        if self.value is None:
            yield self
        elif isinstance(self.value, tuple):
            for item in self.value:
                yield from item.nulls(except_below=except_below)
        elif isinstance(self.value, dict):
            for key, member in self.value.items():
                if key != except_below:
                    yield from member.node.nulls(except_below=except_below)


def compose(path: str, data: bytes) -> Node:
    """Return the tree of the one document in `data`. Raises: BundleInvalid, with places."""
    text = decode(path, data)
    composer = _Composer(path, text)
    node = composer.document()
    if composer.findings:
        raise BundleInvalid(composer.findings)
    return node


def decode(path: str, data: bytes) -> str:
    """Return the text of a bundle's file. Raises: BundleInvalid if it is not UTF-8 without a byte order mark."""
    try:
        text = data.decode("utf-8", "strict")
    except UnicodeDecodeError as failure:
        line = data.count(b"\n", 0, failure.start) + 1
        raise BundleInvalid([finding.error(path, "the file is not UTF-8", line=line)]) from failure
    if text.startswith("\ufeff"):
        raise BundleInvalid([finding.error(path, "the file starts with a byte order mark")])
    if (found := _MISLEADING.search(text)) is not None:
        before = _LINE_END.split(text[: found.start()])
        message = f"U+{ord(found.group()):04X} reads otherwise than it looks: write it as an escape, or leave it out"
        raise BundleInvalid([finding.error(path, message, line=len(before), column=len(before[-1]) + 1)])
    return text


class _Composer:
    def __init__(self, path: str, text: str) -> None:
        self.findings: list[Finding] = []
        self._path = path
        self._text = text
        self._events = self._parse(text)
        self._anchors: dict[str, Node] = {}
        self._aliased = 0
        self._written: list[tuple[int, int]] = []  # where scalars begin and end

    def _parse(self, text: str) -> Iterator[yaml.Event]:
        try:
            for event in yaml.parse(text, Loader=_LOADER):
                if isinstance(event, yaml.ScalarEvent) and event.start_mark and event.end_mark:
                    self._written.append((event.start_mark.index, event.end_mark.index))
                yield event
        except yaml.MarkedYAMLError as failure:
            mark = failure.problem_mark or failure.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            message = f"not YAML: {failure.problem or failure.context or 'malformed'}"
            if mark and text[mark.index : mark.index + 1] == "\t":
                message = f"not YAML: {_TAB}"
            raise self._refusal(message, line, column) from failure
        except yaml.YAMLError as failure:
            position = getattr(failure, "position", 0)
            line = text.count("\n", 0, position if isinstance(position, int) else 0) + 1
            raise self._refusal("not YAML: a character is not allowed", line, 1) from failure

    def _refuse_tabs(self) -> None:
        """Find each line with a tab between its tokens: YAML allows some of them, and no one sees which."""
        end = 0
        for start, after in (*self._written, (len(self._text), len(self._text))):
            between = _COMMENT.sub(lambda match: " " * len(match.group()), self._text[end:start])
            if (tab := between.find("\t")) >= 0:
                lines = _LINE_END.split(self._text[: end + tab])
                self._find(_TAB, len(lines), len(lines[-1]) + 1)
            end = max(end, after)

    def _refusal(self, message: str, line: int, column: int) -> BundleInvalid:
        return BundleInvalid([*self.findings, finding.error(self._path, message, line=line, column=column)])

    def document(self) -> Node:
        next(self._events)  # the start of the stream
        start = next(self._events)
        if not isinstance(start, yaml.DocumentStartEvent):
            raise self._refusal("the file is empty", 1, 1)
        if start.version or start.tags:
            raise self._refusal("YAML directives are not supported", *_place(start))
        node = self._node(next(self._events), 0)
        next(self._events)  # the end of the document
        after = next(self._events)
        if isinstance(after, yaml.DocumentStartEvent):
            raise self._refusal("a file holds one YAML document", *_place(after))
        self._refuse_tabs()
        return node

    def _node(self, event: yaml.Event, depth: int) -> Node:
        line, column = _place(event)
        if depth > MAX_DEPTH:
            raise self._refusal(f"nesting is deeper than {MAX_DEPTH}", line, column)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), line, column)
        if getattr(event, "tag", None) is not None:
            raise self._refusal("YAML tags are not supported", line, column)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event.value, line, column) if event.implicit[0] else event.value
            node = Node(line, column, value, len(event.value) + 1)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(line, column, depth)
        elif isinstance(event, yaml.MappingStartEvent):
            node = self._mapping(line, column, depth)
        else:
            raise self._refusal("not YAML: malformed", line, column)
        anchor = event.anchor
        if anchor is not None:
            # INVARIANT: an anchor is known only once its node is whole, so nothing can contain itself.
            self._anchors[anchor] = node
        return node

    def _alias(self, anchor: str, line: int, column: int) -> Node:
        target = self._anchors.get(anchor)
        if target is None:
            raise self._refusal(f"the anchor `{anchor}` is not defined before this", line, column)
        self._aliased += target.size
        if self._aliased > MAX_EXPANDED:
            raise self._refusal(f"anchors expand beyond {MAX_EXPANDED} characters", line, column)
        return Node(line, column, target.value, target.size)

    def _sequence(self, line: int, column: int, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Node(line, column, tuple(items), 1 + sum(item.size for item in items))

    def _mapping(self, line: int, column: int, depth: int) -> Node:
        members: dict[str, Member] = {}
        merged: dict[str, Member] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            place = _place(event)
            if isinstance(event, yaml.ScalarEvent) and event.value == _MERGE and event.implicit[0]:
                if merged:
                    self._find("the key `<<` stands twice", *place)
                merged = self._merge(self._node(next(self._events), depth + 1))
                continue
            key = self._node(event, depth + 1)
            node = self._node(next(self._events), depth + 1)
            if not isinstance(key.value, str):
                if not (isinstance(event, yaml.ScalarEvent) and self._found_at(*place)):
                    self._find("a key must be a string: write it in quotes", *place)
            elif key.value in members:
                self._find(f"the key `{key.value}` stands twice", *place)
            else:
                members[key.value] = Member(*place, node)
        whole = {**merged, **members}
        return Node(line, column, whole, 1 + sum(len(key) + member.node.size for key, member in whole.items()))

    def _merge(self, node: Node) -> dict[str, Member]:
        sources = node.value if isinstance(node.value, tuple) else (node,)
        merged: dict[str, Member] = {}
        for source in reversed(sources):
            if isinstance(source.value, dict):
                merged.update(source.value)
            else:
                self._find("`<<` merges a mapping or a list of mappings", node.line, node.column)
        return merged

    def _scalar(self, text: str, line: int, column: int) -> Scalar:
        kind_11 = _kind_11(text)
        if kind_11 != _kind_12(text) or (kind_11 == "integer" and not _is_decimal(text)):
            self._find(f"`{text[:40]}` is not the same to every reader of YAML: {_advice(text)}", line, column)
            return None
        if kind_11 == "null":
            return None
        if kind_11 == "boolean":
            return text.lower() == "true"
        if kind_11 == "integer":
            if len(text.lstrip("+-")) > MAX_INTEGER_DIGITS:
                self._find("an integer is beyond 64 bits", line, column)
                return None
            return int(text)
        return float(text.replace(".inf", "inf").replace(".nan", "nan")) if kind_11 == "number" else text

    def _find(self, message: str, line: int, column: int) -> None:
        self.findings.append(finding.error(self._path, message, line=line, column=column))

    def _found_at(self, line: int, column: int) -> bool:
        return any((found.line, found.column) == (line, column) for found in self.findings)


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _kind_11(text: str) -> str:
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return _KINDS_11.get(tag, "string")


def _kind_12(text: str) -> str:
    if _NULL_12.fullmatch(text):
        return "null"
    if _BOOL_12.fullmatch(text):
        return "boolean"
    if _INT_12.fullmatch(text):
        return "integer"
    return "number" if _FLOAT_12.fullmatch(text) else "string"


def _is_decimal(text: str) -> bool:
    return _DECIMAL_INTEGER.fullmatch(text) is not None


def _advice(text: str) -> str:
    if text.lower() in {"yes", "no", "on", "off"}:
        return "write true or false, or put it in quotes"
    return "write a plain decimal number, or put it in quotes"
