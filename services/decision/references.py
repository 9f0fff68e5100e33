"""Names that nothing defines, names defined twice, and what can never have an effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.decision import finding, rules
from services.decision.catalog import Impact
from services.decision.hint import meant
from services.decision.manifest import EntryEffect
from services.decision.manifest_rules import ActionScopes
from services.decision.pattern import MostSpecific, is_glob, overlap, ties
from services.decision.risk import PRODUCTION
from services.decision.settings import FailModeName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from services.decision.bundle import Bundle
    from services.decision.catalog import Catalog, Parameter
    from services.decision.finding import Finding
    from services.decision.manifest import DataEntry, Entry, Manifest
    from services.decision.rules import Rule

CATALOG: Final = "catalog.yaml"
RESOURCES: Final = "resources.yaml"
SETTINGS: Final = "holdfast.yaml"
VERBS: Final = frozenset({"read", "write", "*"})


def errors(bundle: Bundle) -> Iterator[Finding]:
    """Yield every error between the files: the bundle may not be used with any."""
    yield from _catalogue(bundle)
    yield from _ties(bundle)
    for name in sorted(bundle.manifests):
        yield from _manifest(bundle, bundle.manifests[name])
    yield from _rules(bundle)
    yield from _settings(bundle)


def _catalogue(bundle: Bundle) -> Iterator[Finding]:
    tree = bundle.trees[CATALOG]
    for name, action in bundle.catalog.actions.items():
        if action.category not in bundle.catalog.categories:
            line, column = tree.at("actions", name, "category")
            message = f"the category `{action.category}` is not defined"
            message += meant(action.category, bundle.catalog.categories)
            yield finding.error(CATALOG, message, line=line, column=column)
        for executor in action.executor:
            if executor not in bundle.catalog.executors:
                line, column = tree.at("actions", name, "executor")
                message = f"the executor `{executor}` is not defined{meant(executor, bundle.catalog.executors)}"
                yield finding.error(CATALOG, message, line=line, column=column)


def _ties(bundle: Bundle) -> Iterator[Finding]:
    for path, key, patterns in (
        (CATALOG, "actions", bundle.catalog.actions),
        (RESOURCES, "resources", bundle.resources),
    ):
        for first, second in ties(patterns):
            line, column = bundle.trees[path].at(key, second)
            message = f"`{second}` and `{first}` are equally specific and can match the same name"
            yield finding.error(path, message, line=line, column=column)


def _manifest(bundle: Bundle, manifest: Manifest) -> Iterator[Finding]:
    path = bundle.manifest_paths[manifest.name]
    tree = bundle.trees[path]
    catalogue = MostSpecific(bundle.catalog.actions)
    for index, tool in enumerate(manifest.spec.tools):
        if not is_glob(tool) and catalogue.find(tool) is None:
            line, column = tree.at("spec", "tools", index)
            message = f"the tool `{tool}` is not in the catalogue{meant(tool, bundle.catalog.actions)}"
            yield finding.error(path, message, line=line, column=column)
    for key, index, entry in _entries(manifest):
        action = entry.action
        if action not in VERBS and not is_glob(action) and catalogue.find(action) is None:
            line, column = tree.at("spec", key, index, "action")
            message = f"the action `{action}` is not in the catalogue{meant(action, [*bundle.catalog.actions, *VERBS])}"
            yield finding.error(path, message, line=line, column=column)


def _rules(bundle: Bundle) -> Iterator[Finding]:
    first: dict[str, Rule] = {}
    for rule in bundle.rules:
        if rule.id in first:
            before = first[rule.id]
            message = f"the id `{rule.id}` stands twice, first at {before.path}:{before.line}"
            yield finding.error(rule.path, message, line=rule.line)
        first.setdefault(rule.id, rule)
        if rule.approval is not None and rule.approval.role not in bundle.settings.approvals.roles:
            message = f"the role `{rule.approval.role}` is not defined in {SETTINGS}"
            message += meant(rule.approval.role, bundle.settings.approvals.roles)
            yield finding.error(rule.path, message, line=rule.line)


def _settings(bundle: Bundle) -> Iterator[Finding]:
    names: set[str] = set()
    for index, way in enumerate(bundle.settings.break_glass):
        tree = bundle.trees[SETTINGS]
        if way.name in names:
            line, column = tree.at("break_glass", index, "name")
            yield finding.error(SETTINGS, f"the break-glass `{way.name}` is defined twice", line=line, column=column)
        names.add(way.name)
        for number, category in enumerate(way.categories):
            if category not in bundle.catalog.categories:
                line, column = tree.at("break_glass", index, "categories", number)
                message = f"the category `{category}` is not defined{meant(category, bundle.catalog.categories)}"
                yield finding.error(SETTINGS, message, line=line, column=column)


def warnings(bundle: Bundle) -> Iterator[Finding]:
    """Yield what is allowed and yet unlikely to be meant."""
    scopes = ActionScopes(bundle.catalog)
    for name in sorted(bundle.manifests):
        yield from _unreachable(bundle, bundle.manifests[name], scopes)
    yield from _unheard(bundle)
    yield from _unread(bundle)
    yield from _open(bundle)


def _unreachable(bundle: Bundle, manifest: Manifest, scopes: ActionScopes) -> Iterator[Finding]:
    path = bundle.manifest_paths[manifest.name]
    tree = bundle.trees[path]
    for index, tool in enumerate(manifest.spec.tools):
        if is_glob(tool) and not scopes.of(tool):
            line, column = tree.at("spec", "tools", index)
            yield finding.warning(path, f"the tool `{tool}` matches nothing in the catalogue", line=line, column=column)
    tools = scopes.of_any(manifest.spec.tools)
    for key, index, entry in _entries(manifest):
        if entry.effect == EntryEffect.DENY:
            continue  # A denial that reaches nothing yet is a precaution.
        reached = scopes.of(entry.action) & tools
        line, column = tree.at("spec", key, index)
        if not reached:
            message = f"the entry has no effect: no listed tool is `{entry.action}`"
            yield finding.warning(path, message, line=line, column=column)
        elif not any(overlap(entry.resource, f"{bundle.catalog.actions[name].resource}/*") for name in reached):
            message = f"the entry has no effect: no such tool takes `{entry.resource}`"
            yield finding.warning(path, message, line=line, column=column)


def _entries(manifest: Manifest) -> Iterator[tuple[str, int, Entry | DataEntry]]:
    for index, entry in enumerate(manifest.spec.policies or ()):
        yield "policies", index, entry
    for index, access in enumerate(manifest.spec.data_access or ()):
        yield "dataAccess", index, access


def _unheard(bundle: Bundle) -> Iterator[Finding]:
    known = {("Agent", name) for name in bundle.manifests}
    for manifest in bundle.manifests.values():
        known.update(("AgentGroup", group) for group in manifest.metadata.groups)
    for rule in bundle.rules:
        for kind, name in sorted((rule.principals or frozenset()) - known):
            yield finding.warning(
                rule.path, f"the rule `{rule.id}` can match no agent: nothing is {kind} `{name}`", line=rule.line
            )
        for annotation in sorted(rule.annotations - rules.ANNOTATIONS):
            yield finding.warning(
                rule.path, f"the annotation `@{annotation}` of the rule `{rule.id}` has no meaning", line=rule.line
            )
        if rule.approval is not None:
            people = bundle.settings.approvals.roles.get(rule.approval.role, ())
            if len(people) < rule.approval.count:
                yield finding.warning(
                    rule.path, f"the rule `{rule.id}` needs more people than `{rule.approval.role}` has", line=rule.line
                )


def _unread(bundle: Bundle) -> Iterator[Finding]:
    """Yield the parameters without a use: not required, bounded, logged or personal, and read by no rule."""
    for name, action in bundle.catalog.actions.items():
        read = frozenset[str]().union(*(rule.attributes for rule in _about(bundle, name)))
        for parameter_name, parameter in action.parameters.items():
            if parameter_name not in read and not _is_bounded(parameter):
                line, column = bundle.trees[CATALOG].at("actions", name, "parameters", parameter_name)
                message = (
                    f"the parameter `{parameter_name}` of `{name}` is not used: no rule reads it, nothing bounds it"
                )
                yield finding.warning(CATALOG, message, line=line, column=column)


def _about(bundle: Bundle, action: str) -> Iterator[Rule]:
    groups = _groups(bundle.catalog, action)
    return (rule for rule in bundle.rules if rule.actions is None or not rule.actions.isdisjoint(groups))


def _groups(catalog: Catalog, action: str) -> frozenset[str]:
    category_name = catalog.actions[action].category
    category = catalog.categories[category_name]
    return frozenset({action, f"category:{category_name}", f"impact:{category.impact}", f"effect:{category.effect}"})


def _is_bounded(parameter: Parameter) -> bool:
    bounds: Mapping[str, object] = parameter.model_dump(exclude_none=True, exclude_defaults=True)
    return bool(bounds.keys() - {"type"})


def _open(bundle: Bundle) -> Iterator[Finding]:
    settings = bundle.settings
    if settings.environment == PRODUCTION and settings.fail_modes.of(Impact.LOW).mode is FailModeName.OPEN:
        line, column = bundle.trees[SETTINGS].at("fail_modes", "low")
        message = "low-impact reads fail open in production"
        yield finding.warning(SETTINGS, message, line=line, column=column)
