"""`holdfast gameday` as a user runs it in continuous integration."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from console.gameday.drills import DRILLS

pytestmark = [pytest.mark.integration, pytest.mark.chaos_long]
SHIPPED = Path(__file__).parents[2] / "policies"


def test_the_whole_gameday_holds_on_the_shipped_policies(tmp_path):
    report = tmp_path / "gameday.xml"
    command = [sys.executable, "-P", "-m", "console.cli.main", "gameday", "--json", "--junit", str(report)]

    run = subprocess.run(
        [*command, "--policies", str(SHIPPED)], capture_output=True, text=True, check=False, timeout=600
    )

    assert run.returncode == 0, run.stdout + run.stderr
    played = json.loads(run.stdout)
    assert played["held"] is True
    assert [drill["name"] for drill in played["drills"]] == ["healthy", *(drill.name for drill in DRILLS), "log"]
    assert {drill["result"] for drill in played["drills"]} == {"pass"}
    assert ET.parse(report).getroot().get("failures") == "0"
