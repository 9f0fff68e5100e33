"""The key at rest."""

import json
import os
import stat

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from signer import keyfile
from signer.keyfile import KeyFileError, KeyState, SigningKey

N = 2**15
PASSPHRASE = b"correct horse battery staple"
SEED = bytes(range(32))


@pytest.fixture(scope="module")
def sealed():
    return keyfile.seal(SEED, PASSPHRASE, created_at=1_767_225_600, n=N)


def changed(sealed, changes):
    return json.dumps(json.loads(sealed) | changes).encode()


@pytest.fixture
def files(tmp_path):
    passphrase = tmp_path / "passphrase"
    passphrase.write_bytes(PASSPHRASE + b"\n")
    passphrase.chmod(0o600)
    return tmp_path / "signing.key", passphrase


def test_a_sealed_key_opens_with_its_passphrase(sealed):
    key = keyfile.unseal(sealed, PASSPHRASE)

    assert key.private.private_bytes_raw() == SEED
    assert key.public == SigningKey.from_seed(SEED).public
    assert key.state is KeyState.ACTIVE
    assert key.created_at == 1_767_225_600


def test_a_key_keeps_its_state():
    sealed = keyfile.seal(SEED, PASSPHRASE, created_at=1, state=KeyState.RETIRING, n=N)

    assert keyfile.unseal(sealed, PASSPHRASE).state is KeyState.RETIRING


def test_the_seed_is_not_in_the_file(sealed):
    assert SEED.hex().encode() not in sealed
    assert SEED not in sealed


def test_salt_and_nonce_are_fresh_each_time(sealed):
    again = json.loads(keyfile.seal(SEED, PASSPHRASE, created_at=1_767_225_600, n=N))

    for name in ("salt", "nonce", "sealed"):
        assert again[name] != json.loads(sealed)[name]


@pytest.mark.parametrize("wrong", [b"", b"correct horse battery stapl", PASSPHRASE + b" ", PASSPHRASE.upper()])
def test_a_wrong_passphrase_is_said_to_be_wrong(sealed, wrong):
    with pytest.raises(KeyFileError, match="passphrase is wrong"):
        keyfile.unseal(sealed, wrong)


OTHER = SigningKey.from_seed(bytes(32)).public


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "holdfast-signing-key/v2"},
        {"kdf": "pbkdf2"},
        {"cipher": "none"},
        {"n": 1024},
        {"n": 2**15 + 1},
        {"n": 2**40},
        {"n": True},
        {"n": "32768"},
        {"n": 2**16},
        {"salt": ""},
        {"salt": "00" * 15},
        {"salt": "00" * 16},
        {"salt": "zz" * 16},
        {"salt": 1},
        {"nonce": "00" * 12},
        {"nonce": "00" * 11},
        {"sealed": "00" * 48},
        {"sealed": "00" * 32},
        {"kid": OTHER.kid},
        {"x": OTHER.to_jwk()["x"]},
        {"kid": OTHER.kid, "x": OTHER.to_jwk()["x"]},
        {"state": "pending"},
        {"state": "ACTIVE"},
        {"state": None},
        {"created_at": 0},
        {"created_at": 1.5},
        {"created_at": True},
        {"more": 1},
    ],
)
def test_every_member_of_a_key_file_is_checked_or_authenticated(sealed, changes):
    with pytest.raises(KeyFileError):
        keyfile.unseal(changed(sealed, changes), PASSPHRASE)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\x00" * 64, b"-----BEGIN PRIVATE KEY-----"])
def test_what_is_not_a_key_file_does_not_open(data):
    with pytest.raises(KeyFileError):
        keyfile.unseal(data, PASSPHRASE)


def test_every_cut_of_a_key_file_is_refused(sealed):
    for length in range(len(sealed.rstrip())):
        with pytest.raises(KeyFileError):
            keyfile.unseal(sealed[:length], PASSPHRASE)


@pytest.mark.parametrize("named", [{"kid": OTHER.kid}, {"x": OTHER.to_jwk()["x"]}])
def test_a_file_that_names_another_key_is_refused_even_when_it_was_sealed_so(sealed, named):
    """The name is authenticated, so only a faulty writer could bring this about."""
    envelope = json.loads(sealed) | named
    del envelope["sealed"]
    sealing_key = keyfile._derive(PASSPHRASE, bytes.fromhex(envelope["salt"]), N)
    box = AESGCM(sealing_key).encrypt(bytes.fromhex(envelope["nonce"]), SEED, keyfile._authenticated(envelope))

    with pytest.raises(KeyFileError, match="another public key"):
        keyfile.unseal(changed(sealed, named | {"sealed": box.hex()}), PASSPHRASE)


