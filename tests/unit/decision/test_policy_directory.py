"""A bundle on disk, and the two commands that look at it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from bundles import FILES

from console.cli import policy
from services.policy_files import PolicyFilesUnreadable, read_directory

CASE = """suite: search
cases:
  - name: knowledge may be searched
    agent: bot
    intent: {action: kb.search, resource: {type: knowledge-base, id: x}}
    expect: {decision: allow}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for path, text in {**FILES, "tests/t.yaml": CASE}.items():
        target = tmp_path / "bundle" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return tmp_path / "bundle"


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    policy.register(parser.add_subparsers())
    parsed = parser.parse_args([str(argument) for argument in arguments])
    code: int = parsed.run(parsed)
    return code


def test_a_directory_is_read_as_relative_paths_and_bytes(directory):
    assert read_directory(directory) == {path: text.encode() for path, text in {**FILES, "tests/t.yaml": CASE}.items()}


def test_dotfiles_are_left_out(directory):
    (directory / ".git").mkdir()
    (directory / ".git" / "config").write_text("x")
    (directory / "agents" / ".bot.yaml.swp").write_bytes(b"\xff")
    assert set(read_directory(directory)) == {*FILES, "tests/t.yaml"}


def test_a_missing_or_empty_directory_is_refused(tmp_path):
    with pytest.raises(PolicyFilesUnreadable, match="is not a directory"):
        read_directory(tmp_path / "nowhere")
    with pytest.raises(PolicyFilesUnreadable, match="holds no policy files"):
        read_directory(tmp_path)


def test_a_link_that_leaves_the_bundle_is_refused(directory, tmp_path):
    (tmp_path / "secret").write_text("x")
    for link, target in (("agents/x.yaml", tmp_path / "secret"), ("more", tmp_path)):
        (directory / link).symlink_to(target)
        with pytest.raises(PolicyFilesUnreadable, match="leaves the bundle"):
            read_directory(directory)
        (directory / link).unlink()


def test_links_inside_the_bundle_are_followed_as_mounted_volumes_need(directory):
    (directory / "agents").rename(directory / "..data-agents")
    (directory / "agents").symlink_to(directory / "..data-agents")
    assert "agents/bot.yaml" in read_directory(directory)


def test_a_link_to_itself_and_a_broken_link_are_refused(directory):
    (directory / "loop").symlink_to(directory)
    with pytest.raises(PolicyFilesUnreadable, match="links to itself"):
        read_directory(directory)
    (directory / "loop").unlink()
    (directory / "gone").symlink_to(directory / "nothing")
    with pytest.raises(PolicyFilesUnreadable, match="cannot be read"):
        read_directory(directory)


def test_what_is_not_a_file_is_refused(directory):
    os.mkfifo(directory / "pipe")
    with pytest.raises(PolicyFilesUnreadable, match="not a regular file"):
        read_directory(directory)


def test_lint_accepts_with_warnings_and_strict_does_not(directory, capsys):
    finding = "no test covers the rule `huge-refunds`"
    assert run("policy", "lint", directory) == 0
    assert f"rules/refunds.cedar:6: warning: {finding}" in capsys.readouterr().out.splitlines()
    assert run("policy", "lint", directory, "--strict") == 1
    assert f"rules/refunds.cedar:6: {finding}" in capsys.readouterr().out.splitlines()


def test_lint_prints_file_line_and_message_and_fails(directory, capsys):
    (directory / "agents" / "bot.yaml").write_text("kind: Agent\nkind: Agent\n")
    assert run("policy", "lint", directory) == 1
    assert capsys.readouterr().out == "agents/bot.yaml:2: the key `kind` stands twice\n"


def test_lint_prints_json(directory, capsys):
    (directory / "agents" / "bot.yaml").write_text("kind: Agent\nkind: Agent\n")
    assert run("policy", "lint", directory, "--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "findings": [
            {
                "file": "agents/bot.yaml",
                "line": 2,
                "column": 1,
                "severity": "error",
                "message": "the key `kind` stands twice",
            }
        ],
    }


def test_both_commands_fail_on_a_directory_that_is_not_there(tmp_path, capsys):
    for command in ("lint", "test"):
        assert run("policy", command, tmp_path / "nowhere") == 1
    assert "is not a directory" in capsys.readouterr().err


def test_the_golden_tests_are_run_and_reported(directory, tmp_path, capsys):
    report = tmp_path / "report.xml"
    assert run("policy", "test", directory, "--junit", report) == 0
    assert "1 of 1 cases passed" in capsys.readouterr().out
    suite = ET.parse(report).getroot()[0]
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("search", "1", "0")


def test_a_failed_case_fails_the_command_and_says_why(directory, tmp_path, capsys):
    (directory / "tests" / "t.yaml").write_text(CASE.replace("decision: allow", "decision: deny"))
    report = tmp_path / "report.xml"
    assert run("policy", "test", directory, "--junit", report) == 1
    printed = capsys.readouterr().out
    assert "tests/t.yaml:3: knowledge may be searched: decision: expected deny, got allow" in printed
    assert ET.parse(report).getroot()[0][0][0].tag == "failure"
    assert run("policy", "test", directory, "--json") == 1
    assert json.loads(capsys.readouterr().out)["cases"][0]["passed"] is False


def test_the_coverage_is_in_every_report(directory, tmp_path, capsys):
    report = tmp_path / "report.xml"
    assert run("policy", "test", directory, "--junit", report) == 0
    printed = capsys.readouterr().out
    assert "rules/refunds.cedar:2: no test covers the rule `big-refunds`\n" in printed
    assert "1 of 3 rules covered (33 %)\n" in printed
    properties = {one.get("name"): one.get("value") for one in ET.parse(report).getroot().iter("property")}
    assert properties == {
        "coverage.percent": "33",
        "coverage.covered": "1",
        "coverage.total": "3",
        "coverage.uncovered": "big-refunds huge-refunds",
    }
    assert run("policy", "test", directory, "--json") == 0
    coverage = json.loads(capsys.readouterr().out)["coverage"]
    assert (coverage["percent"], coverage["uncovered"]) == (33, ["big-refunds", "huge-refunds"])
    assert coverage["rules"][2] == {
        "id": "agent:bot:tools",
        "source": "manifest",
        "file": "agents/bot.yaml",
        "line": 5,
        "use": "determined",
    }


def test_too_little_coverage_fails_the_command_in_every_report(directory, tmp_path, capsys):
    report = tmp_path / "report.xml"
    assert run("policy", "test", directory, "--min-coverage", "33") == 0
    assert run("policy", "test", directory, "--min-coverage", "34", "--junit", report) == 1
    said = "the cases cover 33 % of the rules; 34 % are asked for"
    assert capsys.readouterr().out.endswith(said + "\n")
    assert [one.get("message") for one in ET.parse(report).getroot().iter("failure")] == [said]
    assert run("policy", "test", directory, "--min-coverage", "34", "--json") == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


@pytest.mark.parametrize("share", ["101", "-1", "9x", "\u0661"])
def test_a_share_that_is_no_percentage_is_refused(directory, share):
    with pytest.raises(SystemExit):
        run("policy", "test", directory, f"--min-coverage={share}")


def test_a_bundle_that_is_refused_fails_its_tests(directory, capsys):
    (directory / "catalog.yaml").unlink()
    assert run("policy", "test", directory) == 1
    assert capsys.readouterr().out.startswith("catalog.yaml:1: ")


def test_a_bundle_without_tests_has_not_passed_them(directory):
    (directory / "tests" / "t.yaml").unlink()
    assert run("policy", "test", directory) == 1
