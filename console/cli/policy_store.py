"""`holdfast policy list|show|apply|activate|rollback`: the bundles of a running service."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from console.runtime.bundles import (
    actor,
    choose,
    follow_with_signer,
    guarded,
    open_store,
    resolve,
    without_keys,
)
from console.runtime.failure import CommandFailed
from console.runtime.state import add_database_options
from services.decision.bundle import read_bundle
from services.decision.finding import Severity
from services.decision.golden import run_suites
from services.decision.lint import lint
from services.decision.policy import Policy
from services.outcome import rfc3339
from services.policy_files import PolicyFilesUnreadable, read_directory
from services.policy_keys import read_signature_file
from services.publishing import Activated

if TYPE_CHECKING:
    import argparse

    from holdfast.strict_json import JSON

    from console.cli.subparsers import Subparsers
    from console.runtime.bundles import Chosen, Store
    from services.decision.bundle import Bundle
    from services.postgres.bundles import Activation, BundleRow, Standing


def register(commands: Subparsers) -> None:
    """Add the commands to `policy`."""
    listing = commands.add_parser("list", help="list the stored bundles and the history of activations")
    listing.set_defaults(run=run_list)

    show = commands.add_parser("show", help="show a stored bundle, or write its files to a directory")
    show.add_argument("bundle", metavar="DIGEST|active")
    show.add_argument("--output", metavar="DIR", type=Path, help="write the files here; must not exist yet")
    show.set_defaults(run=run_show)

    apply = commands.add_parser(
        "apply", help="lint, test, upload and activate a bundle; the first failure changes nothing"
    )
    apply.add_argument("directory", metavar="DIR", type=Path)
    apply.add_argument("--no-activate", action="store_true", help="upload only")
    apply.add_argument("--allow-untested", action="store_true", help="take a bundle that has no tests")
    apply.set_defaults(run=run_apply)

    activate = commands.add_parser("activate", help="activate a stored bundle")
    activate.add_argument("bundle", metavar="DIGEST")
    activate.add_argument("--expect", metavar="DIGEST", help="refuse unless this bundle is active now")
    activate.set_defaults(run=run_activate)

    rollback = commands.add_parser("rollback", help="activate again what was active before")
    rollback.set_defaults(run=run_rollback)

    for parser in (apply, activate, rollback):
        parser.add_argument("--reason", metavar="TEXT", default="", help="why, for the log")
    for parser in (listing, show, apply, activate, rollback):
        add_database_options(parser)
        parser.add_argument("--json", action="store_true", help="print JSON")


# --- looking ----------------------------------------------------------------------------------------------------------


def run_list(arguments: argparse.Namespace) -> int:
    """Print the stored bundles, newest first, and the history of activations."""
    standing, bundles, history = guarded(_list(arguments))
    if arguments.json:
        document: dict[str, JSON] = {
            "active": standing.active,
            "shadow": standing.candidate,
            "bundles": [row.to_json() for row in bundles],
            "history": [row.to_json() for row in history],
        }
        print(json.dumps(document, indent=2))
        return 0
    for row in bundles:
        mark = "*" if row.digest == standing.active else " "
        print(f"{mark} {row.digest}  uploaded {rfc3339(row.uploaded_at)} by {row.uploaded_by}")
    if not bundles:
        print("no bundle is stored")
    for line in history:
        back = "" if line.rolled_back_from is None else f" (takes back number {line.rolled_back_from})"
        when = rfc3339(line.activated_at)
        print(f"{line.id:>4}  {when}  {line.digest[:19]}  {line.activated_by}: {line.reason}{back}")
    return 0


async def _list(arguments: argparse.Namespace) -> tuple[Standing, list[BundleRow], list[Activation]]:
    async with open_store(arguments) as store:
        return await store.bundles.standing(), await store.bundles.bundles(), await store.bundles.activations()


def run_show(arguments: argparse.Namespace) -> int:
    """Print what a bundle holds, or write its files. Raises: CommandFailed."""
    chosen = guarded(_choose(arguments))
    policy = chosen.compiled()
    if arguments.output is not None:
        _write(arguments.output, chosen)
        print(f"{policy.digest}: {len(chosen.files)} files in {arguments.output}")
        return 0
    document: dict[str, JSON] = {
        "digest": policy.digest,
        "agents": [*sorted(policy.agents)],
        "executors": [*sorted(policy.executors)],
        "rules": [rule.id for rule in policy.rules],
        "files": {path: len(data) for path, data in sorted(chosen.files.items())},
    }
    if arguments.json:
        print(json.dumps(document, indent=2))
        return 0
    print(policy.digest)
    for path, data in sorted(chosen.files.items()):
        print(f"  {len(data):>8}  {path}")
    print(f"{len(policy.agents)} agents, {len(policy.executors)} executors, {len(policy.rules)} rules")
    return 0


async def _choose(arguments: argparse.Namespace) -> Chosen:
    async with open_store(arguments) as store:
        return await choose(await resolve(arguments.bundle, store.bundles), store.bundles)


def _write(directory: Path, chosen: Chosen) -> None:
    try:
        directory.mkdir(parents=True)
        for path, data in chosen.files.items():
            file = directory / path
            # Only what compiled is written, and a bundle's paths are fixed: none of them leaves the directory.
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    except OSError as error:
        raise CommandFailed(f"cannot write to `{directory}`: {error.strerror}") from error


# --- changing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What a change led to."""

    activated: Activated
    agents: list[str]
    executors: list[str]
    signer: str


