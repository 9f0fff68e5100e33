"""`holdfast policy`: look at a bundle before it is used."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from console.cli import policy_diff, policy_import, policy_init, policy_shadow, policy_simulate, policy_store
from services.decision.bundle import read_bundle
from services.decision.finding import BundleInvalid, Severity
from services.decision.golden import run_suites
from services.decision.lint import lint
from services.decision.policy import Policy
from services.policy_files import PolicyFilesUnreadable, read_directory

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from services.decision.finding import Finding
    from services.decision.golden import Result, Results


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `policy` with all that it can do."""
    policy = subparsers.add_parser("policy", help="check and test a policy bundle")
    commands = policy.add_subparsers(dest="policy_command", required=True, metavar="COMMAND")

    check = commands.add_parser("lint", help="print what is wrong with a bundle, as file:line: message")
    check.add_argument("directory", type=Path, metavar="DIR")
    check.add_argument("--strict", action="store_true", help="warnings are errors")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=run_lint)

    test = commands.add_parser("test", help="run the bundle's golden tests")
    test.add_argument("directory", type=Path, metavar="DIR")
    test.add_argument("--json", action="store_true", help="print JSON")
    test.add_argument("--junit", type=Path, metavar="FILE", help="write a JUnit report too")
    test.set_defaults(run=run_test)

    policy_import.add(commands)
    policy_init.add(commands)
    for module in (policy_store, policy_diff, policy_simulate, policy_shadow):
        module.register(commands)


def run_lint(arguments: argparse.Namespace) -> int:
    """Print the findings and return 1 if the bundle may not be used (with `--strict`: or has warnings)."""
    try:
        findings = lint(read_directory(arguments.directory))
    except PolicyFilesUnreadable as unreadable:
        return _unreadable(unreadable)
    refusing = {Severity.ERROR, Severity.WARNING} if arguments.strict else {Severity.ERROR}
    refused = [found for found in findings if found.severity in refusing]
    if arguments.json:
        print(json.dumps({"ok": not refused, "findings": [_finding(found) for found in findings]}, indent=2))
    else:
        _print_findings(findings, refusing)
        print(f"{_counted(findings)}: {'refused' if refused else 'ok'}", file=sys.stderr)
    return 1 if refused else 0


def run_test(arguments: argparse.Namespace) -> int:
    """Run the golden tests, print a table, and return 1 unless there are some and all passed."""
    try:
        bundle = read_bundle(read_directory(arguments.directory))
        results = run_suites(Policy.compile(bundle), bundle)
    except PolicyFilesUnreadable as unreadable:
        return _unreadable(unreadable)
    except BundleInvalid as refused:
        _print_findings(refused.findings, {Severity.ERROR})
        return 1
    if arguments.junit:
        arguments.junit.write_bytes(_junit(results))
    if arguments.json:
        print(json.dumps({"ok": results.passed, "cases": [_case(result) for result in results.results]}, indent=2))
    else:
        _print_results(results)
    return 0 if results.passed else 1


def _unreadable(unreadable: PolicyFilesUnreadable) -> int:
    print(f"holdfast: {unreadable}", file=sys.stderr)
    return 1


def _print_findings(findings: Iterable[Finding], refusing: set[Severity]) -> None:
    for found in findings:
        prefix = "" if found.severity in refusing else f"{found.severity}: "
        print(f"{found.path}:{found.line}: {prefix}{found.message}")


def _counted(findings: Iterable[Finding]) -> str:
    severities = [found.severity for found in findings]
    return f"{severities.count(Severity.ERROR)} errors, {severities.count(Severity.WARNING)} warnings"


def _finding(found: Finding) -> dict[str, str | int]:
    return {
        "file": found.path,
        "line": found.line,
        "column": found.column,
        "severity": str(found.severity),
        "message": found.message,
    }


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


def _print_results(results: Results) -> None:
    width = max((len(result.name) for result in results.results), default=0)
    for result in results.results:
        answer = result.answer
        risk = "" if answer.risk is None else f"risk {answer.risk}"
        outcome = "passed" if result.passed else "FAILED"
        row = f"{outcome}  {result.suite:<12} {result.name:<{width}}  {answer.decision:<5} {answer.reason_code:<22}"
        print(f"{row} {risk}".rstrip())
    for result in results.failed:
        for difference in result.differences:
            print(f"{result.path}:{result.line}: {result.name}: {difference}")
    if not results.results:
        print("the bundle has no tests")
    print(f"{len(results.results) - len(results.failed)} of {len(results.results)} cases passed")


def _junit(results: Results) -> bytes:
    """Return a report in the JUnit format that CI systems read."""
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
    report: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return report
