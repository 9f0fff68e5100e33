"""The policies, or a refusal that says what is wrong with them and where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from console.runtime.failure import CommandFailed
from services.decision.finding import BundleInvalid, Severity
from services.policies import load_policy
from services.policy_files import PolicyFilesUnreadable

if TYPE_CHECKING:
    from services.decision.policy import Policy


def read_policies(directory: Path) -> Policy:
    """Read and compile the bundle. Raises: CommandFailed, with one `file:line: message` for each error."""
    try:
        return load_policy(directory)
    except PolicyFilesUnreadable as error:
        raise CommandFailed(f"refusing to start without policies: {error}") from error
    except BundleInvalid as error:
        problems = [finding for finding in error.findings if finding.severity is Severity.ERROR]
        lines = "\n".join(f"{directory / finding.path}:{finding.line}: {finding.message}" for finding in problems)
        raise CommandFailed(f"refusing to start: the policies are not valid\n{lines}") from error
