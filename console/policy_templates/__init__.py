"""Starter bundles: one folder each, complete with tests."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

TEMPLATES: Final[dict[str, str]] = {
    "coding-agent": "an agent that works in repositories: reads, branches, builds; merges and releases with people",
    "support": "an agent that answers customers: knowledge, tickets, small refunds",
    "finance": "agents that read ledgers, pay invoices and refund, within limits and with people",
    "infra": "agents that watch, restart, scale and deploy; destruction with two people",
}


def template(name: str) -> dict[str, bytes]:
    """Return the files of a template by relative path. Raises: KeyError for an unknown name."""
    if name not in TEMPLATES:
        raise KeyError(name)
    return dict(_files(resources.files(__name__) / name, ""))


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry.read_bytes()
