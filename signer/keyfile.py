"""The signing key at rest: one file per key, sealed under a passphrase.

A key file is a small JSON object that names everything needed to open it. The private key is sealed with AES-256-GCM
(NIST SP 800-38D) under a key that scrypt (RFC 7914) makes of the passphrase; every other member is authenticated with
it. Each file carries its own `kid` and `state`, so a directory of such files can hold several keys.

What this protects from: somebody who gets the key file alone, as in a backup, an image layer, a copied volume or a
support bundle that left the passphrase behind; and a key file that was changed or mixed up. What it does not protect
from: whoever can read both files, root on this machine, or anyone who can read the signer's memory. Keep the passphrase
on another medium (a secret mount, a tmpfs, a systemd credential); for the rest the key belongs in an HSM.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from holdfast import strict_json
from holdfast.errors import MalformedJSON
from holdfast.token import ALG, VerifyKey, b64url

from signer import private_file
from signer.private_file import UnsafeFile

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.strict_json import JSON

FORMAT: Final = "holdfast-signing-key/v1"
SCRYPT_N: Final = 2**17  # 128 MiB and a third of a second, once per start. Source: OWASP password storage
_LEAST_N: Final = 2**15
_MOST_N: Final = 2**20
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_SEED_BYTES: Final = 32
_TAG_BYTES: Final = 16
_MAX_KEY_FILE_BYTES: Final = 4096
_LEAST_PASSPHRASE_BYTES: Final = 16
_MAX_PASSPHRASE_BYTES: Final = 1024
_MEMBERS: Final = frozenset(
    {"format", "kid", "x", "state", "created_at", "kdf", "n", "salt", "cipher", "nonce", "sealed"}
)

_EDDSA: Final = jwt.get_algorithm_by_name(ALG)


class KeyFileError(Exception):
    """The key or its passphrase cannot be used. The signer must not start, and must not make a new key instead."""


class KeyState(StrEnum):
    """What a key is for: published before use, signing, published until its last token has expired."""

    PENDING = "pending"
    ACTIVE = "active"
    RETIRING = "retiring"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """One opened key. `created_at` is seconds since the epoch."""

    private: Ed25519PrivateKey = field(repr=False)
    public: VerifyKey
    state: KeyState = KeyState.ACTIVE
    created_at: int = 0

    @classmethod
    def from_seed(cls, seed: bytes, *, state: KeyState = KeyState.ACTIVE, created_at: int = 0) -> SigningKey:
        """Take the 32 bytes of RFC 8032. Raises: ValueError for another length."""
        private = Ed25519PrivateKey.from_private_bytes(seed)
        public = VerifyKey.from_public_bytes(private.public_key().public_bytes_raw())
        return cls(private=private, public=public, state=state, created_at=created_at)

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the Ed25519 signature, by the same code that signs tokens."""
        signature: bytes = _EDDSA.sign(message, self.private)
        return signature


def load_or_create(path: Path, passphrase_path: Path, *, now: int, n: int = SCRYPT_N) -> SigningKey:
    """Open the key at `path`, or make one if nothing at all has that name. Raises: KeyFileError."""
    passphrase = read_passphrase(passphrase_path)
    if not os.path.lexists(path):
        try:
            create(path, passphrase, now=now, n=n)
        except FileExistsError:  # another signer was first; its key is as good
            pass
        except OSError as error:
            raise KeyFileError(f"cannot create the key file `{path}`: {error.strerror}") from error
    # INVARIANT: what is used is what can be read back.
    return load(path, passphrase)


def read_passphrase(path: Path) -> bytes:
    """Return the passphrase without the line end that editors add. Raises: KeyFileError."""
    try:
        data = private_file.read(path, forbidden=private_file.NOT_PRIVATE, max_bytes=_MAX_PASSPHRASE_BYTES)
    except UnsafeFile as error:
        raise KeyFileError(f"the passphrase file is refused: {error}") from error
    passphrase = data.removesuffix(b"\n").removesuffix(b"\r")
    if len(passphrase) < _LEAST_PASSPHRASE_BYTES:
        raise KeyFileError(f"the passphrase has fewer than {_LEAST_PASSPHRASE_BYTES} bytes")
    return passphrase