def test_a_key_does_not_print_its_private_part():
    assert "private" not in repr(SigningKey.from_seed(SEED))


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_first_start_makes_a_key_and_the_second_opens_it(files):
    path, passphrase = files

    made = keyfile.load_or_create(path, passphrase, now=7, n=N)
    opened = keyfile.load_or_create(path, passphrase, now=8, n=N)

    assert opened.public == made.public
    assert opened.created_at == made.created_at == 7
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["passphrase", "signing.key"]


def test_two_keys_are_two_keys(files):
    path, passphrase = files
    first = keyfile.load_or_create(path, passphrase, now=1, n=N)
    second = keyfile.load_or_create(path.with_name("second.key"), passphrase, now=1, n=N)

    assert first.public.kid != second.public.kid


@pytest.mark.parametrize("broken", [b"", b"{}", b"garbage"])
def test_a_broken_key_file_is_refused_and_left_as_it_is(files, broken):
    """A new key in its place would orphan every token and every trust in the old one."""
    path, passphrase = files
    path.write_bytes(broken)
    path.chmod(0o600)

    with pytest.raises(KeyFileError, match=r"signing\.key"):
        keyfile.load_or_create(path, passphrase, now=1, n=N)
    assert path.read_bytes() == broken


def test_with_another_passphrase_the_key_stays_closed_and_unchanged(files):
    path, passphrase = files
    keyfile.load_or_create(path, passphrase, now=1, n=N)
    before = path.read_bytes()
    passphrase.write_bytes(b"another passphrase entirely")

    with pytest.raises(KeyFileError, match="passphrase is wrong"):
        keyfile.load_or_create(path, passphrase, now=1, n=N)
    assert path.read_bytes() == before


def test_a_dangling_link_is_not_an_absent_key(files, tmp_path):
    path, passphrase = files
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(KeyFileError):
        keyfile.load_or_create(path, passphrase, now=1, n=N)
    assert not (tmp_path / "elsewhere").exists()


def test_creation_never_overwrites(files):
    path, _ = files
    path.write_bytes(b"there first")

    with pytest.raises(FileExistsError):
        keyfile.create(path, PASSPHRASE, now=1, n=N)
    assert path.read_bytes() == b"there first"
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["passphrase", "signing.key"]


def test_a_key_cannot_be_made_where_there_is_no_directory(files):
    path, passphrase = files

    with pytest.raises(KeyFileError, match="cannot create"):
        keyfile.load_or_create(path.parent / "absent" / "signing.key", passphrase, now=1, n=N)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601, 0o666, 0o700 | 0o010])
@pytest.mark.parametrize("which", ["key", "passphrase"])
def test_a_file_that_others_have_a_part_in_is_refused(files, mode, which):
    path, passphrase = files
    keyfile.create(path, PASSPHRASE, now=1, n=N)
    {"key": path, "passphrase": passphrase}[which].chmod(mode)

    with pytest.raises(KeyFileError, match=f"mode {mode:04o}"):
        keyfile.load_or_create(path, passphrase, now=1, n=N)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_ours_alone_is_taken(files, mode):
    path, passphrase = files
    passphrase.chmod(mode)

    assert keyfile.load_or_create(path, passphrase, now=1, n=N)


def test_without_a_passphrase_no_key_is_made(files):
    path, passphrase = files
    passphrase.unlink()

    with pytest.raises(KeyFileError, match="passphrase"):
        keyfile.load_or_create(path, passphrase, now=1, n=N)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"x" * 15 + b"\n", b"x" * 1025])
def test_a_passphrase_that_is_none_is_refused(files, content):
    path, passphrase = files
    passphrase.write_bytes(content)

    with pytest.raises(KeyFileError, match="passphrase"):
        keyfile.load_or_create(path, passphrase, now=1, n=N)
    assert not path.exists()


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_the_line_end_of_an_editor_is_no_part_of_the_passphrase(files, ending):
    _, passphrase = files
    passphrase.write_bytes(PASSPHRASE + ending)

    assert keyfile.read_passphrase(passphrase) == PASSPHRASE


def test_a_directory_or_a_pipe_is_not_a_key_file(files):
    path, passphrase = files
    path.mkdir(mode=0o700)
    with pytest.raises(KeyFileError, match="not a regular file"):
        keyfile.load_or_create(path, passphrase, now=1, n=N)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        keyfile.load_or_create(path, passphrase, now=1, n=N)


def test_the_default_cost_is_at_least_what_the_reader_asks_for():
    assert keyfile.SCRYPT_N >= 2**15
