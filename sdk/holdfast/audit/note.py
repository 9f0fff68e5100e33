"""Signed notes and checkpoints with Ed25519. Pure. Source: C2SP signed-note, C2SP tlog-checkpoint.

A note is text that ends with a newline, an empty line, and signature lines `— name base64(key hash || signature)`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature

from holdfast.audit.merkle import HASH_BYTES, MAX_SIZE
from holdfast.errors import AuditInvalid
from holdfast.token import VerifyKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ED25519: Final = b"\x01"
MAX_NOTE_BYTES: Final = 1 << 20
MAX_SIGNATURES: Final = 100

_NAME: Final = re.compile(r"[^\s+]+")
_KEY_HASH: Final = re.compile(r"[0-9a-f]{8}")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_HASH_BYTES: Final = 4
_CHECKPOINT_LINES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteKey:
    """A named Ed25519 key that notes are trusted by. `key_hash` is 4 bytes."""

    name: str
    key_hash: bytes
    key: VerifyKey

    @classmethod
    def of(cls, name: str, public_bytes: bytes) -> NoteKey:
        """Name a raw public key. Raises: ValueError."""
        if _NAME.fullmatch(name) is None:
            raise ValueError("a key's name has no spaces and no plus sign")
        digest = hashlib.sha256(name.encode() + b"\n" + ED25519 + public_bytes).digest()
        return cls(name=name, key_hash=digest[:_HASH_BYTES], key=VerifyKey.from_public_bytes(public_bytes))

    @classmethod
    def parse(cls, text: str) -> NoteKey:
        """Read a verifier key `name+hash+base64(algorithm || key)`. Raises: AuditInvalid."""
        name, _, rest = text.partition("+")
        key_hash, _, encoded = rest.partition("+")
        try:
            data = _b64(encoded)
            if data[:1] != ED25519 or _KEY_HASH.fullmatch(key_hash) is None:
                raise AuditInvalid("the verifier key is not an Ed25519 key")
            key = cls.of(name, data[1:])
        except ValueError as error:
            raise AuditInvalid(f"the verifier key is malformed: {error}") from error
        if key.key_hash.hex() != key_hash:
            raise AuditInvalid("the verifier key's hash is not its own")
        return key

    def __str__(self) -> str:
        encoded = base64.b64encode(ED25519 + self.key.public_bytes).decode("ascii")
        return f"{self.name}+{self.key_hash.hex()}+{encoded}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A note with at least one good signature. `signers` are the keys that signed it."""

    text: str
    signers: tuple[NoteKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a log's note commits to. `root` is 32 bytes."""

    origin: str
    size: int
    root: bytes


def sign_note(text: str, name: str, private_key: Ed25519PrivateKey) -> bytes:
    """Return the signed note. Raises: AuditInvalid for text that no note holds."""
    _check_text(text)
    key = NoteKey.of(name, private_key.public_key().public_bytes_raw())
    signature = base64.b64encode(key.key_hash + private_key.sign(text.encode())).decode("ascii")
    return f"{text}\n\N{EM DASH} {name} {signature}\n".encode()


def verify_note(note: bytes, keys: Iterable[NoteKey]) -> Note:
    """Read a note that at least one of `keys` signed. Raises: AuditInvalid.

    A signature by an unknown key is passed over. A wrong one by a known key spoils the note.
    """
    text, lines = _parts(note)
    trusted = {(key.name, key.key_hash): key for key in keys}
    signers: dict[tuple[str, bytes], NoteKey] = {}
    for line in lines:
        name, data = _signature(line)
        place = name, data[:_HASH_BYTES]
        key = trusted.get(place)
        if key is None:
            continue
        if place in signers:
            raise AuditInvalid("a key signed the note twice")
        try:
            key.key.key.verify(data[_HASH_BYTES:], text.encode())
        except InvalidSignature as error:
            raise AuditInvalid(f"the signature of `{name}` does not verify") from error
        signers[place] = key
    if not signers:
        raise AuditInvalid("no known key signed the note")
    return Note(text=text, signers=tuple(signers.values()))


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a log's note; extension lines are passed over. Raises: AuditInvalid."""
    lines = text.split("\n")[:-1]
    if len(lines) < _CHECKPOINT_LINES or not all(lines):
        raise AuditInvalid("a checkpoint has an origin, a size and a root")
    origin, size, encoded = lines[:_CHECKPOINT_LINES]
    try:
        digest = _b64(encoded)
    except ValueError as error:
        raise AuditInvalid("the root is not base64") from error
    if _SIZE.fullmatch(size) is None or int(size) > MAX_SIZE or len(digest) != HASH_BYTES:
        raise AuditInvalid("the size or the root is malformed")
    return Checkpoint(origin=origin, size=int(size), root=digest)


def checkpoint_text(checkpoint: Checkpoint) -> str:
    """Return the text to sign, without extension lines."""
    return f"{checkpoint.origin}\n{checkpoint.size}\n{base64.b64encode(checkpoint.root).decode('ascii')}\n"


def _parts(note: bytes) -> tuple[str, list[str]]:
    if len(note) > MAX_NOTE_BYTES:
        raise AuditInvalid("the note is too large")
    try:
        whole = note.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise AuditInvalid("the note is not UTF-8") from error
    text, separator, signatures = whole.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise AuditInvalid("the note has no signatures")
    text += "\n"
    _check_text(text)
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise AuditInvalid("the note has too many signatures")
    return text, lines


def _check_text(text: str) -> None:
    if not text.endswith("\n") or any(character < " " and character != "\n" for character in text):
        raise AuditInvalid("a note's text ends with a newline and has no other control characters")


def _signature(line: str) -> tuple[str, bytes]:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    if dash != "\N{EM DASH}" or _NAME.fullmatch(name) is None:
        raise AuditInvalid("a signature line is malformed")
    try:
        data = _b64(encoded)
    except ValueError as error:
        raise AuditInvalid("a signature is not base64") from error
    if len(data) <= _HASH_BYTES:
        raise AuditInvalid("a signature is too short")
    return name, data


def _b64(text: str) -> bytes:
    """Return the bytes of canonical padded base64. Raises: ValueError."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if base64.b64encode(data).decode("ascii") != text:
        raise ValueError("not canonical base64")
    return data