def create(path: Path, passphrase: bytes, *, now: int, n: int = SCRYPT_N) -> None:
    """Make a new key and put it at `path`, durable, mode 0600. Raises: FileExistsError, OSError."""
    private_file.create(path, seal(os.urandom(_SEED_BYTES), passphrase, created_at=now, n=n))


def load(path: Path, passphrase: bytes) -> SigningKey:
    """Open the key at `path`. Raises: KeyFileError."""
    try:
        data = private_file.read(path, forbidden=private_file.NOT_PRIVATE, max_bytes=_MAX_KEY_FILE_BYTES)
    except UnsafeFile as error:
        raise KeyFileError(f"the key file is refused: {error}") from error
    try:
        return unseal(data, passphrase)
    except KeyFileError as error:
        raise KeyFileError(f"the key file `{path}` does not open: {error}") from error


def seal(
    seed: bytes, passphrase: bytes, *, created_at: int, state: KeyState = KeyState.ACTIVE, n: int = SCRYPT_N
) -> bytes:
    """Return the key file's bytes for a 32-byte seed. The salt is fresh, so no sealing key is used twice."""
    key = SigningKey.from_seed(seed)
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    envelope: dict[str, JSON] = {
        "format": FORMAT,
        "kid": key.public.kid,
        "x": b64url(key.public.public_bytes),
        "state": state.value,
        "created_at": created_at,
        "kdf": "scrypt-r8-p1",
        "n": n,
        "salt": salt.hex(),
        "cipher": "aes-256-gcm",
        "nonce": nonce.hex(),
    }
    sealed = AESGCM(_derive(passphrase, salt, n)).encrypt(nonce, seed, _authenticated(envelope))
    return json.dumps(envelope | {"sealed": sealed.hex()}, indent=1).encode("ascii") + b"\n"


def unseal(data: bytes, passphrase: bytes) -> SigningKey:
    """Open a key file's bytes. Raises: KeyFileError, which says whether the file or the passphrase is to blame."""
    # 1. The closed form, before any work is done on its word.
    try:
        envelope = strict_json.loads(data, max_depth=1)
    except MalformedJSON as error:
        raise KeyFileError(f"it is corrupt: {error}") from error
    if not isinstance(envelope, dict) or envelope.keys() != _MEMBERS:
        raise KeyFileError("it is corrupt: its members are not those of a key file")
    for name, expected in (("format", FORMAT), ("kdf", "scrypt-r8-p1"), ("cipher", "aes-256-gcm")):
        if envelope[name] != expected:
            raise KeyFileError(f"its `{name}` is not `{expected}`")
    n, created_at, state = envelope["n"], envelope["created_at"], envelope["state"]
    if not isinstance(n, int) or not _LEAST_N <= n <= _MOST_N or n & (n - 1):
        raise KeyFileError("its scrypt cost is out of bounds")
    if not isinstance(created_at, int) or isinstance(created_at, bool):
        raise KeyFileError("it is corrupt: `created_at`")
    if not isinstance(state, str) or state not in KeyState.__members__.values():
        raise KeyFileError("its `state` is not known")
    salt, nonce = _hex(envelope, "salt", _SALT_BYTES), _hex(envelope, "nonce", _NONCE_BYTES)
    sealed = _hex(envelope, "sealed", _SEED_BYTES + _TAG_BYTES)
    # 2. Open it. GCM cannot tell a wrong passphrase from a changed file.
    authenticated = _authenticated({name: value for name, value in envelope.items() if name != "sealed"})
    try:
        seed = AESGCM(_derive(passphrase, salt, n)).decrypt(nonce, sealed, authenticated)
    except InvalidTag as error:
        raise KeyFileError("the passphrase is wrong, or the file was changed") from error
    # 3. The key is the one that the file names, and it works.
    key = SigningKey.from_seed(seed, state=KeyState(state), created_at=created_at)
    if (envelope["kid"], envelope["x"]) != (key.public.kid, b64url(key.public.public_bytes)):
        raise KeyFileError("it names another public key than the one it holds")
    return key


def _derive(passphrase: bytes, salt: bytes, n: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=n, r=8, p=1).derive(passphrase)


def _authenticated(envelope: dict[str, JSON]) -> bytes:
    return json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode("ascii")


def _hex(envelope: dict[str, JSON], name: str, length: int) -> bytes:
    value = envelope[name]
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != length:
        raise KeyFileError(f"it is corrupt: `{name}`")
    return data
