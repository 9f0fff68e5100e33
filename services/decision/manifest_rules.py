"""A manifest as Cedar: one permit or forbid for each entry, numbered from 1 over `policies`, then `dataAccess`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from services.decision import cedar
from services.decision.manifest import EntryEffect
from services.decision.pattern import is_glob, matches, overlap
from services.decision.rules import RESERVED_PREFIX, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from services.decision.catalog import Catalog, Effect
    from services.decision.manifest import DataEntry, Entry, Manifest
    from services.decision.strict_yaml import Node


class ActionScopes:
    """Which of the catalogue's actions a verb, a name or a glob speaks of."""

    def __init__(self, catalog: Catalog) -> None:
        self._effects: Mapping[str, Effect] = {
            name: catalog.categories[action.category].effect for name, action in catalog.actions.items()
        }
        self._memo: dict[str, frozenset[str]] = {}

    def of(self, action: str) -> frozenset[str]:
        """Return the catalogue's actions that `action` may speak of; a glob of the catalogue counts if it overlaps."""
        if action not in self._memo:
            self._memo[action] = frozenset(name for name in self._effects if self._speaks(action, name))
        return self._memo[action]

    def _speaks(self, action: str, name: str) -> bool:
        if action == "read":
            return self._effects[name] == "read"
        if action == "write":
            return self._effects[name] != "read"
        return overlap(action, name) if is_glob(name) else matches(action, name)

    def of_any(self, actions: Iterable[str]) -> frozenset[str]:
        """Return the union over several."""
        return frozenset[str]().union(*(self.of(action) for action in actions))

    @property
    def all(self) -> frozenset[str]:
        """Every action of the catalogue."""
        return frozenset(self._effects)


def rule_id(agent: str, part: int | str) -> str:
    """Return the id of an entry (by number) or of another part of an agent's manifest."""
    return f"{RESERVED_PREFIX}{agent}:{part}"


def compile_manifest(manifest: Manifest, path: str, tree: Node, scopes: ActionScopes) -> tuple[Rule, ...]:
    """Return the rules of one manifest. An entry that no listed tool can reach compiles to nothing.

    `tree` is the file's, and gives each rule its line.
    """
    tools = scopes.of_any(manifest.spec.tools)
    entries = manifest.entries()
    if entries is None:
        rule = _tools_rule(manifest, path, tools, scopes)
        return (replace(rule, line=tree.at("spec", "tools")[0]),) if tools else ()
    lists = (("policies", manifest.spec.policies), ("dataAccess", manifest.spec.data_access))
    places = [tree.at("spec", key, index)[0] for key, listed in lists for index in range(len(listed or ()))]
    rules = []
    for number, (entry, line) in enumerate(zip(entries, places, strict=True), 1):
        if reached := scopes.of(entry.action) & tools:
            rules.append(replace(_entry_rule(manifest, path, number, entry, reached, scopes), line=line))
    return tuple(rules)


def _tools_rule(manifest: Manifest, path: str, tools: frozenset[str], scopes: ActionScopes) -> Rule:
    condition = _operation(manifest.spec.tools) if any(map(is_glob, tools)) else None
    return _rule(manifest, path, "tools", forbids=False, actions=_scope(tools, scopes), conditions=[condition])


def _entry_rule(
    manifest: Manifest, path: str, number: int, entry: Entry | DataEntry, reached: frozenset[str], scopes: ActionScopes
) -> Rule:
    verb = entry.action in ("read", "write", "*")
    operation = _operation([entry.action]) if not verb and any(map(is_glob, reached)) else None
    return _rule(
        manifest,
        path,
        number,
        forbids=entry.effect == EntryEffect.DENY,
        actions=_scope(reached, scopes),
        conditions=[operation, cedar.resource_matches(entry.resource)],
    )


def _scope(actions: frozenset[str], scopes: ActionScopes) -> frozenset[str] | None:
    return None if actions == scopes.all else actions


def _operation(patterns: Iterable[str]) -> str | None:
    tests = [
        f"context.operation like {cedar.like(pattern)}"
        if is_glob(pattern)
        else f"context.operation == {cedar.quoted(pattern)}"
        for pattern in patterns
    ]
    return " || ".join(tests)


def _rule(
    manifest: Manifest,
    path: str,
    part: int | str,
    *,
    forbids: bool,
    actions: frozenset[str] | None,
    conditions: Iterable[str | None],
) -> Rule:
    name = rule_id(manifest.name, part)
    effect = "forbid" if forbids else "permit"
    scope = [f"principal == Agent::{cedar.quoted(manifest.name)}", "action", "resource"]
    if actions is not None:
        scope[1] = f"action in [{', '.join(f'Action::{cedar.quoted(action)}' for action in sorted(actions))}]"
    when = "".join(f" when {{ {condition} }}" for condition in conditions if condition is not None)
    return Rule(
        id=name,
        text=f"@id({cedar.quoted(name)})\n{effect} ({', '.join(scope)}){when};",
        forbids=forbids,
        reason=f"the manifest of `{manifest.name}` denies it" if forbids else None,
        actions=actions,
        principals=frozenset({("Agent", manifest.name)}),
        context=frozenset({"operation"}) if "context.operation" in when else frozenset(),
        path=path,
    )