def run_apply(arguments: argparse.Namespace) -> int:
    """Lint, test, upload, activate. Raises: CommandFailed at the first failure."""
    bundle = _checked(arguments)
    done = guarded(_apply(arguments, bundle))
    if done is None:
        return _said(arguments, {"digest": bundle.digest, "activated": False}, [f"{bundle.digest} is stored"])
    return _report(arguments, done)


def _checked(arguments: argparse.Namespace) -> Bundle:
    """Return the bundle once lint and its own tests have passed. Raises: CommandFailed."""
    try:
        files = read_directory(arguments.directory)
    except PolicyFilesUnreadable as error:
        raise CommandFailed(str(error)) from error
    errors = [found for found in lint(files) if found.severity is Severity.ERROR]
    if errors:
        lines = "\n".join(f"{arguments.directory / found.path}:{found.line}: {found.message}" for found in errors)
        raise CommandFailed(f"nothing was changed: the policies are not valid\n{lines}")
    bundle = read_bundle(files)
    results = run_suites(Policy.compile(bundle), bundle)
    if results.failed:
        lines = "\n".join(
            f"{arguments.directory / result.path}:{result.line}: {result.name}: {difference}"
            for result in results.failed
            for difference in result.differences
        )
        raise CommandFailed(f"nothing was changed: {len(results.failed)} tests of the policies fail\n{lines}")
    if not results.results and not arguments.allow_untested:
        raise CommandFailed(
            "nothing was changed: the policies have no tests (--allow-untested takes them all the same)"
        )
    return bundle


async def _apply(arguments: argparse.Namespace, bundle: Bundle) -> _Done | None:
    async with open_store(arguments, writing=True) as store:
        signatures = read_signature_file(arguments.directory)
        await store.writer().upload(bundle, by=actor(), signatures=signatures)
        return None if arguments.no_activate else await _activate(arguments, store, bundle.digest, None)


def run_activate(arguments: argparse.Namespace) -> int:
    """Activate a stored bundle. Raises: CommandFailed."""
    return _report(arguments, guarded(_activate_stored(arguments)))


async def _activate_stored(arguments: argparse.Namespace) -> _Done:
    async with open_store(arguments, writing=True) as store:
        digest = await resolve(arguments.bundle, store.bundles)
        expected = None if arguments.expect is None else await resolve(arguments.expect, store.bundles)
        return await _activate(arguments, store, digest, expected)


async def _activate(arguments: argparse.Namespace, store: Store, digest: str, expected: str | None) -> _Done:
    active = (await store.bundles.standing()).active
    if expected not in (None, active):
        raise CommandFailed(f"nothing was changed: the active bundle is {active}")
    if active == digest:
        # Nothing to record; the signer may still have to follow.
        activated = Activated(policy=await store.writer().compiled(digest), before=digest)
    else:
        reason = arguments.reason or "no reason given"
        activated = await store.writer().activate(digest, by=actor(), reason=reason, expect_active=active)
    return await _followed(arguments, store, activated)


def run_rollback(arguments: argparse.Namespace) -> int:
    """Activate what was active before. Raises: CommandFailed."""
    return _report(arguments, guarded(_rollback(arguments)))


async def _rollback(arguments: argparse.Namespace) -> _Done:
    async with open_store(arguments, writing=True) as store:
        activated = await store.writer().rollback(by=actor(), reason=arguments.reason or "rolled back")
        return await _followed(arguments, store, activated)


async def _followed(arguments: argparse.Namespace, store: Store, activated: Activated) -> _Done:
    agents, executors = await without_keys(store, activated.policy)
    signer = follow_with_signer(arguments, activated.policy)
    return _Done(activated=activated, agents=agents, executors=executors, signer=signer)


def _report(arguments: argparse.Namespace, done: _Done) -> int:
    digest, before = done.activated.policy.digest, done.activated.before
    document: dict[str, JSON] = {
        "digest": digest,
        "before": before,
        "activated": before != digest,
        "agents_without_key": [*done.agents],
        "executors_without_key": [*done.executors],
        "signer": done.signer,
    }
    lines = [f"{digest} was active already" if before == digest else f"{digest} is active (before: {before or 'none'})"]
    lines.append(done.signer)
    for plural, names in (("agents", done.agents), ("executors", done.executors)):
        lines.extend(f"`{name}` has no key yet: holdfast {plural} create {name}" for name in names)
    return _said(arguments, document, lines)


def _said(arguments: argparse.Namespace, document: dict[str, JSON], lines: list[str]) -> int:
    print(json.dumps(document, indent=2) if arguments.json else "\n".join(lines))
    return 0
