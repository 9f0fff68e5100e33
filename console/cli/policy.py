"""`holdfast policy`: look at a bundle before it is used."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from console.cli import (
    policy_diff,
    policy_golden,
    policy_import,
    policy_init,
    policy_shadow,
    policy_sign,
    policy_simulate,
    policy_store,
)
from services.decision.finding import Severity
from services.decision.lint import lint
from services.policy_files import PolicyFilesUnreadable, read_directory

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from services.decision.finding import Finding


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `policy` with all that it can do."""
    policy = subparsers.add_parser("policy", help="check and test a policy bundle")
    commands = policy.add_subparsers(dest="policy_command", required=True, metavar="COMMAND")

    check = commands.add_parser("lint", help="print what is wrong with a bundle, as file:line: message")
    check.add_argument("directory", type=Path, metavar="DIR")
    check.add_argument("--strict", action="store_true", help="warnings are errors")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=run_lint)

    policy_golden.register(commands)
    policy_import.add(commands)
    policy_init.add(commands)
    for module in (policy_store, policy_diff, policy_simulate, policy_shadow, policy_sign):
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
