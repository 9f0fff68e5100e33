"""`holdfast policy test`: the bundle's own cases, and which of its rules they turn on."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from console.runtime.failure import CommandFailed
from services.decision.bundle import read_bundle
from services.decision.coverage import Source
from services.decision.finding import BundleInvalid, Severity
from services.decision.golden import run_suites
from services.decision.policy import Policy
from services.policy_files import PolicyFilesUnreadable, read_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from console.cli.subparsers import Subparsers
    from services.decision.coverage import Coverable, Coverage
    from services.decision.golden import Result, Results

#: How many rules without a test are printed; a fleet of agents has thousands. JSON and JUnit name all.
_SHOWN: Final = 50
_ALL: Final = 100


def register(commands: Subparsers) -> None:
    """Add `test` to `policy`."""
    test = commands.add_parser("test", help="run the bundle's golden tests, and say which rules they cover")
    test.add_argument("directory", type=Path, metavar="DIR")
    test.add_argument("--json", action="store_true", help="print JSON")
    test.add_argument("--junit", type=Path, metavar="FILE", help="write a JUnit report too")
    test.add_argument(
        "--min-coverage", type=_percent, metavar="N", help="exit 1 unless the cases cover N percent of the rules"
    )
    test.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the golden tests, print a table, and return 1 unless there are some, all passed, and they cover enough.

    Raises: CommandFailed.
    """
    try:
        bundle = read_bundle(read_directory(arguments.directory))
    except PolicyFilesUnreadable as unreadable:
        print(f"holdfast: {unreadable}", file=sys.stderr)
        return 1
    except BundleInvalid as refused:
        for found in refused.findings:
            grade = "" if found.severity is Severity.ERROR else f"{found.severity}: "
            print(f"{found.path}:{found.line}: {grade}{found.message}")
        return 1
    results = run_suites(Policy.compile(bundle), bundle)
    uncovered = _too_little(results.coverage, arguments.min_coverage)
    if arguments.junit:
        _write(arguments.junit, _junit(results, uncovered, arguments.min_coverage))
    passed = results.passed and uncovered is None
    if arguments.json:
        cases = [_case(result) for result in results.results]
        print(json.dumps({"ok": passed, "cases": cases, "coverage": _coverage(results.coverage)}, indent=2))
    else:
        print("\n".join(_report(results, uncovered)))
    return 0 if passed else 1


def _too_little(coverage: Coverage, least: int | None) -> str | None:
    """Return what `--min-coverage` has to say against the coverage; a bundle without rules covers nothing."""
    if least is None or coverage.percent >= least:
        return None
    return f"the cases cover {coverage.percent} % of the rules; {least} % are asked for"


# --- for people -------------------------------------------------------------------------------------------------------


def _report(results: Results, uncovered: str | None) -> Iterator[str]:
    yield from _table(results)
    yield from _summary(results.coverage)
    yield f"{len(results.results) - len(results.failed)} of {len(results.results)} cases passed"
    if uncovered is not None:
        yield uncovered


def _table(results: Results) -> Iterator[str]:
    width = max((len(result.name) for result in results.results), default=0)
    for result in results.results:
        answer = result.answer
        risk = "" if answer.risk is None else f"risk {answer.risk}"
        outcome = "passed" if result.passed else "FAILED"
        row = f"{outcome}  {result.suite:<12} {result.name:<{width}}  {answer.decision:<5} {answer.reason_code:<22}"
        yield f"{row} {risk}".rstrip()
    for result in results.failed:
        for difference in result.differences:
            yield f"{result.path}:{result.line}: {result.name}: {difference}"
    if not results.results:
        yield "the bundle has no tests"


def _summary(coverage: Coverage) -> Iterator[str]:
    for rule in coverage.uncovered[:_SHOWN]:
        yield f"{rule.path}:{rule.line}: no test covers {_named(rule)}"
    if len(coverage.uncovered) > _SHOWN:
        yield f"… and {len(coverage.uncovered) - _SHOWN} more, all in --json"
    yield f"{coverage.covered} of {len(coverage.rules)} rules covered ({coverage.percent} %)"


def _named(rule: Coverable) -> str:
    return f"the rule `{rule.id}`" if rule.source is Source.RULE else f"`{rule.id}`"


# --- for programs -----------------------------------------------------------------------------------------------------


def _case(result: Result) -> dict[str, object]:
    return {
        "file": result.path,
        "line": result.line,
        "suite": result.suite,
        "name": result.name,
        "passed": result.passed,
        "differences": list(result.differences),
        "decision": str(result.answer.decision),
        "reason_code": str(result.answer.reason_code),
        "determining": list(result.answer.determining),
        "risk": result.answer.risk,
    }


def _coverage(coverage: Coverage) -> dict[str, object]:
    return {
        "percent": coverage.percent,
        "covered": coverage.covered,
        "total": len(coverage.rules),
        "uncovered": [rule.id for rule in coverage.uncovered],
        "rules": [
            {"id": rule.id, "source": str(rule.source), "file": rule.path, "line": rule.line, "use": str(rule.use)}
            for rule in coverage.rules
        ],
    }


def _junit(results: Results, uncovered: str | None, least: int | None) -> bytes:
    """Return a report in the JUnit format that CI systems read. The coverage is a suite of its own."""
    root = ET.Element("testsuites")
    for name in dict.fromkeys(result.suite for result in results.results):
        cases = [result for result in results.results if result.suite == name]
        failed = sum(not result.passed for result in cases)
        suite = ET.SubElement(root, "testsuite", name=name, tests=str(len(cases)), failures=str(failed))
        for result in cases:
            case = ET.SubElement(
                suite, "testcase", name=result.name, classname=name, file=result.path, line=str(result.line)
            )
            if not result.passed:
                ET.SubElement(case, "failure", message="; ".join(result.differences))
    asked = least is not None
    suite = ET.SubElement(
        root, "testsuite", name="coverage", tests=str(int(asked)), failures=str(int(uncovered is not None))
    )
    properties = ET.SubElement(suite, "properties")
    coverage = results.coverage
    for name, value in (
        ("coverage.percent", str(coverage.percent)),
        ("coverage.covered", str(coverage.covered)),
        ("coverage.total", str(len(coverage.rules))),
        ("coverage.uncovered", " ".join(rule.id for rule in coverage.uncovered)),
    ):
        ET.SubElement(properties, "property", name=name, value=value)
    if asked:
        case = ET.SubElement(suite, "testcase", name=f"{least} % of the rules are covered", classname="coverage")
        if uncovered is not None:
            ET.SubElement(case, "failure", message=uncovered)
    report: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return report


def _write(path: Path, report: bytes) -> None:
    try:
        path.write_bytes(report)
    except OSError as error:
        raise CommandFailed(f"cannot write `{path}`: {error.strerror}") from error


def _percent(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > _ALL:
        raise argparse.ArgumentTypeError(f"`{text}` is not a percentage from 0 to 100")
    return int(text)
