"""A policy bundle on disk: read as bytes, judged elsewhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from services.decision import bundle

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    for name, location in _walk(root):
        if not location.resolve(strict=True).is_relative_to(inside):
            raise PolicyFilesUnreadable(f"`{name}` is a link that leaves the bundle")
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


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    # Links to directories are not followed: they come as files and are refused as such.
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *linked]):
            if name.startswith("."):
                continue
            location = Path(folder) / name
            relative = location.relative_to(root).as_posix()
            try:
                relative.encode("utf-8")
            except UnicodeEncodeError as failure:
                raise PolicyFilesUnreadable("a file's name is not UTF-8") from failure
            yield relative, location
