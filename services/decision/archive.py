"""A bundle's files as one run of bytes, for a store that is not believed: whoever unpacks checks the digest."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import TYPE_CHECKING, Final

from services.decision import bundle

if TYPE_CHECKING:
    from collections.abc import Mapping

_LEVEL: Final = 6
#: JSON and base64 around the most bytes and the longest names that a bundle may have.
_MAX_UNPACKED: Final = 2 * bundle.MAX_TOTAL_BYTES


class ArchiveDamaged(Exception):
    """The bytes are not the packed files of the bundle they should be; the text says why."""


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the files, compressed: a zlib stream of a JSON object from path to base64."""
    document = {path: base64.b64encode(files[path]).decode("ascii") for path in sorted(files)}
    return zlib.compress(json.dumps(document).encode("ascii"), _LEVEL)


def unpack(archive: bytes, digest: str) -> dict[str, bytes]:
    """Return the files that were packed. Raises: ArchiveDamaged unless they have this digest."""
    inflating = zlib.decompressobj()
    try:
        text = inflating.decompress(archive, _MAX_UNPACKED)
        document = json.loads(text)
        if inflating.unconsumed_tail or not inflating.eof or not isinstance(document, dict):
            raise ArchiveDamaged("the archive is cut off, too large, or no object")
        files = {path: base64.b64decode(data, validate=True) for path, data in document.items()}
    except (zlib.error, ValueError, TypeError, RecursionError, binascii.Error) as error:
        raise ArchiveDamaged(f"the archive cannot be read: {error}") from error
    found = bundle.digest(files)
    if found != digest:
        raise ArchiveDamaged(f"the archive holds the bundle {found}, not {digest}")
    return files
