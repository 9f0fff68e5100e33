"""What continuous integration reads of a game day."""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ET

from console.cli.gameday import register
from console.gameday.judging import Judged, Verdict
from console.gameday.junit import junit
from console.gameday.play import Result


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


def test_a_drill_that_checked_nothing_has_failed():
    assert result().verdict is Verdict.FAIL
    assert ET.fromstring(junit([result()], bundle="b")).get("failures") == "1"


def test_the_command_wants_to_know_whose_twin():
    parser = argparse.ArgumentParser(exit_on_error=False)
    register(parser.add_subparsers())
    parsed = parser.parse_args(["gameday", "--policies", "p", "--only", "token", "--only", "halt"])

    assert parsed.only == ["token", "halt"]
