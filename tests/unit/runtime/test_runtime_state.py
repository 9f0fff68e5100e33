"""runtime.json is read strictly: a command acts on the process ids in it."""

import json
import stat
from dataclasses import replace

import pytest

from console.runtime.directory import DataDirectory
from console.runtime.failure import CommandFailed
from console.runtime.state import Runtime, forget

RUNTIME = Runtime(
    pid=7,
    database_url="postgresql://u:p@/d?host=%2Frun",
    broker_url="unix:///run/v.sock?db=0",
    signer_socket="/run/holdfast-x/own/signer.sock",
    base_url="http://127.0.0.1:8420",
    children={"api": 8, "worker": 9},
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runtime.json"


def test_what_is_written_is_read(path):
    RUNTIME.write(path)

    assert Runtime.read(path) == RUNTIME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "change",
    [
        {"pid": 0},
        {"pid": True},
        {"pid": "7"},
        {"children": {"api": -1}},
        {"children": []},
        {"database_url": None},
        {"extra": 1},
    ],
)
def test_anything_else_is_refused(path, change):
    RUNTIME.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(CommandFailed, match=r"runtime\.json"):
        Runtime.read(path)


def test_a_missing_member_is_refused(path):
    RUNTIME.write(path)
    document = json.loads(path.read_text())
    del document["broker_url"]
    path.write_text(json.dumps(document))

    with pytest.raises(CommandFailed, match="members"):
        Runtime.read(path)


def test_what_a_killed_supervisor_left_is_removed(tmp_path):
    data = DataDirectory.at(tmp_path / "d")
    data.create()
    own = tmp_path / "holdfast-left" / "own"
    own.mkdir(parents=True)
    replace(RUNTIME, signer_socket=str(own / "signer.sock")).write(data.runtime)

    forget(data)

    assert not data.runtime.exists()
    assert not own.parent.exists()
