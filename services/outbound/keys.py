"""The private keys that webhooks to agents' receivers are signed with: a file of mode 0600, one `whsk_` key a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.outbound.signature import KeyMalformed, decode_private
from signer import private_file
from signer.private_file import UnsafeFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: One signs, another is being introduced. Every message carries a signature by each.
MAX_KEYS: Final = 4
_MAX_BYTES: Final = 1024


def read_private_keys(path: Path) -> Sequence[Ed25519PrivateKey]:
    """Return the keys in a file. Raises: KeyMalformed, which quotes no key."""
    try:
        text = private_file.read(path, forbidden=private_file.NOT_PRIVATE, max_bytes=_MAX_BYTES).decode("ascii")
    except UnsafeFile as error:
        raise KeyMalformed(str(error)) from error
    except UnicodeDecodeError:
        raise KeyMalformed(f"`{path}` holds no webhook keys") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not 0 < len(lines) <= MAX_KEYS:
        raise KeyMalformed(f"`{path}` holds no key, or more than {MAX_KEYS}")
    return tuple(decode_private(line) for line in lines)
