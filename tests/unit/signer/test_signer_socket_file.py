"""The socket as a file: whose it is, and when it may be taken over."""

import socket
import stat

import pytest

from signer.server import SignerSettings
from signer.socket_file import MAX_PATH_BYTES, SocketFile, SocketRefused


@pytest.fixture
def path(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    return directory / "signer.sock"


def leave_stale(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_the_socket_is_ours_alone(path):
    place = SocketFile(path)
    with place.open():
        assert stat.S_ISSOCK(path.lstat().st_mode)
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    place.close()

    assert not path.exists()


def test_the_directory_is_made_for_us_alone(tmp_path):
    path = tmp_path / "new" / "signer.sock"
    place = SocketFile(path)
    with place.open():
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    place.close()


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o770])
def test_a_directory_open_to_others_is_refused(path, mode):
    path.parent.chmod(mode)

    with pytest.raises(SocketRefused, match=f"mode {mode:04o}"):
        SocketFile(path).open()
    assert not path.exists()


def test_a_socket_nobody_listens_on_is_taken_over(path):
    leave_stale(path)

    place = SocketFile(path)
    with place.open() as listener, socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        assert listener.fileno() >= 0
    place.close()


def test_a_socket_somebody_listens_on_is_left_alone(path):
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as peer:
        living.bind(str(path))
        living.listen(1)
        with pytest.raises(SocketRefused, match="somebody listens"):
            SocketFile(path).open()
        peer.connect(str(path))


def test_of_two_signers_the_second_refuses_even_before_the_first_listens(path):
    first = SocketFile(path)
    with first.open():
        path.unlink()
        with pytest.raises(SocketRefused, match="another signer"):
            SocketFile(path).open()
    first.close()


def test_what_is_not_a_socket_is_never_removed(path):
    path.write_text("something of value")

    with pytest.raises(SocketRefused, match="not a socket"):
        SocketFile(path).open()
    assert path.read_text() == "something of value"


def test_a_link_is_not_followed(path, tmp_path):
    path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(SocketRefused, match="not a socket"):
        SocketFile(path).open()


def test_closing_leaves_a_successor_s_socket_in_place(path):
    place = SocketFile(path)
    with place.open():
        path.unlink()
        leave_stale(path)
        place.close()

    assert path.exists()


def test_after_a_refusal_the_place_can_be_tried_again(path):
    path.parent.chmod(0o755)
    place = SocketFile(path)
    with pytest.raises(SocketRefused):
        place.open()
    path.parent.chmod(0o700)

    with place.open():
        assert path.exists()
    place.close()


def test_a_path_the_kernel_would_cut_is_refused_at_once(tmp_path):
    path = tmp_path / ("s" * MAX_PATH_BYTES)
    with pytest.raises(ValueError, match="at most 100"):
        SocketFile(path)
    with pytest.raises(ValueError, match="at most 100"):
        SignerSettings(socket_path=path, key_path=path, passphrase_path=path, profile_path=path)


def test_settings_without_memory_are_refused(path):
    with pytest.raises(ValueError, match="at least one"):
        SignerSettings(socket_path=path, key_path=path, passphrase_path=path, profile_path=path, remembered=0)
