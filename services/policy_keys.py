"""Who may publish policies: signatures over a bundle's digest, and the keys that are trusted to make them.

A signature is a line `KEY_ID:SIGNATURE`: the RFC 7638 thumbprint of an Ed25519 key, and base64url without padding.
Without a file of keys nothing is asked for; with one, INVARIANT: what no trusted key vouches for is never published,
and a file that cannot be read, or holds no key, trusts nobody.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from holdfast.token import VerifyKey

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Beside the bundle's files, and no part of its digest: dotfiles are left out of it.
SIGNATURES: Final = ".signatures"
MAX_SIGNATURES: Final = 16
MAX_KEYS: Final = 64
_MAX_BYTES: Final = 64 << 10
_DOMAIN: Final = b"holdfast-bundle-signature/v1\n"
_LINE: Final = re.compile(r"[A-Za-z0-9_-]{43}:[A-Za-z0-9_-]{86}")
_PEM: Final = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


class NotTrusted(Exception):
    """No trusted key vouches for the bundle; the text says why."""


class SignaturesMalformed(Exception):
    """The text does not hold signatures."""


class TrustedKeys:
    """The keys in a file of PEM public keys, read again for each question; `path` None asks for no signature."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def vouch(self, digest: str, signatures: Iterable[str]) -> str | None:
        """Return the id of the trusted key that signed the digest; None where none is needed. Raises: NotTrusted."""
        if self._path is None:
            return None
        keys = {key.kid: key for key in _read_keys(self._path)}
        for line in signatures:
            if _LINE.fullmatch(line) is None:
                continue
            key_id, _, text = line.partition(":")
            if key_id in keys and _is_signed(keys[key_id].key, digest, text):
                return key_id
        raise NotTrusted(f"no trusted key signed the bundle {digest}: `holdfast policy sign` does")


def _is_signed(key: Ed25519PublicKey, digest: str, text: str) -> bool:
    try:
        signature = base64.urlsafe_b64decode(text + "==")
        key.verify(signature, _DOMAIN + digest.encode("ascii", "strict"))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    # One signature has one text, so that a line is stored once.
    return _encoded(signature) == text


def _read_keys(path: Path) -> list[VerifyKey]:
    """Return the trusted keys. Raises: NotTrusted unless every key in the file is one to trust."""
    try:
        with path.open("rb") as file:
            return _public_keys(file.read(_MAX_BYTES + 1))
    except (OSError, ValueError) as error:
        raise NotTrusted(f"the trusted keys in `{path}` cannot be used: {error}") from error


def _public_keys(data: bytes) -> list[VerifyKey]:
    """Return the keys in a PEM text. Raises: ValueError unless it holds keys to trust, and nothing else."""
    if len(data) > _MAX_BYTES or _PEM.sub(b"", data).strip():
        raise ValueError("it is too large, or holds something beside public keys in PEM")
    found = [_public_key(block) for block in _PEM.findall(data)]
    if not 1 <= len(found) <= MAX_KEYS:
        raise ValueError(f"it holds {len(found)} keys, and not 1 to {MAX_KEYS}")
    return found


def _public_key(block: bytes) -> VerifyKey:
    """Return one key. Raises: ValueError for another kind of key, or one of small order, which signs for everybody."""
    try:
        key = serialization.load_pem_public_key(block)
    except (UnsupportedAlgorithm, TypeError) as error:
        raise ValueError(f"a key cannot be read: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("a key is not an Ed25519 key")  # noqa: TRY004 - it is the file that is wrong
    return VerifyKey.from_public_bytes(key.public_bytes_raw())


def sign(key: Ed25519PrivateKey, digest: str) -> str:
    """Return the signature over a bundle's digest, as a line."""
    key_id = VerifyKey.from_public_bytes(key.public_key().public_bytes_raw()).kid
    return f"{key_id}:{_encoded(key.sign(_DOMAIN + digest.encode('ascii')))}"


def read_signatures(text: str) -> tuple[str, ...]:
    """Return the signatures in a text, one to a line. Raises: SignaturesMalformed."""
    lines = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if len(lines) > MAX_SIGNATURES:
        raise SignaturesMalformed(f"there are more than {MAX_SIGNATURES} signatures")
    for number, line in enumerate(lines, 1):
        if _LINE.fullmatch(line) is None:
            raise SignaturesMalformed(f"line {number} is not a signature such as `holdfast policy sign` makes")
    return lines


def read_signature_file(directory: Path) -> tuple[str, ...]:
    """Return the signatures beside a bundle's files; none without the file. Raises: SignaturesMalformed."""
    path = directory / SIGNATURES
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
        return read_signatures(data.decode("ascii"))
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError, SignaturesMalformed) as error:
        raise SignaturesMalformed(f"`{path}` cannot be read as signatures: {error}") from error


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
