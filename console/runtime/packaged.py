"""Find a program that came in a wheel, without running the wheel's own code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from console.runtime.failure import CommandFailed


def package_directory(package: str) -> Path:
    """Return the directory of an installed package. Raises: CommandFailed if it is not installed."""
    specification = importlib.util.find_spec(package)
    if specification is None or not specification.submodule_search_locations:
        raise CommandFailed(f"the package `{package}` is not installed; run `make install`")
    return Path(next(iter(specification.submodule_search_locations)))


def programs(package: str, pattern: str) -> list[Path]:
    """Return the files of a package that match a glob, sorted. Raises: CommandFailed if there is none."""
    found = sorted(path for path in package_directory(package).glob(pattern) if path.is_file())
    if not found:
        raise CommandFailed(f"the package `{package}` holds no `{pattern}` for this machine")
    return found
