"""The signer's files: which tokens it may sign, derived from the policies, and the passphrase of its key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from console.runtime.directory import secret_file, write_private
from console.runtime.failure import CommandFailed

if TYPE_CHECKING:
    from holdfast.strict_json import JSON

    from services.decision.catalog import Executor


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

    def write(self, executors: Mapping[str, Executor], *, issuer: str) -> None:
        """Write the profile, and the passphrase if there is none. Raises: CommandFailed."""
        try:
            write_private(self.profile, json.dumps(signer_profile(executors, issuer=issuer), indent=1) + "\n")
            secret_file(self.passphrase)
        except OSError as error:
            raise CommandFailed(f"cannot write the signer's files in `{self.directory}`: {error.strerror}") from error


def signer_profile(executors: Mapping[str, Executor], *, issuer: str) -> dict[str, JSON]:
    """Return the profile: ordinary tokens alone, for each executor its own longest life in seconds.

    Raises: CommandFailed without an executor: a signer that may sign for nobody is a mistake.
    """
    if not executors:
        raise CommandFailed("the policies name no executor, so no token could ever be signed")
    audiences: dict[str, JSON] = {name: executor.max_token_seconds for name, executor in executors.items()}
    return {
        "issuer": issuer,
        "audiences": audiences,
        "max_lifetime_s": max(executor.max_token_seconds for executor in executors.values()),
    }
