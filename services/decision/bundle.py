"""A policy bundle: files in, typed values out, or findings with file and line. Source: docs/policy.md."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from holdfast.errors import InvalidIntent
from holdfast.intent import Intent

from services.decision import cedar, finding, references
from services.decision.catalog import Catalog, ResourceFacts, Resources
from services.decision.finding import BundleInvalid, Severity
from services.decision.manifest import FOREIGN_API_VERSION, Manifest
from services.decision.rules import MAX_RULES, Rule, read_rules, validate
from services.decision.settings import Settings
from services.decision.strict_model import read_model
from services.decision.suite import Suite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.decision.finding import Finding
    from services.decision.strict_model import M
    from services.decision.strict_yaml import Node

CATALOG: Final = "catalog.yaml"
RESOURCES: Final = "resources.yaml"
SETTINGS: Final = "holdfast.yaml"

MAX_FILE_BYTES: Final = 4 << 20
MAX_TOTAL_BYTES: Final = 64 << 20
MAX_FILES: Final = 20_000
MAX_ACTIONS: Final = 5_000
MAX_AGENTS: Final = 10_000

_DIGEST_DOMAIN: Final = b"holdfast-bundle/v1\n"
_KNOWN = re.compile(r"(?P<folder>agents|tests)/[^/]+\.yaml|(?P<rules>rules)/[^/]+\.cedar")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What the files say, before anything is compiled. `trees` give findings their lines."""

    digest: str
    catalog: Catalog
    resources: Mapping[str, ResourceFacts]
    settings: Settings
    manifests: Mapping[str, Manifest]
    rules: tuple[Rule, ...]
    suites: Mapping[str, Suite]
    files: Mapping[str, bytes]
    manifest_paths: Mapping[str, str]
    trees: Mapping[str, Node] = field(repr=False)
    warnings: tuple[Finding, ...] = ()


def digest(files: Mapping[str, bytes]) -> str:
    """Return `sha256:` and 64 hexadecimal digits over the files: sorted paths, every part with its length."""
    hashed = hashlib.sha256(_DIGEST_DOMAIN)
    for path in sorted(files):
        for part in (path.encode("utf-8", "surrogatepass"), files[path]):
            hashed.update(len(part).to_bytes(8, "big") + part)
    return "sha256:" + hashed.hexdigest()


def read_bundle(files: Mapping[str, bytes]) -> Bundle:
    """Read a bundle from its files by relative path (`agents/bot.yaml`). README.md and dotfiles are left out.

    Raises: BundleInvalid with every finding that can be made.
    """
    kept = {path: data for path, data in files.items() if not _is_ignored(path)}
    if refused := _bounds(kept):
        raise BundleInvalid(refused)
    reader = _Reader(kept)
    bundle = reader.read()
    if bundle is None:
        raise BundleInvalid(reader.findings)
    return bundle


def _is_ignored(path: str) -> bool:
    return path == "README.md" or any(part.startswith(".") and part.strip(".") for part in path.split("/"))


def _bounds(files: Mapping[str, bytes]) -> list[Finding]:
    if CATALOG not in files:
        return [finding.error(CATALOG, "the catalogue is missing: a bundle without one permits nothing")]
    if len(files) > MAX_FILES:
        return [finding.error(CATALOG, f"the bundle has more than {MAX_FILES} files")]
    if sum(map(len, files.values())) > MAX_TOTAL_BYTES:
        return [finding.error(CATALOG, f"the bundle has more than {MAX_TOTAL_BYTES} bytes")]
    return [
        finding.error(path, f"the file has more than {MAX_FILE_BYTES} bytes")
        for path, data in files.items()
        if len(data) > MAX_FILE_BYTES
    ]


