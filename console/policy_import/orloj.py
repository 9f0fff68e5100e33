"""Orloj manifests in both dialects: the article's, and Orloj's own. Source: OrlojHQ/orloj dbbf19a, openapi/schemas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from console.policy_import import orloj_article, orloj_resources
from console.policy_import.source import Imported, Refusals, Source, documents
from services.decision.strict_yaml import compose

if TYPE_CHECKING:
    from services.decision.strict_yaml import Node

_ARTICLE: Final = frozenset({"model", "models", "policies", "rateLimit", "dataAccess", "environments", "schedule"})
_RESOURCE: Final = frozenset(
    {"model_ref", "prompt", "allowed_tools", "roles", "memory", "limits", "fallback_model_refs"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One YAML document of a file."""

    path: str
    data: bytes
    kind: str
    keys: frozenset[str]
    line: int


def convert(
    sources: Sequence[Source], *, keep: frozenset[str], reads: frozenset[str], writes: frozenset[str]
) -> Imported:
    """Return one bundle from all files. Raises: BundleInvalid, UnknownAllowance."""
    found = [_document(source.path, data) for source in sources for data in documents(source)]
    refusals = Refusals()
    own = any(one.kind != "Agent" or one.keys & _RESOURCE for one in found)
    for one in found:
        if own and one.kind == "Agent" and (foreign := sorted(one.keys & _ARTICLE)):
            refusals.add(
                one.path, one.line, f"`spec.{foreign[0]}` is of the article's dialect, the rest is Orloj's own"
            )
    refusals.check()
    parts = [(one.path, one.kind, one.line, one.data) for one in found]
    if own:
        return orloj_resources.convert(parts, keep=keep)
    return orloj_article.convert([(path, data) for path, _, _, data in parts], keep=keep, reads=reads, writes=writes)


def _document(path: str, data: bytes) -> Document:
    tree = compose(path, data)
    kind = _member(tree, "kind")
    spec = _member(tree, "spec")
    return Document(
        path=path,
        data=data,
        kind=kind.value if kind is not None and isinstance(kind.value, str) else "Agent",
        keys=frozenset(spec.value) if spec is not None and isinstance(spec.value, dict) else frozenset(),
        line=spec.line if spec is not None else tree.line,
    )


def _member(tree: Node, name: str) -> Node | None:
    found = tree.value.get(name) if isinstance(tree.value, dict) else None
    return found.node if found is not None else None
