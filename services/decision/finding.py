"""What is wrong with a policy bundle, and where."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Severity(StrEnum):
    """An error refuses the bundle; a warning does under `--strict`; a notice never does."""

    ERROR = "error"
    WARNING = "warning"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Finding:
    """One finding. Lines and columns start at 1; a finding on a file as a whole stands at 1:1."""

    path: str
    line: int
    column: int
    severity: Severity
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


class BundleInvalid(Exception):
    """The bundle may not be used. `findings` holds at least one error, in file order, warnings included."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(sorted(set(findings)))
        errors = [finding for finding in self.findings if finding.severity is Severity.ERROR]
        first = str(errors[0]) if errors else "no finding was given"
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"the policy bundle is invalid: {first}{more}")


def error(path: str, message: str, *, line: int = 1, column: int = 1) -> Finding:
    """Return an error at a place."""
    return Finding(path=path, line=line, column=column, severity=Severity.ERROR, message=message)


def warning(path: str, message: str, *, line: int = 1, column: int = 1) -> Finding:
    """Return a warning at a place."""
    return Finding(path=path, line=line, column=column, severity=Severity.WARNING, message=message)
