"""`holdfast operators|agents|executors …` on a running service: who there is, and who gets or loses a secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from console.cli.orders import add_agent_commands, seconds
from console.runtime.operator_client import add_service_options, operator_client
from services.credentials import Kind, Role

if TYPE_CHECKING:
    import argparse

    from holdfast.strict_json import JSON

    from console.cli.subparsers import Subparsers

_OPERATOR: Final = "/v1/operator"


def add_commands(commands: Subparsers, kind: Kind) -> None:
    """Add what is done to operators, agents or executors beside making them."""
    listing = commands.add_parser("list", help=f"every {kind}", allow_abbrev=False)
    listing.set_defaults(run=run_list)
    rotate = commands.add_parser("rotate", help="make a new secret in place of the old one", allow_abbrev=False)
    rotate.set_defaults(run=run_rotate)
    if kind is Kind.OPERATOR:
        _add_operator_commands(commands)
    else:
        rotate.add_argument(
            "--overlap", metavar="TIME", help="how long the old key stays good, such as 30m; at most 24h"
        )
    rotate.add_argument("name", metavar="NAME")
    rotate.add_argument("--note", metavar="TEXT", help="why")
    for command in (listing, rotate):
        command.set_defaults(kind=kind)
        add_service_options(command)
    if kind is Kind.AGENT:
        add_agent_commands(commands)


def _add_operator_commands(commands: Subparsers) -> None:
    role = commands.add_parser("role", help="give an operator another role", allow_abbrev=False)
    role.add_argument("name", metavar="NAME")
    role.add_argument("role", choices=[*Role])
    disable = commands.add_parser("disable", help="shut an operator out", allow_abbrev=False)
    disable.add_argument("name", metavar="NAME")
    enable = commands.add_parser("enable", help="let an operator in again, with a new token", allow_abbrev=False)
    enable.add_argument("name", metavar="NAME")
    for action, command in (("role", role), ("disable", disable), ("enable", enable)):
        command.add_argument("--note", metavar="TEXT", required=True, help="why")
        add_service_options(command)
        command.set_defaults(run=run_change, action=action, kind=Kind.OPERATOR)


def create(arguments: argparse.Namespace) -> dict[str, JSON]:
    """Return a new operator or key, made by the service. Raises: CommandFailed."""
    body: dict[str, JSON] = {"name": arguments.name}
    if arguments.kind is Kind.OPERATOR:
        body = {"username": arguments.name, "role": arguments.role}
    with operator_client(arguments) as client:
        return client.post(_path(arguments.kind), body)


def run_list(arguments: argparse.Namespace) -> int:
    """List. Raises: CommandFailed."""
    with operator_client(arguments) as client:
        document = client.get(_path(arguments.kind))
    if arguments.json:
        print(json.dumps(document))
        return 0
    line = _operator_line if arguments.kind is Kind.OPERATOR else _keyholder_line
    found = document.get(f"{arguments.kind}s")
    for item in found if isinstance(found, list) else []:
        if isinstance(item, dict):
            print(line(item))
    return 0


def run_rotate(arguments: argparse.Namespace) -> int:
    """Make a new secret. Raises: CommandFailed."""
    body: dict[str, JSON] = {} if arguments.note is None else {"note": arguments.note}
    if arguments.kind is not Kind.OPERATOR and arguments.overlap is not None:
        body["overlap_seconds"] = seconds(arguments.overlap)
    return _changed(arguments, "rotate", body)


def run_change(arguments: argparse.Namespace) -> int:
    """Change an operator. Raises: CommandFailed."""
    body: dict[str, JSON] = {"note": arguments.note}
    if arguments.action == "role":
        body["role"] = arguments.role
    return _changed(arguments, arguments.action, body)


def show(made: dict[str, JSON], *, as_json: bool) -> None:
    """Print what is shown once."""
    if as_json:
        print(json.dumps(made))
        return
    for name, value in made.items():
        print(f"{name}: {value}")
    if "token" in made:
        print("keep it now: only its hash is stored")


def _changed(arguments: argparse.Namespace, action: str, body: dict[str, JSON]) -> int:
    with operator_client(arguments) as client:
        answer = client.post(f"{_path(arguments.kind)}/{quote(arguments.name, safe='')}/{action}", body)
    show(answer, as_json=arguments.json)
    return 0


def _path(kind: Kind) -> str:
    return f"{_OPERATOR}/{kind}s"


def _operator_line(operator: dict[str, JSON]) -> str:
    out = operator.get("disabled_at")
    token = operator.get("token_created_at")
    state = (
        f"disabled since {out} by {operator.get('disabled_by')}"
        if out
        else f"token of {token}"
        if token
        else "no token"
    )
    return f"{operator.get('username'):<24}{operator.get('role'):<10}{state}"


def _keyholder_line(holder: dict[str, JSON]) -> str:
    keys, waiting, suspended = holder.get("keys"), holder.get("waiting"), holder.get("suspended")
    parts = ["keys unknown" if keys is None else "no key"]
    if isinstance(keys, list) and keys:
        parts = [_key_text(key) for key in keys if isinstance(key, dict)]
    if waiting:
        parts.append(f"{waiting} waiting")
    if isinstance(suspended, dict):
        parts.append(f"suspended by {suspended.get('by')}: {suspended.get('reason')}")
    return f"{holder.get('name'):<24}{', '.join(parts)}"


def _key_text(key: dict[str, JSON]) -> str:
    until = key.get("expires_at")
    return f"key of {key.get('created_at')}" + (f" until {until}" if until else "")
