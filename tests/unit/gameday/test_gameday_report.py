"""What continuous integration reads of a game day."""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ET

import pytest

from console.cli.gameday import register
from console.gameday.judging import Judged, Verdict
from console.gameday.junit import junit
from console.gameday.play import Result
from console.runtime.failure import CommandFailed


def result(*verdicts: Verdict, why: str = "") -> Result:
    return Result(
        name="token",
        boundary="token",
        fault="the signer is stopped",
        checks=[Judged(verdict=v, why=why) for v in verdicts],
    )


def test_a_failure_is_a_failure_and_names_what_was_seen():
    suite = ET.fromstring(junit([result(Verdict.PASS), result(Verdict.FAIL, why="a \x00 token left")], bundle="b"))

    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.find("failure") is not None for case in suite.iter("testcase")] == [False, True]
    assert suite.find(".//failure").get("message") == "a   token left"


def test_what_is_open_by_configuration_passes_and_says_so():
    suite = ET.fromstring(junit([result(Verdict.OPEN, why="note.read passes unevaluated")], bundle="b"))

    assert suite.get("failures") == "0"
    assert "open by configuration" in suite.find(".//system-out").text


def test_what_was_skipped_is_not_called_a_pass():
    suite = ET.fromstring(junit([result(Verdict.SKIPPED, why="no intent")], bundle="b"))

    assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")
    assert suite.find(".//skipped").get("message") == "no intent"


def test_a_drill_that_checked_nothing_has_failed():
    assert result().verdict is Verdict.FAIL
    assert ET.fromstring(junit([result()], bundle="b")).get("failures") == "1"


def test_the_command_wants_to_know_whose_twin():
    parser = argparse.ArgumentParser(exit_on_error=False)
    register(parser.add_subparsers())
    parsed = parser.parse_args(["gameday", "--policies", "p", "--only", "token", "--only", "halt"])

    assert parsed.only == ["token", "halt"]


def test_a_report_that_cannot_be_written_is_found_out_before_the_play(tmp_path):
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    nowhere = tmp_path / "none" / "gameday.xml"
    options = parser.parse_args(["gameday", "--policies", str(tmp_path), "--junit", str(nowhere)])

    with pytest.raises(CommandFailed, match="no such directory"):
        options.run(options)
