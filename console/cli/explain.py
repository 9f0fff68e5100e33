"""`holdfast explain`: which rule, which condition, which values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from console.runtime.bundles import guarded, open_store
from console.runtime.failure import CommandFailed
from console.runtime.state import add_database_options
from services.decision.explain import Holds, NotExplained
from services.explaining import Explainer, NoSuchDecision, NotDecided
from services.postgres.decisions import DecisionDamaged, PostgresDecisions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from console.cli.subparsers import Subparsers
    from services.decision.explain import ExplainedRule, Part
    from services.explaining import Explained

_MARKS: Final = {Holds.YES: "yes", Holds.NO: "NO", Holds.ERROR: "ERROR", Holds.NOT_REACHED: "-"}


def register(subparsers: Subparsers) -> None:
    """Add `explain`."""
    parser = subparsers.add_parser(
        "explain", help="say why an intent was decided as it was: rule, condition, values", allow_abbrev=False
    )
    parser.add_argument("intent_id", metavar="INT_ID")
    parser.add_argument("--all", action="store_true", help="print the rules that did not match too")
    add_database_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Explain one intent. Raises: CommandFailed."""
    explained = guarded(_explain(arguments))
    if arguments.json:
        print(json.dumps(explained.to_json(), indent=2))
    else:
        print("\n".join(_text(explained, every=arguments.all)))
    return 0


async def _explain(arguments: argparse.Namespace) -> Explained:
    async with open_store(arguments) as store:
        explainer = Explainer(PostgresDecisions(store.pool), store.bundles)
        try:
            return await explainer.explain(arguments.intent_id)
        except (NoSuchDecision, NotDecided, NotExplained, DecisionDamaged) as error:
            raise CommandFailed(str(error)) from error


def _text(explained: Explained, *, every: bool) -> Iterator[str]:
    recorded, explanation = explained.recorded, explained.explanation
    yield f"{recorded.intent_id}  {recorded.agent}: {recorded.intent.action} on {recorded.intent.resource}"
    yield f"{recorded.decision} ({recorded.reason_code}): {recorded.detail}"
    yield f"decided {recorded.at.isoformat(timespec='milliseconds')} by {recorded.bundle}"
    if recorded.risk is not None:
        factors = ", ".join(f"{factor.name} {factor.points}" for factor in recorded.risk.factors)
        yield f"risk {recorded.risk.score} ({recorded.risk.tier}): {factors or 'no factor'}"
    if not explained.as_recorded:
        answer = explanation.answer
        yield f"by the rules alone it is: {answer.decision} ({answer.reason_code}): {answer.detail}"
    for rule in explanation.rules:
        if rule.matched or every:
            yield from _rule(rule)
    if explanation.nearest:
        yield "no rule permits it; the nearest:"
        for rule in explanation.nearest:
            yield from _rule(rule)


def _rule(found: ExplainedRule) -> Iterator[str]:
    rule = found.rule
    effect = "forbid" if rule.forbids else "permit"
    outcome = "matched" if found.matched else "speaks of another action or agent" if not found.in_scope else "no match"
    why = f" - {rule.reason}" if rule.reason else ""
    yield f"  {effect} `{rule.id}` ({rule.path}:{rule.line}): {outcome}{why}"
    for part in found.parts:
        yield from _part(part)


def _part(part: Part) -> Iterator[str]:
    yield f"    {_MARKS[part.holds]:>5}  {'unless' if part.unless else 'when'} {part.text}"
    for value in part.values:
        yield f"           {value.name} is {json.dumps(value.value) if value.present else 'absent'}"
