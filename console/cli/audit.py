"""`holdfast audit`: verify the log where it lies."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING

import asyncpg
from holdfast.audit.findings import parse_receipt
from holdfast.errors import AuditInvalid

from console.runtime.failure import CommandFailed
from console.runtime.state import add_database_options, database
from services.postgres.log import log_snapshot

if TYPE_CHECKING:
    from holdfast.audit.log import LogReport
    from holdfast.audit.record import Receipt

    from console.cli.subparsers import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `audit verify`."""
    parser = subparsers.add_parser("audit", help="verify the log", allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    verify = commands.add_parser(
        "verify",
        help="verify every stream of the log, and name the first bad record",
        description="Exit 0 if the log is intact, 1 if it is not.",
        allow_abbrev=False,
    )
    add_database_options(verify)
    verify.add_argument(
        "--receipt",
        action="append",
        default=[],
        type=_receipt,
        metavar="RECEIPT",
        help="a receipt you kept (`stream:seq:hash`, or a token): the log must still hold it; may be repeated",
    )
    verify.add_argument("--json", action="store_true", help="print the report as JSON")
    verify.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Verify, print what was found, and return 0 if the log is intact, else 1. Raises: CommandFailed."""
    try:
        report = asyncio.run(_verify(arguments))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        # A time-out has no words of its own.
        raise CommandFailed(f"the log cannot be read: {str(error) or 'the database does not answer'}") from error
    if arguments.json:
        print(json.dumps(_document(report), indent=2))
    else:
        for finding in report.findings:
            print(f"{'' if finding.fatal else 'note: '}{finding}", file=sys.stderr if finding.fatal else sys.stdout)
        records = sum(stream.records for stream in report.streams)
        verdict = "intact" if report.intact else "NOT INTACT"
        print(f"{verdict}: {records} records in {len(report.streams)} streams")
    return 0 if report.intact else 1


async def _verify(arguments: argparse.Namespace) -> LogReport:
    async with database(arguments) as url, log_snapshot(url) as snapshot:
        return await snapshot.verify(anchors=arguments.receipt, require_anchor=False, on_stream=lambda _: None)


def _document(report: LogReport) -> dict[str, object]:
    return {
        "intact": report.intact,
        "streams": [
            {
                "stream": stream.stream,
                "records": stream.records,
                "head": None if stream.head is None else str(stream.head),
                "closed": stream.closed,
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
    }


def _receipt(text: str) -> Receipt:
    try:
        return parse_receipt(text)
    except AuditInvalid as error:
        raise argparse.ArgumentTypeError(str(error)) from error
