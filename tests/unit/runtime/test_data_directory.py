"""The data directory, its lock, and the directory of sockets."""

import os
import stat
from pathlib import Path

import pytest

from console.runtime.directory import (
    DataDirectory,
    DirectoryInUse,
    remove_abandoned,
    run_directory,
    secret_file,
    write_private,
)
from console.runtime.failure import CommandFailed


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_data_directory_is_private(tmp_path):
    data = DataDirectory.at(tmp_path / "a b")

    data.create()

    assert {mode(path) for path in (data.root, data.logs, data.signer, data.valkey)} == {0o700}


def test_an_empty_directory_becomes_private(tmp_path):
    root = tmp_path / "given"
    root.mkdir()
    root.chmod(0o755)

    DataDirectory.at(root).create()

    assert mode(root) == 0o700


def test_a_directory_with_other_things_in_it_keeps_its_mode(tmp_path):
    root = tmp_path / "home"
    root.mkdir()
    root.chmod(0o755)
    (root / "letter").write_text("dear")

    DataDirectory.at(root).create()

    assert mode(root) == 0o755


def test_a_file_is_no_data_directory(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(CommandFailed, match="not a directory"):
        DataDirectory.at(tmp_path / "file").create()


def test_a_directory_is_held_once_and_names_its_holder(tmp_path):
    data = DataDirectory.at(tmp_path / "d")
    data.create()

    with data.held(), pytest.raises(DirectoryInUse, match=f"pid {os.getpid()}"), data.held():
        pytest.fail("held twice")
    with data.held():
        pass


def test_the_directory_of_sockets_is_private_and_removed():
    with run_directory() as run:
        assert mode(run / "own") == 0o700
        assert mode(run) & 0o066 == 0
        assert len(os.fsencode(run / "pg" / ".s.PGSQL.5432.lock")) <= 107
    assert not run.exists()


@pytest.mark.parametrize("place", ["x" * 90, "with space"])
def test_an_unusable_temporary_directory_is_not_used_for_sockets(tmp_path, monkeypatch, place):
    awkward = tmp_path / place
    awkward.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(awkward))

    with run_directory() as run:
        assert awkward not in run.parents


def test_only_a_run_directory_is_removed_as_abandoned(tmp_path):
    ours, theirs, link = tmp_path / "holdfast-x", tmp_path / "photos", tmp_path / "holdfast-link"
    ours.mkdir()
    theirs.mkdir()
    link.symlink_to(theirs)

    for path in (ours, theirs, link, tmp_path / "holdfast-gone"):
        remove_abandoned(path)

    assert not ours.exists()
    assert theirs.is_dir()
    assert link.is_symlink()


def test_a_private_file_is_replaced_whole_and_leaves_no_draft(tmp_path):
    path = tmp_path / "runtime.json"
    write_private(path, "one")
    write_private(path, "two")

    assert path.read_text() == "two"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_that_cannot_be_written_leaves_no_draft_either(tmp_path):
    path = tmp_path / "runtime.json"
    path.mkdir()

    with pytest.raises(IsADirectoryError):
        write_private(path, "one")

    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_is_made_once(tmp_path):
    first = secret_file(tmp_path / "a")

    assert secret_file(tmp_path / "a") == first
    assert secret_file(tmp_path / "b") != first
    assert len(first) >= 43
    assert mode(Path(tmp_path / "a")) == 0o600
