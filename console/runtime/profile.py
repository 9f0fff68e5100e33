"""The signer's files: which tokens it may sign, derived from the policies, and the passphrase of its key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.reasons import Mode

from console.runtime.directory import secret_file, write_private
from console.runtime.failure import CommandFailed

if TYPE_CHECKING:
    from holdfast.strict_json import JSON

    from services.decision.policy import Policy


@dataclass(frozen=True, slots=True)
class SignerFiles:
    """Where the signer's files lie. The signer makes the key itself."""

    directory: Path

    @property
    def key(self) -> Path:
        """The signing key, sealed with the passphrase."""
        return self.directory / "key.json"

    @property
    def passphrase(self) -> Path:
        """The passphrase, random."""
        return self.directory / "passphrase"

    @property
    def profile(self) -> Path:
        """What may be signed."""
        return self.directory / "profile.json"

    def write(self, policy: Policy, *, issuer: str) -> None:
        """Write the profile, and the passphrase if there is none. Raises: CommandFailed."""
        try:
            write_private(self.profile, json.dumps(signer_profile(policy, issuer=issuer), indent=1) + "\n")
            secret_file(self.passphrase)
        except OSError as error:
            raise CommandFailed(f"cannot write the signer's files in `{self.directory}`: {error.strerror}") from error


def signer_profile(policy: Policy, *, issuer: str) -> dict[str, JSON]:
    """Return the profile: for each executor its own longest life in seconds, and the modes that may ever be needed.

    Break-glass is open only where the bundle has a policy for it.
    """
    executors = policy.executors
    audiences: dict[str, JSON] = {name: executor.max_token_seconds for name, executor in executors.items()}
    return {
        "issuer": issuer,
        "audiences": audiences,
        "max_lifetime_s": max(executor.max_token_seconds for executor in executors.values()),
        "modes": [mode.value for mode in Mode if mode is not Mode.BREAK_GLASS or policy.settings.break_glass],
    }
