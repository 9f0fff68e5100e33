"""`holdfast break-glass`: asked of a running service, as an operator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from console.cli.reviews import review_line
from console.runtime.failure import CommandFailed
from console.runtime.operator_client import add_service_options, operator_client, operator_clients

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from holdfast.strict_json import JSON

    from console.cli.subparsers import Subparsers
    from console.runtime.operator_client import OperatorClient

_ACTIVATIONS: Final = "/v1/operator/break-glass"


def register(subparsers: Subparsers) -> None:
    """Add the commands."""
    parser = subparsers.add_parser("break-glass", help="let through, for a while, what cannot be evaluated")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    activate = commands.add_parser(
        "activate",
        help="activate a policy of the bundle",
        description="Asks the first service; the others only while PostgreSQL is away, for then no replica hears of "
        "what another took in.",
        allow_abbrev=False,
    )
    activate.add_argument("policy", metavar="POLICY", help="its name in holdfast.yaml")
    activate.add_argument("--reason", metavar="TEXT", required=True)
    activate.add_argument("--incident", metavar="ID", required=True, help="where people can read about it")
    activate.add_argument("--minutes", metavar="N", type=int, required=True, help="for how long, from the last person")
    activate.set_defaults(run=run_activate)
    confirm = commands.add_parser("confirm", help="be the next person behind it", allow_abbrev=False)
    confirm.add_argument("activation_id", metavar="ID", nargs="+")
    confirm.set_defaults(run=run_confirm)
    revoke = commands.add_parser("revoke", help="end it now", allow_abbrev=False)
    revoke.add_argument("activation_id", metavar="ID", nargs="+")
    revoke.add_argument("--note", metavar="TEXT", required=True)
    revoke.set_defaults(run=run_revoke)
    for command in (activate, confirm, revoke):
        add_service_options(command, many=True)
    listing = commands.add_parser("list", help="those of the last day", allow_abbrev=False)
    listing.set_defaults(run=run_list)
    show = commands.add_parser("show", help="one, with its uses", allow_abbrev=False)
    show.add_argument("activation_id", metavar="ID")
    show.set_defaults(run=run_show)
    for command in (listing, show):
        add_service_options(command)


# --- break-glass ------------------------------------------------------------------------------------------------------


def run_activate(arguments: argparse.Namespace) -> int:
    """Activate on the first service, and on every other where the first cannot tell them. Raises: CommandFailed."""
    body: dict[str, JSON] = {
        "policy": arguments.policy,
        "reason": arguments.reason,
        "incident": arguments.incident,
        "minutes": arguments.minutes,
    }
    made: list[dict[str, JSON]] = []
    failures: list[str] = []
    with operator_clients(arguments) as clients:
        for client in clients:
            try:
                made.append(client.post(_ACTIVATIONS, body))
            except CommandFailed as error:
                failures.append(f"{client.base_url}: {error}")
                continue
            if made[-1].get("recorded") == "database":
                break
    return _report(arguments, made, failures)


def run_confirm(arguments: argparse.Namespace) -> int:
    """Confirm each, wherever it is known. Raises: CommandFailed."""
    return _change(arguments, "confirm", {})


def run_revoke(arguments: argparse.Namespace) -> int:
    """End each, wherever it is known. Raises: CommandFailed."""
    return _change(arguments, "revoke", {"note": arguments.note})


def _change(arguments: argparse.Namespace, verb: str, body: dict[str, JSON]) -> int:
    changed: list[dict[str, JSON]] = []
    failures: list[str] = []
    with operator_clients(arguments) as clients:
        for activation_id in arguments.activation_id:
            try:
                changed.append(_first_that_knows(clients, f"{_path(_ACTIVATIONS, activation_id)}/{verb}", body))
            except CommandFailed as error:
                failures.append(f"{activation_id}: {error}")
    return _report(arguments, changed, failures)


def _first_that_knows(clients: list[OperatorClient], path: str, body: dict[str, JSON]) -> dict[str, JSON]:
    """Return the answer of the first service that does not say NOT_FOUND or nothing at all. Raises: CommandFailed."""
    failure = CommandFailed("no service was asked")
    for client in clients:
        try:
            return client.post(path, body)
        except CommandFailed as error:
            failure = error
            if not str(error).startswith("NOT_FOUND") and "does not answer" not in str(error):
                raise
    raise failure


def _report(arguments: argparse.Namespace, done: list[dict[str, JSON]], failures: list[str]) -> int:
    if not done:
        raise CommandFailed("; ".join(failures))
    if arguments.json:
        print(json.dumps({"activations": done, "failures": failures}))
    else:
        for activation in done:
            print(_line(activation))
            print(_next(activation))
        for failure in failures:
            print(f"failed: {failure}")
    return 1 if failures else 0


def run_list(arguments: argparse.Namespace) -> int:
    """List the activations of the last day. Raises: CommandFailed."""
    with operator_client(arguments) as client:
        found = client.get(_ACTIVATIONS)
    return _print(arguments, found, (_line(item) for item in _items(found, "activations")), none="nothing is activated")


def run_show(arguments: argparse.Namespace) -> int:
    """Show one with its uses. Raises: CommandFailed."""
    with operator_client(arguments) as client:
        found = client.get(_path(_ACTIVATIONS, arguments.activation_id))
    unread = "its uses cannot be read now" if found.get("reviews") is None else "no use is stored yet"
    lines = [_line(found), *(review_line(item) for item in _items(found, "reviews"))]
    return _print(arguments, found, lines if len(lines) > 1 else [*lines, unread])


# --- details ----------------------------------------------------------------------------------------------------------


def _path(root: str, name: str) -> str:
    return f"{root}/{quote(name, safe='')}"


def _items(document: dict[str, JSON], member: str) -> list[dict[str, JSON]]:
    found = document.get(member)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _print(
    arguments: argparse.Namespace, document: dict[str, JSON], lines: Iterable[str], *, none: str | None = None
) -> int:
    if arguments.json:
        print(json.dumps(document))
        return 0
    shown = [*lines] or ([] if none is None else [none])
    for text in shown:
        print(text)
    return 0


def _line(item: dict[str, JSON]) -> str:
    confirmed = item.get("confirmed_by")
    people = [str(item.get("by")), *(str(name) for name in confirmed)] if isinstance(confirmed, list) else []
    return (
        f"{item.get('activation_id')}: {item.get('policy')}, {item.get('state')}, until {item.get('expires_at')}, "
        f"{item.get('uses')} of {item.get('max_uses')} uses, by {' and '.join(people)}: {item.get('reason')}"
    )


def _next(item: dict[str, JSON]) -> str:
    """Say what to do now."""
    if item.get("state") == "pending":
        command = f"holdfast break-glass confirm {item.get('activation_id')}"
        return f"  {item.get('people')} people must stand behind it: {command}"
    if item.get("recorded") == "journal":
        return f"  PostgreSQL is away: only `{item.get('home')}` knows of it"
    return "  every replica hears of it"
