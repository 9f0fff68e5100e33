"""The key that signs webhooks: one line, `whsk_…`, in a file of mode 0600, made the first time it is needed.

It signs messages, never tokens; whoever steals it can forge a notice, and nothing else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.outbound.signature import KeyMalformed, decode_private, encode_private
from signer import private_file
from signer.private_file import UnsafeFile

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES: Final = 256


class KeyUnusable(Exception):
    """The key file is missing where it may not be made, open to others, or holds no key."""


def load(path: Path) -> Ed25519PrivateKey:
    """Read the key. Raises: KeyUnusable."""
    try:
        data = private_file.read(path, forbidden=private_file.NOT_PRIVATE, max_bytes=_MAX_BYTES)
        return decode_private(data.decode("ascii").strip())
    except UnsafeFile as error:
        raise KeyUnusable(str(error)) from error
    except (KeyMalformed, UnicodeDecodeError) as error:
        raise KeyUnusable(f"`{path}` holds no webhook key: `whsk_` and 32 bytes in base64") from error


def load_or_create(path: Path) -> Ed25519PrivateKey:
    """Read the key, or make one if nothing at all has that name. Raises: KeyUnusable."""
    if not os.path.lexists(path):
        text = encode_private(Ed25519PrivateKey.generate()) + "\n"
        try:
            private_file.create(path, text.encode("ascii"))
        except FileExistsError:  # another process was first; its key is as good
            pass
        except OSError as error:
            raise KeyUnusable(f"cannot create `{path}`: {error.strerror}") from error
    return load(path)
