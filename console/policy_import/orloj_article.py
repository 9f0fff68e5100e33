"""Agent manifests as the article writes them. They are nearly the bundle's own; what they leave open is not.

The article's entries speak of reading and writing, but nothing says which tool does which. Until a person does, only an
entry for every action reaches a tool, and every deny does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from console.policy_import.draft import Action, Agent, Category, Draft, Sample, is_action
from console.policy_import.source import Imported, Refusals, visible
from services.decision.manifest import DataEntry, Entry, EntryEffect, Manifest
from services.decision.strict_model import read_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from holdfast.strict_json import JSON

    from services.decision.strict_yaml import Node

EXECUTOR: Final = "agent-tools"
READ: Final = "imported.read"
WRITE: Final = "imported.write"
UNKNOWN: Final = "imported.unknown"
_VERBS: Final = frozenset({"read", "write", "*"})

_CATEGORIES: Final = {
    READ: Category(
        description="A tool that only reads, as the person who imported it says",
        impact="medium",
        effect="read",
        reversible=True,
    ),
    WRITE: Category(description="A tool that writes, as the person who imported it says"),
    UNKNOWN: Category(
        description="A tool of which nobody said whether it reads or writes",
        comments=("Move each tool to a category that says what it does, then give the agents their entries.",),
    ),
}


def convert(
    parts: Sequence[tuple[str, bytes]], *, keep: frozenset[str], reads: frozenset[str], writes: frozenset[str]
) -> Imported:
    """Return one bundle from manifests by path. Raises: BundleInvalid, UnknownAllowance."""
    read = [(path, *read_model(path, data, Manifest)) for path, data in parts]
    _refuse_twins(read)
    draft = Draft(parts[0][0] if len(parts) == 1 else f"{len(parts)} Orloj manifests", keep)
    draft.executors[EXECUTOR] = "The tools behind the imported agents"
    effects = {**dict.fromkeys(writes, "write"), **dict.fromkeys(reads, "read")}
    for path, manifest, tree in read:
        _Import(path, manifest, tree, draft, effects).run()
    return draft.finish()


def _refuse_twins(read: Sequence[tuple[str, Manifest, Node]]) -> None:
    refusals, seen = Refusals(), set[str]()
    for path, manifest, tree in read:
        if manifest.name.lower() in seen:
            refusals.add(path, tree.at("metadata", "name")[0], f"the agent `{manifest.name}` is defined twice")
        seen.add(manifest.name.lower())
    if not any(is_action(tool) for _, manifest, _ in read for tool in manifest.spec.tools):
        path, _, tree = read[0]
        refusals.add(path, tree.at("spec", "tools")[0], "no agent lists a tool: there is nothing to allow or deny")
    refusals.check()


class _Import:
    def __init__(self, path: str, manifest: Manifest, tree: Node, draft: Draft, effects: dict[str, str]) -> None:
        self._path = path
        self._manifest = manifest
        self._tree = tree
        self._draft = draft
        self._effects = effects
        self._tools = [tool for tool in manifest.spec.tools if is_action(tool)]

    def run(self) -> None:
        self._catalogue()
        spec = self._manifest.spec
        written: dict[str, JSON] = {"tools": list(self._tools)}
        if self._manifest.models:
            written["models"] = [*(spec.models or ()), *([spec.model] if spec.model else [])]
        else:
            message = f"`{self._manifest.name}` lists no model: what names one is refused"
            self._draft.stricter(self._path, self._line("spec"), message)
        if spec.environments is not None:
            written["environments"] = list(spec.environments)
        written.update(self._entries())
        for key, part in (("rateLimit", spec.rate_limit), ("schedule", spec.schedule)):
            if part is not None:
                written[key] = part.model_dump(mode="json", by_alias=True, exclude_none=True)
        metadata = self._manifest.metadata
        self._draft.agents[self._manifest.name] = Agent(
            spec=written,
            groups=metadata.groups,
            labels=metadata.labels,
            owner=metadata.owner,
            comments=(f"From {visible(self._path.rsplit('/', 1)[-1])}, line {self._line('metadata')}.",),
        )
        self._samples()

    def _line(self, *path: str | int) -> int:
        return self._tree.at(*path)[0]

    def _catalogue(self) -> None:
        for index, tool in enumerate(self._manifest.spec.tools):
            line = self._line("spec", "tools", index)
            if not is_action(tool):
                message = f"the tool `{visible(tool)}` cannot be an action's name here: it is left out and denied"
                self._draft.stricter(self._path, line, message)
                continue
            effect = self._effects.get(tool)
            category = {"read": READ, "write": WRITE, None: UNKNOWN}[effect]
            if effect is None:
                message = (
                    f"nothing says whether `{visible(tool)}` reads or writes: entries for `read` or `write` do not"
                    " allow it, and all of them deny it; --reads or --writes says it"
                )
                self._draft.stricter(self._path, line, message)
            self._draft.categories.setdefault(category, _CATEGORIES[category])
            self._draft.actions.setdefault(tool, Action(category=category, executor=EXECUTOR))

    def _entries(self) -> dict[str, JSON]:
        spec, name = self._manifest.spec, self._manifest.name
        if spec.policies is None and spec.data_access is None:
            message = f"`{name}` has neither `policies` nor `dataAccess`: its tools act on everything"
            kept = self._draft.omission(self._path, self._line("spec"), name, message)
            return {} if kept else {"policies": []}
        written: dict[str, JSON] = {}
        if spec.policies is not None:
            written["policies"] = [
                {"effect": str(entry.effect), "resource": entry.resource, "action": action}
                for index, entry in enumerate(spec.policies)
                for action in self._actions(entry, self._line("spec", "policies", index))
            ]
        if spec.data_access is not None:
            written["dataAccess"] = [
                {"resource": entry.resource, "action": action}
                for index, entry in enumerate(spec.data_access)
                for action in self._actions(entry, self._line("spec", "dataAccess", index))
            ]
            for index, entry in enumerate(spec.data_access):
                if entry.rate_limited_by is not None:
                    line = self._line("spec", "dataAccess", index)
                    message = "`rateLimitedBy: callingAgent`: limits here are always those of the calling agent"
                    self._draft.left_out(self._path, line, message)
        return written

    def _actions(self, entry: Entry | DataEntry, line: int) -> Iterator[str]:
        """Yield the actions of the entries that stand for one. A tool of unknown effect is allowed by `*` only."""
        denies = entry.effect == EntryEffect.DENY
        unknown = [tool for tool in self._tools if tool not in self._effects]
        if entry.action not in _VERBS and entry.action not in self._tools:
            outcome = "it denies every action" if denies else "it allows nothing"
            message = f"`{visible(entry.action)}` is neither a verb nor a tool of `{self._manifest.name}`: {outcome}"
            self._draft.stricter(self._path, line, message)
            if denies:
                yield "*"
        elif entry.action == "read" and denies:
            yield from ("read", *unknown)
        elif entry.action == "write" and not denies and unknown:
            yield from (tool for tool in self._tools if self._effects.get(tool) == "write")
        else:
            yield entry.action

    def _samples(self) -> None:
        entries = self._manifest.entries() or ()
        patterns = list(dict.fromkeys(entry.resource for entry in entries))
        for tool in (*self._tools, "a-tool-that-is-not-listed"):
            for pattern in (*patterns, "elsewhere/*"):
                kind, _, rest = pattern.partition("/")
                resource = (kind.replace("*", "any") or "any", rest.replace("*", "example") or "example")
                self._draft.sample(Sample(agent=self._manifest.name, action=tool, resource=resource))
