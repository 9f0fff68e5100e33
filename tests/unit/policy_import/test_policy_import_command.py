"""`holdfast policy import` and `policy init` at the command line."""

from __future__ import annotations

import json

import pytest

from console.cli.main import main
from console.policy_templates import TEMPLATES
from services.decision.finding import Severity
from services.decision.lint import lint
from services.policy_files import read_directory

SOURCE = 'version: "1"\ntools:\n  a: {rules: []}\n'


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "tools.yaml"
    path.write_text(SOURCE)
    return path


def test_an_import_writes_a_bundle_and_says_what_was_allowed_by_omission(source, tmp_path, capsys):
    assert main(["policy", "import", "intercept", str(source), "--output", str(tmp_path / "out")]) == 0
    said = f"{source}:1: allowed by omission: `default` is missing, which is `allow`: every tool that is not listed"
    assert capsys.readouterr().out == f"{said} [default] -> denied\n"
    files = read_directory(tmp_path / "out")
    assert not [found for found in lint(files) if found.severity is Severity.ERROR]
    assert str(tmp_path) not in "".join(data.decode() for data in files.values())


def test_an_allowance_that_is_kept_is_said_and_not_denied(source, tmp_path, capsys):
    out = str(tmp_path / "out")
    command = ["policy", "import", "intercept", str(source), "--output", out, "--keep-allow", "default", "--json"]
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["notes"] == [
        {
            "file": str(source),
            "line": 1,
            "kind": "allowed by omission",
            "message": "`default` is missing, which is `allow`: every tool that is not listed",
            "name": "default",
            "kept": True,
        }
    ]
    assert "agents/imported-agent.yaml" in printed["files"]


def test_an_invalid_source_exits_with_one_and_writes_nothing(source, tmp_path, capsys):
    source.write_text(SOURCE + "defualt: deny\n")
    assert main(["policy", "import", "intercept", str(source), "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().out == f"{source}:4: unknown field `defualt`: did you mean `default`?\n"
    assert not (tmp_path / "out").exists()
    command = ["policy", "import", "intercept", str(source), "--output", str(tmp_path / "out"), "--json"]
    assert main(command) == 1
    assert json.loads(capsys.readouterr().out)["errors"] == [
        {"file": str(source), "line": 4, "column": 1, "message": "unknown field `defualt`: did you mean `default`?"}
    ]


def test_a_bundle_without_a_place_goes_into_a_new_folder_here(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["policy", "import", "intercept", str(source)]) == 0
    assert (tmp_path / "imported-policies" / "catalog.yaml").is_file()
    assert main(["policy", "import", "intercept", str(source)]) == 2


def test_a_missing_source_exits_with_one(tmp_path, capsys):
    missing = tmp_path / "missing.yaml"
    assert main(["policy", "import", "cordum", str(missing), "--output", str(tmp_path / "out")]) == 1
    assert f"`{missing}` cannot be read" in capsys.readouterr().err


def test_a_folder_with_something_in_it_is_not_written_to(source, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert main(["policy", "import", "intercept", str(source), "--output", str(tmp_path / "out")]) == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert "is not an empty folder" in capsys.readouterr().err


def test_an_allowance_that_does_not_exist_is_a_wrong_command_line(source, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["policy", "import", "intercept", str(source), "--output", out, "--keep-allow", "all"]) == 2
    assert "`all`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_agent_s_is_refused(source, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["policy", "import", "intercept", str(source), "--output", out, "--agent", "../x"]) == 1
    assert "cannot name an agent" in capsys.readouterr().out


@pytest.mark.parametrize("name", TEMPLATES)
def test_init_writes_a_bundle_that_lints_strictly(name, tmp_path, capsys):
    out = tmp_path / "policies"
    assert main(["policy", "init", "--template", name, str(out)]) == 0
    assert main(["policy", "lint", "--strict", str(out)]) == 0
    assert main(["policy", "test", str(out)]) == 0
    assert str(out / "catalog.yaml") in capsys.readouterr().out


def test_init_overwrites_nothing(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["policy", "init", "--template", "infra", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert "is not an empty folder" in capsys.readouterr().err
