"""`python -m holdfast.audit verify DIR`: check an export offline.

Exit code: 0 intact, 1 INVALID, 2 usage, 3 MISSING, 4 GAP, 5 UNANCHORED (only with --require-anchor).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.audit.export import verify_export
from holdfast.audit.findings import parse_receipt
from holdfast.errors import AuditInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.audit.log import LogReport
    from holdfast.audit.record import Receipt

_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m holdfast.audit", description="Verify an export of the log.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="verify an export directory")
    verify.add_argument("directory", type=Path, metavar="DIR")
    verify.add_argument(
        "--receipt",
        type=_receipt,
        action="append",
        default=[],
        metavar="STREAM:SEQ:HASH",
        help="a receipt that you kept, or a token that carries one; repeatable",
    )
    verify.add_argument("--require-anchor", action="store_true", help="fail where no receipt reaches a stream")
    verify.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if not options.directory.is_dir():
        sys.stderr.write("DIR is not a directory\n")
        return _USAGE
    report = verify_export(options.directory, anchors=options.receipt, require_anchor=options.require_anchor)
    sys.stdout.write((_as_json(report) if options.json else _as_text(report)) + "\n")
    return report.exit_code


def _receipt(text: str) -> Receipt:
    try:
        return parse_receipt(text)
    except AuditInvalid as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _as_json(report: LogReport) -> str:
    return json.dumps(
        {
            "intact": report.intact,
            "exit_code": report.exit_code,
            "streams": [
                {
                    "stream": stream.stream,
                    "records": stream.records,
                    "head": str(stream.head) if stream.head is not None else None,
                    "closed": stream.closed,
                    "anchored": [str(anchor) for anchor in stream.anchored],
                    "intact": stream.intact,
                }
                for stream in report.streams
            ],
            "findings": [
                {
                    "kind": finding.kind.value,
                    "stream": finding.stream,
                    "seq": finding.seq,
                    "why": finding.why,
                    "fatal": finding.fatal,
                }
                for finding in report.findings
            ],
        },
        indent=2,
    )


def _as_text(report: LogReport) -> str:
    lines = [f"{'' if finding.fatal else 'warning: '}{finding}" for finding in report.findings]
    total = sum(stream.records for stream in report.streams)
    verdict = "intact" if report.intact else "NOT INTACT"
    lines.append(f"{verdict}: {total} records in {len(report.streams)} streams")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
