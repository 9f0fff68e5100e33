"""What every process of the service does at its start, and how it says why it does not start."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from pydantic import ValidationError

from services.settings import Settings

if TYPE_CHECKING:
    from services.decision.finding import BundleInvalid


def configure_logging() -> None:
    """Log to standard error, a line each."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def read_settings(**given: str) -> Settings | None:
    """Return the settings from the environment, or say what is missing or wrong, never a value, and return None."""
    try:
        return Settings(**given)  # type: ignore[arg-type] # pydantic checks; the environment fills the rest
    except ValidationError as error:
        for problem in error.errors():
            name = "HOLDFAST_" + "_".join(str(part) for part in problem["loc"]).upper()
            _say(f"{name}: {problem['msg']}")
        return None


def refuse_bundle(error: BundleInvalid) -> int:
    """Say what is wrong with the policies, a line each, and return the exit status."""
    for finding in error.findings:
        _say(str(finding))
    return 1


def refuse(why: str) -> int:
    """Say why the process does not start, and return the exit status."""
    _say(why)
    return 1


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 - the reason for not starting goes to whoever started it
