"""Signed notes, against a published signed log and against forgeries."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from holdfast.audit.merkle import hash_leaf, root
from holdfast.audit.note import Checkpoint, NoteKey, checkpoint_text, parse_checkpoint, sign_note, verify_note
from holdfast.errors import AuditInvalid

LOG = Path(__file__).parents[4] / "shared" / "vectors" / "tlog" / "log"
VERIFIER = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
published = pytest.mark.skipif(not LOG.is_dir(), reason="the published log is not beside the checkout")


@pytest.fixture
def private():
    return Ed25519PrivateKey.generate()


@pytest.fixture
def key(private):
    return NoteKey.of("holdfast.test/log", private.public_key().public_bytes_raw())


@pytest.fixture
def note(private, key):
    return sign_note("holdfast.test/log\n1\n" + "A" * 43 + "=\n", key.name, private)


def test_a_signed_note_verifies(note, key):
    verified = verify_note(note, [key])

    assert verified.signers == (key,)
    assert parse_checkpoint(verified.text) == Checkpoint(origin="holdfast.test/log", size=1, root=bytes(32))
    assert checkpoint_text(parse_checkpoint(verified.text)) == verified.text
    assert NoteKey.parse(str(key)) == key


@published
def test_the_published_checkpoints_verify_and_commit_to_the_published_entries():
    key = NoteKey.parse(VERIFIER)
    assert str(key) == VERIFIER
    bundle = (LOG / "tile" / "entries" / "000.p" / "15").read_bytes()
    leaves, at = [], 0
    while at < len(bundle):
        end = at + 2 + int.from_bytes(bundle[at : at + 2], "big")
        leaves.append(hash_leaf(bundle[at + 2 : end]))
        at = end
    assert len(leaves) == 15
    for size in range(16):
        note = verify_note((LOG / f"checkpoint.{size}").read_bytes(), [key])
        checkpoint = parse_checkpoint(note.text)
        assert (checkpoint.size, checkpoint.root) == (size, root(leaves[:size]))


def test_without_keys_nothing_verifies(note):
    with pytest.raises(AuditInvalid, match="no known key"):
        verify_note(note, [])


def test_a_key_of_the_same_name_is_another_key(note, key):
    other = NoteKey.of(key.name, Ed25519PrivateKey.generate().public_key().public_bytes_raw())

    with pytest.raises(AuditInvalid, match="no known key"):
        verify_note(note, [other])


def test_an_unknown_signature_beside_a_good_one_is_passed_over(note, key):
    extra = "\N{EM DASH} witness.test " + "A" * 92 + "\n"

    assert verify_note(note + extra.encode(), [key]).signers == (key,)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda note: note.replace(b"\n1\n", b"\n2\n"),
        lambda note: note[:-1],
        lambda note: note + note.splitlines(keepends=True)[-1],
        lambda note: note.replace(b"\n\n", b"\n"),
        lambda note: note.replace("\N{EM DASH}".encode(), b"-"),
        lambda note: b"\xff" + note,
        lambda note: note.replace(b"holdfast.test/log\n1", b"holdfast.test/log\r\n1"),
        lambda note: note + b"\n",
        lambda note: note[:-5] + b"\n",
        lambda note: b"",
    ],
    ids=range(10),
)
def test_a_spoiled_note_does_not_verify(note, key, spoil):
    with pytest.raises(AuditInvalid):
        verify_note(spoil(note), [key])


@pytest.mark.parametrize(
    "text",
    ["", "o\n", "o\n1\n", "o\n01\n" + "A" * 43 + "=\n", "o\n-1\n" + "A" * 43 + "=\n", "o\n1\nAAAA\n", "\n1\nAAAA\n"],
)
def test_what_is_not_a_checkpoint_is_refused(text):
    with pytest.raises(AuditInvalid):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "text",
    ["", "a+b", "a+33d7b496+", VERIFIER.replace("33d7b496", "33d7b497"), VERIFIER.replace("+Ae", "+Be"), "a b+1+A"],
)
def test_what_is_not_a_verifier_key_is_refused(text):
    with pytest.raises(AuditInvalid):
        NoteKey.parse(text)


def test_text_that_no_note_holds_is_not_signed(private):
    for text in ("", "no newline", "tab\there\n"):
        with pytest.raises(AuditInvalid):
            sign_note(text, "holdfast.test", private)
    with pytest.raises(ValueError, match="name"):
        sign_note("text\n", "two words", private)
