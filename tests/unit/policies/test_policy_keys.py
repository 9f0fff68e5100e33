"""Who may publish: a signature of a trusted key over exactly this bundle, or nobody."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from policy_bundles import files, write

from console.cli.main import main
from services.decision.bundle import digest
from services.policy_keys import (
    MAX_SIGNATURES,
    NotTrusted,
    SignaturesMalformed,
    TrustedKeys,
    read_signature_file,
    read_signatures,
    sign,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
DIGEST = "sha256:" + "0" * 64


def pem(key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def trusted(tmp_path):
    (tmp_path / "keys.pem").write_bytes(pem(OTHER) + b"\n" + pem(KEY))
    return TrustedKeys(tmp_path / "keys.pem")


def test_without_a_file_of_keys_nothing_is_asked_for():
    assert TrustedKeys(None).vouch(DIGEST, ()) is None


def test_a_signature_of_a_trusted_key_vouches_and_is_named(trusted):
    assert trusted.vouch(DIGEST, ["nonsense", sign(KEY, DIGEST)]) == sign(KEY, DIGEST).partition(":")[0]


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("",),
        (sign(KEY, "sha256:" + "1" * 64),),
        (sign(Ed25519PrivateKey.generate(), DIGEST),),
        (sign(OTHER, DIGEST).partition(":")[0] + ":" + sign(KEY, DIGEST).partition(":")[2],),
        (sign(KEY, DIGEST) + "==",),
        (sign(KEY, DIGEST) + "\n",),
        (sign(KEY, DIGEST)[:-1] + chr(ord(sign(KEY, DIGEST)[-1]) + 1),),
    ],
)
def test_anything_else_vouches_for_nothing(trusted, lines):
    with pytest.raises(NotTrusted):
        trusted.vouch(DIGEST, lines)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nothing",
        pem(KEY) + b"words",
        pem(generate_private_key(SECP256R1())),
        KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        Ed25519PublicKey.from_public_bytes(bytes([1]) + bytes(31)).public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        ),
        pem(KEY) * 65,
        pem(KEY) + b"\n" * 70_000,
    ],
)
def test_a_file_that_is_not_all_keys_to_trust_trusts_nobody(tmp_path, content):
    """One key of small order signs everything for everybody."""
    (tmp_path / "keys.pem").write_bytes(content)
    with pytest.raises(NotTrusted, match="cannot be used"):
        TrustedKeys(tmp_path / "keys.pem").vouch(DIGEST, [sign(KEY, DIGEST)])


def test_a_file_that_cannot_be_read_trusts_nobody(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(NotTrusted, match="cannot be used"):
            TrustedKeys(path).vouch(DIGEST, [sign(KEY, DIGEST)])


def test_signatures_are_lines_and_few():
    assert read_signatures(f"\n{sign(KEY, DIGEST)}\n{sign(KEY, DIGEST)}\n") == (sign(KEY, DIGEST),)
    for text in ("x", "\n".join(sign(KEY, f"{DIGEST}{number}") for number in range(MAX_SIGNATURES + 1))):
        with pytest.raises(SignaturesMalformed):
            read_signatures(text)


def test_sign_writes_beside_the_bundle_and_leaves_its_digest(tmp_path, trusted, capsys):
    directory = write(tmp_path / "bundle", files())
    private = tmp_path / "key.pem"
    for key in (OTHER, KEY, KEY):
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        assert main(["policy", "sign", str(directory), "--key", str(private)]) == 0
    assert f"{digest(files())} is signed by" in capsys.readouterr().out
    lines = read_signature_file(directory)
    assert lines == (sign(OTHER, digest(files())), sign(KEY, digest(files())))
    assert main(["policy", "test", str(directory)]) == 0


def test_a_changed_bundle_is_signed_again_in_place_of_the_old_signature(tmp_path):
    directory = write(tmp_path / "bundle", files())
    private = tmp_path / "key.pem"
    private.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert main(["policy", "sign", str(directory), "--key", str(private)]) == 0
    (directory / "holdfast.yaml").write_bytes(files()["holdfast.yaml"] + b"environment: staging\n")
    assert main(["policy", "sign", str(directory), "--key", str(private)]) == 0
    (line,) = read_signature_file(directory)
    assert line != sign(KEY, digest(files()))


def test_only_an_ed25519_key_signs_and_only_a_bundle_that_is_valid(tmp_path, capsys):
    directory = write(tmp_path / "bundle", files())
    private = tmp_path / "key.pem"
    private.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    assert main(["policy", "sign", str(directory), "--key", str(private)]) == 1
    assert "not an Ed25519 key" in capsys.readouterr().err
    private.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (directory / "catalog.yaml").write_text("version: 1\n")
    assert main(["policy", "sign", str(directory), "--key", str(private)]) == 1
    assert not (directory / ".signatures").exists()


def test_an_encrypted_key_asks_for_its_passphrase(tmp_path, monkeypatch):
    directory = write(tmp_path / "bundle", files())
    private = tmp_path / "key.pem"
    private.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"right")))
    for passphrase, expected in (("wrong", 1), ("right", 0)):
        monkeypatch.setattr("getpass.getpass", lambda _, said=passphrase: said)
        assert main(["policy", "sign", str(directory), "--key", str(private)]) == expected
