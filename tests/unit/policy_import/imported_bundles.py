"""Import a source from text, and ask the bundle that came of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from holdfast.intent import Context, Intent, Resource

from console.policy_import.formats import FORMATS, Options
from console.policy_import.source import Imported, NoteKind, Source
from services.decision.bundle import read_bundle
from services.decision.finding import BundleInvalid, Severity
from services.decision.golden import run_suites
from services.decision.lint import lint
from services.decision.policy import Classified, Policy, Request
from services.decision.verdict import Allow, Hold

FRIDAY_NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
STRICTNESS = {"allow": 0, "hold": 1, "deny": 2}


def imported(format_name: str, *texts: str, **options: Any) -> Imported:
    """Import texts called `source.yaml`, `source-2.yaml` and so on; the result must pass lint and its own tests."""
    sources = [
        Source(path="source.yaml" if index == 1 else f"source-{index}.yaml", data=text.encode())
        for index, text in enumerate(texts, 1)
    ]
    result = FORMATS[format_name].convert(
        sources, Options(**{name: frozenset(value) if name != "agent" else value for name, value in options.items()})
    )
    errors = [found for found in lint(result.files) if found.severity is Severity.ERROR]
    assert errors == []
    bundle = read_bundle(result.files)
    results = run_suites(Policy.compile(bundle), bundle)
    assert results.passed or not results.results
    return result


def refusals(format_name: str, *texts: str, **options: Any) -> list[str]:
    """Return what is wrong with a source, as the command prints it."""
    try:
        imported(format_name, *texts, **options)
    except BundleInvalid as refused:
        return [str(found) for found in refused.findings]
    return []


def notes(result: Imported, kind: NoteKind | None = None) -> list[str]:
    return [str(note) for note in result.notes if kind is None or note.kind is kind]


def omissions(result: Imported) -> list[str]:
    return notes(result, NoteKind.OMISSION)


class Bundle:
    """The policy of an import. Answers are `allow`, `hold` or `deny`; `fits` tells whether the parameters do."""

    def __init__(self, result: Imported) -> None:
        self.policy = Policy.compile(read_bundle(result.files))

    def classify(self, action: str, parameters: dict[str, Any], **said: Any) -> tuple[Intent, Any]:
        kind, _, name = said.get("resource", "any/x").partition("/")
        intent = Intent(
            action=action,
            resource=Resource(type=kind, id=name),
            parameters=parameters,
            context=Context(environment=said.get("environment"), model=said.get("model")),
        )
        return intent, self.policy.classify(intent)

    def fits(self, action: str, parameters: dict[str, Any]) -> bool:
        return isinstance(self.classify(action, parameters)[1], Classified)

    def decide(self, agent: str, action: str, parameters: dict[str, Any] | None = None, **said: Any) -> str:
        intent, classified = self.classify(action, parameters or {}, **said)
        if not isinstance(classified, Classified):
            return "deny"
        now = said.get("now", FRIDAY_NOON)
        risk = self.policy.assess(intent, classified, agent=agent, now=now)
        verdict = self.policy.evaluate(Request(agent=agent, intent=intent, classified=classified, risk=risk, now=now))
        return "allow" if isinstance(verdict, Allow) else "hold" if isinstance(verdict, Hold) else "deny"
