"""A policy bundle on disk: read as bytes, judged elsewhere."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.decision import bundle

if TYPE_CHECKING:
    from collections.abc import Iterator


MAX_DEPTH: Final = 8


class PolicyFilesUnreadable(Exception):
    """The directory cannot be read as a bundle; the text says why."""


def read_directory(path: Path | str) -> dict[str, bytes]:
    """Return every file of the bundle by its path relative to `path`, with `/` between parts. Dotfiles are left out.

    Raises: PolicyFilesUnreadable for a missing or empty directory, a link that leaves it, anything that is not a
    regular file, a name that is not UTF-8, or more than the bounds of a bundle.
    """
    root = Path(path)
    try:
        if not root.is_dir():
            raise PolicyFilesUnreadable(f"`{root}` is not a directory")
        files = _read(root)
    except OSError as failure:
        raise PolicyFilesUnreadable(f"`{root}` cannot be read: {failure.strerror or failure}") from failure
    if not files:
        raise PolicyFilesUnreadable(f"`{root}` holds no policy files")
    return files


def _read(root: Path) -> dict[str, bytes]:
    inside = root.resolve(strict=True)
    files: dict[str, bytes] = {}
    total = 0
    for name, location in _walk(root, inside, ""):
        if not stat.S_ISREG(location.stat().st_mode):
            raise PolicyFilesUnreadable(f"`{name}` is not a regular file")
        with location.open("rb") as file:
            # One byte more than allowed, so that `read_bundle` names the file that is too large.
            data = file.read(bundle.MAX_FILE_BYTES + 1)
        total += len(data)
        if len(files) >= bundle.MAX_FILES or total > bundle.MAX_TOTAL_BYTES:
            raise PolicyFilesUnreadable(f"`{root}` is larger than a bundle may be")
        files[name] = data
    return files


def _walk(folder: Path, inside: Path, prefix: str, above: tuple[Path, ...] = ()) -> Iterator[tuple[str, Path]]:
    """Yield each file's relative name and place. Links are followed only to what lies inside the bundle."""
    real = folder.resolve(strict=True)
    if real in above or len(above) > MAX_DEPTH:
        raise PolicyFilesUnreadable(f"`{prefix}` is nested too deeply, or links to itself")
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        name = prefix + _text(entry.name)
        if not entry.resolve(strict=True).is_relative_to(inside):
            raise PolicyFilesUnreadable(f"`{name}` is a link that leaves the bundle")
        if entry.is_dir():
            yield from _walk(entry, inside, f"{name}/", (*above, real))
        else:
            yield name, entry


def _text(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as failure:
        raise PolicyFilesUnreadable("a file's name is not UTF-8") from failure
    return name
