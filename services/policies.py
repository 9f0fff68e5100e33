"""The active bundle of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.decision.bundle import read_bundle
from services.decision.policy import Policy
from services.policy_files import read_directory

if TYPE_CHECKING:
    from pathlib import Path


class LoadedPolicy:
    """The PolicySource of a bundle that was read from a local directory at start: it has no lease to lose."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def current(self) -> Policy:
        """Return the policy."""
        return self._policy

    def check_lease(self) -> None:
        """Return: what was read from a local directory is not leased."""


def load_policy(directory: Path) -> Policy:
    """Read and compile a bundle. Raises: BundleInvalid, with every finding."""
    return Policy.compile(read_bundle(read_directory(directory)))
