"""`holdfast policy import`: a bundle from another system's policy, and what it would have allowed by omission."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from console.cli.bundle_files import write_bundle
from console.policy_import.formats import DEFAULT_AGENT, FORMATS, Options
from console.policy_import.source import Imported, Note, NoteKind, Source, UnknownAllowance
from console.runtime.failure import CommandFailed
from services.decision.finding import BundleInvalid, Severity

if TYPE_CHECKING:
    import argparse

    from console.cli.subparsers import Subparsers

INVALID: Final = 1
USAGE: Final = 2
#: Where a bundle goes that is not told where.
DEFAULT_OUTPUT: Final = Path("imported-policies")


def add(commands: Subparsers) -> None:
    """Add `policy import`."""
    parser = commands.add_parser("import", help="make a bundle from another system's policy")
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")
    for name, form in FORMATS.items():
        one = formats.add_parser(name, help=form.summary)
        one.add_argument("files", type=Path, nargs="+" if form.several else 1, metavar="FILE")
        one.add_argument(
            "--output", "-o", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help="a new folder (imported-policies)"
        )
        one.add_argument(
            "--keep-allow",
            action="append",
            default=[],
            metavar="NAME",
            help="keep what the source allows by omission under this name; repeatable",
        )
        if name in ("intercept", "cordum", "intended"):
            one.add_argument("--agent", default=DEFAULT_AGENT, metavar="NAME", help="who the source does not name")
        if name == "orloj":
            for option, does in (("--reads", "only reads"), ("--writes", "writes")):
                one.add_argument(
                    option, action="append", default=[], metavar="TOOL", help=f"a tool of the article that {does}"
                )
        one.add_argument("--json", action="store_true", help="print JSON")
        one.set_defaults(run=run_import)


def run_import(arguments: argparse.Namespace) -> int:
    """Write the bundle and print the notes. Returns 0, 1 for an invalid source, 2 for a wrong command line."""
    sources = [Source(path=str(path), data=_read(path)) for path in arguments.files]
    options = Options(
        keep=frozenset(arguments.keep_allow),
        reads=frozenset(getattr(arguments, "reads", ())),
        writes=frozenset(getattr(arguments, "writes", ())),
        agent=getattr(arguments, "agent", DEFAULT_AGENT),
    )
    try:
        imported = FORMATS[arguments.format].convert(sources, options)
    except BundleInvalid as refused:
        _print_refusals(refused, as_json=arguments.json)
        return INVALID
    except UnknownAllowance as unknown:
        print(f"holdfast: --keep-allow: {unknown}", file=sys.stderr)
        return USAGE
    if not write_bundle(arguments.output, imported.files):
        print(f"holdfast: `{arguments.output}` exists and is not an empty folder", file=sys.stderr)
        return USAGE
    _print_notes(imported, arguments)
    return 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as failure:
        raise CommandFailed(f"`{path}` cannot be read: {failure.strerror or failure}") from failure


def _print_refusals(refused: BundleInvalid, *, as_json: bool) -> None:
    errors = [found for found in refused.findings if found.severity is Severity.ERROR]
    if as_json:
        listed = [
            {"file": found.path, "line": found.line, "column": found.column, "message": found.message}
            for found in errors
        ]
        print(json.dumps({"ok": False, "errors": listed}, indent=2))
        return
    for found in errors:
        print(found)


def _print_notes(imported: Imported, arguments: argparse.Namespace) -> None:
    if arguments.json:
        document = {
            "ok": True,
            "output": str(arguments.output),
            "files": sorted(imported.files),
            "notes": [_note(note) for note in imported.notes],
        }
        print(json.dumps(document, indent=2))
        return
    for note in imported.notes:
        print(note)
    print(f"{len(imported.files)} files written to {arguments.output}", file=sys.stderr)


def _note(note: Note) -> dict[str, str | int | bool]:
    said: dict[str, str | int | bool] = {
        "file": note.path,
        "line": note.line,
        "kind": str(note.kind),
        "message": note.message,
    }
    if note.kind is NoteKind.OMISSION:
        said |= {"name": note.name, "kept": note.kept}
    return said