class _Reader:
    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.findings: list[Finding] = []
        self._files = files
        self._trees: dict[str, Node] = {}

    def read(self) -> Bundle | None:
        catalog = self._model(CATALOG, Catalog)
        settings = self._model(SETTINGS, Settings) if SETTINGS in self._files else Settings()
        resources = self._model(RESOURCES, Resources) if RESOURCES in self._files else None
        manifests, manifest_paths = self._manifests()
        suites: dict[str, Suite] = {}
        rules: list[Rule] = []
        for path in sorted(self._files):
            if path in (CATALOG, SETTINGS, RESOURCES) or path.startswith("agents/"):
                continue
            known = _KNOWN.fullmatch(path)
            if known is None:
                self.findings.append(finding.error(path, "a bundle has no such file"))
            elif known["rules"]:
                rules.extend(self._rules(path))
            elif (suite := self._model(path, Suite, nulls_below="parameters")) is not None:
                suites[path] = suite
                self._check_intents(path, suite)
        self._count(rules, manifests, catalog)
        if catalog is None or settings is None or self._refused():
            return None
        bundle = Bundle(
            digest=digest(self._files),
            catalog=catalog,
            resources=resources.resources if resources else {},
            settings=settings,
            manifests=manifests,
            rules=tuple(rules),
            suites=suites,
            files=self._files,
            manifest_paths=manifest_paths,
            trees=self._trees,
        )
        self.findings.extend(references.errors(bundle))
        if not self._refused():
            document = cedar.schema(catalog.actions, catalog.categories)
            self.findings.extend(validate(bundle.rules, json.dumps(document), catalog.actions))
        if self._refused():
            return None
        self.findings.extend(references.warnings(bundle))
        return replace(bundle, warnings=tuple(sorted(self.findings)))

    def _refused(self) -> bool:
        return any(found.severity is Severity.ERROR for found in self.findings)

    def _model(self, path: str, model: type[M], *, nulls_below: str | None = None) -> M | None:
        try:
            value, self._trees[path] = read_model(path, self._files[path], model, nulls_below=nulls_below)
        except BundleInvalid as refused:
            self.findings.extend(refused.findings)
            return None
        return value

    def _rules(self, path: str) -> tuple[Rule, ...]:
        try:
            return read_rules(path, self._files[path])
        except BundleInvalid as refused:
            self.findings.extend(refused.findings)
            return ()

    def _manifests(self) -> tuple[dict[str, Manifest], dict[str, str]]:
        manifests: dict[str, Manifest] = {}
        paths: dict[str, str] = {}
        for path in sorted(self._files):
            if not path.startswith("agents/"):
                continue
            if _KNOWN.fullmatch(path) is None:
                self.findings.append(finding.error(path, "a bundle has no such file"))
                continue
            manifest = self._model(path, Manifest)
            if manifest is None:
                continue
            if manifest.name in manifests:
                self._at(path, f"the agent `{manifest.name}` is defined twice, first in {paths[manifest.name]}")
                continue
            manifests[manifest.name], paths[manifest.name] = manifest, path
            self._look_at(path, manifest)
        return manifests, paths

    def _look_at(self, path: str, manifest: Manifest) -> None:
        line, column = self._trees[path].at("metadata", "name")
        if path != f"agents/{manifest.name}.yaml":
            message = f"the file of agent `{manifest.name}` is not called agents/{manifest.name}.yaml"
            self.findings.append(finding.warning(path, message, line=line, column=column))
        foreign = manifest.api_version == FOREIGN_API_VERSION
        if foreign:
            line, column = self._trees[path].at("apiVersion")
            self.findings.append(
                finding.Finding(
                    path=path,
                    line=line,
                    column=column,
                    severity=Severity.NOTICE,
                    message=f"`{FOREIGN_API_VERSION}` is read as `holdfast.dev/v1`",
                )
            )
        for index, entry in enumerate(manifest.spec.data_access or ()):
            if entry.rate_limited_by is not None and not foreign:
                line, column = self._trees[path].at("spec", "dataAccess", index, "rateLimitedBy")
                self.findings.append(finding.error(path, "unknown field `rateLimitedBy`", line=line, column=column))

    def _check_intents(self, path: str, suite: Suite) -> None:
        for index, case in enumerate(suite.cases):
            try:
                Intent.from_json(dict(case.intent))
            except InvalidIntent as failure:
                line, column = self._trees[path].at("cases", index, "intent")
                self.findings.append(finding.error(path, f"not an intent: {failure}", line=line, column=column))

    def _count(self, rules: list[Rule], manifests: dict[str, Manifest], catalog: Catalog | None) -> None:
        if len(rules) > MAX_RULES:
            self.findings.append(finding.error(rules[-1].path, f"the bundle has more than {MAX_RULES} rules"))
        if len(manifests) > MAX_AGENTS:
            self.findings.append(finding.error(CATALOG, f"the bundle has more than {MAX_AGENTS} agents"))
        if catalog is not None and len(catalog.actions) > MAX_ACTIONS:
            self.findings.append(finding.error(CATALOG, f"the catalogue has more than {MAX_ACTIONS} actions"))

    def _at(self, path: str, message: str) -> None:
        line, column = self._trees[path].at("metadata", "name")
        self.findings.append(finding.error(path, message, line=line, column=column))
