"""A bundle from memory to a folder of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from console.runtime.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_bundle(directory: Path, files: Mapping[str, bytes]) -> bool:
    """Write the files; return False, with nothing written, unless the folder is new or empty.

    Raises: CommandFailed if the disk says no.
    """
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            return False
        for path, data in files.items():
            place = directory / path
            place.parent.mkdir(parents=True, exist_ok=True)
            # INVARIANT: nothing is overwritten, not even what appeared a moment ago.
            with place.open("xb") as file:
                file.write(data)
    except OSError as failure:
        raise CommandFailed(f"`{directory}` cannot be written: {failure.strerror or failure}") from failure
    return True
