"""`holdfast halt|resume|overrides|boundaries` and `agents suspend|resume`: orders to a running service."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from console.runtime.failure import CommandFailed
from console.runtime.operator_client import add_service_options, operator_client, operator_clients

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from holdfast.strict_json import JSON

    from console.cli.subparsers import Subparsers

_OPERATOR: Final = "/v1/operator"
_ALONE: Final = (
    "  PostgreSQL is away: it counts at the replicas asked just now; give --url once for each of the others as well"
)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600}


def register(subparsers: Subparsers) -> None:
    """Add the commands."""
    halt = subparsers.add_parser(
        "halt", help="stop everything, an agent, a category or an executor", allow_abbrev=False
    )
    _add_scope(halt, required=False)
    halt.add_argument("--reason", metavar="TEXT", help="why; without one, and without a scope, halts are listed")
    add_service_options(halt, many=True)
    halt.set_defaults(run=run_halt)

    resume = subparsers.add_parser("resume", help="end a halt", allow_abbrev=False)
    _add_scope(resume, required=True)
    resume.add_argument("--note", metavar="TEXT", required=True, help="why it may run again")
    add_service_options(resume)
    resume.set_defaults(run=run_resume)

    _add_overrides(subparsers.add_parser("overrides", help="let reads pass while they cannot be evaluated"))
    _add_boundaries(subparsers.add_parser("boundaries", help="look at the boundaries, hold one open, probe one"))


def add_agent_commands(commands: Subparsers) -> None:
    """Add `suspend` and `resume` to `agents`."""
    suspend = commands.add_parser("suspend", help="deny an agent everything", allow_abbrev=False)
    suspend.add_argument("name", metavar="NAME")
    suspend.add_argument("--reason", metavar="TEXT", required=True)
    add_service_options(suspend, many=True)
    suspend.set_defaults(run=run_suspend)
    resume = commands.add_parser("resume", help="end an agent's suspension", allow_abbrev=False)
    resume.add_argument("name", metavar="NAME")
    resume.add_argument("--note", metavar="TEXT", required=True)
    add_service_options(resume)
    resume.set_defaults(run=run_reinstate)


def _add_scope(parser: argparse.ArgumentParser, *, required: bool) -> None:
    scope = parser.add_mutually_exclusive_group(required=required)
    scope.add_argument("--all", action="store_true", help="everything")
    for kind in ("agent", "category", "executor"):
        scope.add_argument(f"--{kind}", metavar="NAME")


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    put = commands.add_parser("set", help="let reads of a tier pass until it expires", allow_abbrev=False)
    put.add_argument("tier", choices=("low", "medium"))
    put.add_argument("--expires-in", metavar="TIME", required=True, help="such as 90s, 30m or 2h; at most 24h")
    put.add_argument("--max-per-minute", metavar="N", type=int, default=60, help="at most so many (default: 60)")
    put.add_argument("--reason", metavar="TEXT", required=True)
    put.set_defaults(run=run_set_override)
    listing = commands.add_parser("list", help="those in force", allow_abbrev=False)
    listing.set_defaults(run=run_list_overrides)
    end = commands.add_parser("end", help="end one before it expires", allow_abbrev=False)
    end.add_argument("order_id", metavar="ID")
    end.add_argument("--note", metavar="TEXT", required=True)
    end.set_defaults(run=run_end_override)
    for command in (put, listing, end):
        add_service_options(command)


def _add_boundaries(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = commands.add_parser("list", help="each with its state", allow_abbrev=False)
    listing.set_defaults(run=run_list_boundaries)
    force = commands.add_parser("force-open", help="hold one open on every replica", allow_abbrev=False)
    force.set_defaults(run=run_force_open)
    reset = commands.add_parser("reset", help="let go of one, and probe it", allow_abbrev=False)
    reset.set_defaults(run=run_reset)
    for command in (force, reset):
        command.add_argument("name", choices=("intent", "evaluation", "token", "audit"))
        command.add_argument("--reason", metavar="TEXT", required=True)
    for command in (listing, force, reset):
        add_service_options(command)


# --- halts and suspensions --------------------------------------------------------------------------------------------


def run_halt(arguments: argparse.Namespace) -> int:
    """Halt, or list the halts. Raises: CommandFailed."""
    scope = _scope(arguments)
    if scope is None and arguments.reason is None:
        with operator_client(_first(arguments)) as client:
            halts = _items(client.get(f"{_OPERATOR}/halt"), "halts")
        return _print(arguments, {"halts": [*halts]}, (_halt_line(halt) for halt in halts), none="nothing is halted")
    if scope is None or arguments.reason is None:
        raise CommandFailed("a halt has a scope (--all, --agent, --category or --executor) and a --reason")
    return _stop(arguments, f"{_OPERATOR}/halt", {**scope, "reason": arguments.reason}, _halt_line)


def run_resume(arguments: argparse.Namespace) -> int:
    """End a halt. Raises: CommandFailed."""
    with operator_client(arguments) as client:
        ended = client.post(f"{_OPERATOR}/resume", {**(_scope(arguments) or {}), "note": arguments.note})
    return _print(arguments, ended, [f"resumed: {_what(ended)}"])


def run_suspend(arguments: argparse.Namespace) -> int:
    """Suspend an agent. Raises: CommandFailed."""
    path = f"{_OPERATOR}/agents/{quote(arguments.name, safe='')}/suspend"
    return _stop(arguments, path, {"reason": arguments.reason}, lambda _: f"suspended: {arguments.name}")


def run_reinstate(arguments: argparse.Namespace) -> int:
    """End a suspension. Raises: CommandFailed."""
    with operator_client(arguments) as client:
        path = f"{_OPERATOR}/agents/{quote(arguments.name, safe='')}/resume"
        ended = client.post(path, {"note": arguments.note})
    return _print(arguments, ended, [f"resumed: {arguments.name}"])


# --- overrides --------------------------------------------------------------------------------------------------------


def run_set_override(arguments: argparse.Namespace) -> int:
    """Set an override. Raises: CommandFailed."""
    body: dict[str, JSON] = {
        "tier": arguments.tier,
        "reason": arguments.reason,
        "expires_in": seconds(arguments.expires_in),
        "max_per_minute": arguments.max_per_minute,
    }
    with operator_client(arguments) as client:
        order = client.post(f"{_OPERATOR}/overrides", body)
    warnings = order.get("warnings")
    lines = [f"warning: {warning}" for warning in warnings] if isinstance(warnings, list) else []
    return _print(arguments, order, [_override_line(order), *lines])


def run_list_overrides(arguments: argparse.Namespace) -> int:
    """List the overrides in force. Raises: CommandFailed."""
    with operator_client(arguments) as client:
        found = _items(client.get(f"{_OPERATOR}/overrides"), "overrides")
    lines = (_override_line(order) for order in found)
    return _print(arguments, {"overrides": [*found]}, lines, none="no override is in force")


def run_end_override(arguments: argparse.Namespace) -> int:
    """End an override. Raises: CommandFailed."""
    with operator_client(arguments) as client:
        path = f"{_OPERATOR}/overrides/{quote(arguments.order_id, safe='')}/end"
        ended = client.post(path, {"note": arguments.note})
    return _print(arguments, ended, [f"ended: {ended.get('order_id')}"])


# --- boundaries -------------------------------------------------------------------------------------------------------


def run_list_boundaries(arguments: argparse.Namespace) -> int:
    """List the boundaries. Raises: CommandFailed."""
    with operator_client(arguments) as client:
        document = client.get(f"{_OPERATOR}/boundaries")
    found, warnings = _items(document, "boundaries"), document.get("warnings")
    lines = [_boundary_line(state) for state in found]
    lines += [f"warning: {warning}" for warning in warnings] if isinstance(warnings, list) else []
    return _print(arguments, document, lines)


def run_force_open(arguments: argparse.Namespace) -> int:
    """Hold a boundary open. Raises: CommandFailed."""
    with operator_client(arguments) as client:
        path = f"{_OPERATOR}/boundaries/{arguments.name}/force-open"
        order = client.post(path, {"reason": arguments.reason})
    return _print(arguments, order, [f"held open: {arguments.name}, by {order.get('by')}: {order.get('reason')}"])


def run_reset(arguments: argparse.Namespace) -> int:
    """Let go of a boundary. Raises: CommandFailed."""
    with operator_client(arguments) as client:
        path = f"{_OPERATOR}/boundaries/{arguments.name}/reset"
        state = client.post(path, {"reason": arguments.reason})
    return _print(arguments, state, [_boundary_line(state)])


# --- details ----------------------------------------------------------------------------------------------------------


def _stop(
    arguments: argparse.Namespace, path: str, body: dict[str, JSON], line: Callable[[dict[str, JSON]], str]
) -> int:
    """Order it at every replica, whatever the others say, and print where it counts.

    Raises: CommandFailed, when all were asked, if any did not take it.
    """
    taken: list[dict[str, JSON]] = []
    failures: list[str] = []
    with operator_clients(arguments) as clients:
        for client in clients:
            try:
                taken.append(client.post(path, body))
            except CommandFailed as error:
                failures.append(str(error) if len(clients) == 1 else f"{client.base_url}: {error}")
    if taken:
        alone = any(answer.get("recorded") == "journal" for answer in taken)
        _print(arguments, taken[0], [line(taken[0]), *([_ALONE] if alone else [])])
    if failures:
        raise CommandFailed("\n".join(failures))
    return 0


def _scope(arguments: argparse.Namespace) -> dict[str, JSON] | None:
    if arguments.all:
        return {"scope": "all"}
    for kind in ("agent", "category", "executor"):
        subject = getattr(arguments, kind)
        if subject is not None:
            return {"scope": kind, "subject": subject}
    return None


def _first(arguments: argparse.Namespace) -> argparse.Namespace:
    """Ask one replica only: enough for a look."""
    arguments.url = arguments.url[0] if arguments.url else None
    return arguments


def seconds(text: str) -> int:
    """Return how many seconds `90s`, `30m` or `2h` are. Raises: CommandFailed."""
    found = re.fullmatch(r"([0-9]{1,6})([smh])", text)
    if found is None:
        raise CommandFailed(f"`{text}` is no time such as 90s, 30m or 2h")
    return int(found[1]) * _UNITS[found[2]]


def _items(document: dict[str, JSON], member: str) -> list[dict[str, JSON]]:
    found = document.get(member)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _print(
    arguments: argparse.Namespace, document: dict[str, JSON], lines: Iterable[str], *, none: str | None = None
) -> int:
    if arguments.json:
        print(json.dumps(document))
        return 0
    printed = False
    for text in lines:
        print(text)
        printed = True
    if none is not None and not printed:
        print(none)
    return 0


def _what(order: dict[str, JSON]) -> str:
    subject = order.get("subject")
    return "everything" if subject is None else f"{order.get('scope')} {subject}"


def _halt_line(order: dict[str, JSON]) -> str:
    return f"halted: {_what(order)}, since {order.get('at')} by {order.get('by')}: {order.get('reason')}"


def _override_line(order: dict[str, JSON]) -> str:
    return (
        f"{order.get('order_id')}: reads of {order.get('scope')} impact, {order.get('max_per_minute')} a minute until "
        f"{order.get('expires_at')}, by {order.get('by')}: {order.get('reason')}"
    )


def _boundary_line(state: dict[str, JSON]) -> str:
    error, held = state.get("last_error"), state.get("held_open")
    why = f", held open by {held.get('by')}: {held.get('reason')}" if isinstance(held, dict) else ""
    return f"{state.get('name'):<12}{state.get('state')}{why}" + (f", last error: {error}" if error else "")
