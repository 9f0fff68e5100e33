"""Results as JUnit XML, which continuous integration reads. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from console.gameday.judging import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from console.gameday.play import Result


def junit(results: Sequence[Result], *, bundle: str) -> bytes:
    """Return one test suite, with a case for each result. What is open by configuration passes, and says so."""
    suite = ET.Element(
        "testsuite",
        name="holdfast gameday",
        tests=str(len(results)),
        failures=str(sum(result.verdict is Verdict.FAIL for result in results)),
        errors="0",
        skipped=str(sum(result.verdict is Verdict.SKIPPED for result in results)),
    )
    properties = ET.SubElement(suite, "properties")
    ET.SubElement(properties, "property", name="bundle", value=bundle)
    for result in results:
        case = ET.SubElement(
            suite,
            "testcase",
            classname="gameday",
            name=f"{result.name}: {result.fault}",
            time=f"{(result.detected_s or 0) + (result.decided_s or 0):.2f}",
        )
        if result.verdict is Verdict.FAIL:
            failure = ET.SubElement(case, "failure", message=_plain("; ".join(result.why()) or "nothing was checked"))
            failure.text = failure.get("message")
        elif result.verdict is Verdict.SKIPPED:
            ET.SubElement(case, "skipped", message=_plain("; ".join(result.why())))
        elif result.why():
            ET.SubElement(case, "system-out").text = _plain("; ".join([result.verdict.value, *result.why()]))
    document: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return document


def _plain(text: str) -> str:
    """Return the text without what XML cannot hold: it may quote an agent's own words."""
    return "".join(character if character.isprintable() else " " for character in text)
