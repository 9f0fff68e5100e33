"""`holdfast queue …`: what waits, and what an operator does with it, on a running service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from console.runtime.failure import CommandFailed
from console.runtime.operator_client import add_service_options, operator_client

if TYPE_CHECKING:
    import argparse

    from holdfast.strict_json import JSON

    from console.cli.subparsers import Subparsers
    from console.runtime.operator_client import OperatorClient

_QUEUE: Final = "/v1/operator/queue"
_LANES: Final = ("safety", "critical", "normal", "bulk")
_STATES: Final = ("waiting", "leased", "held", "parked", "claimable")
_FILTERS: Final = ("state", "lane", "agent", "category", "reason_code", "queued_before", "queued_after")
_PAGE: Final = 100
_MAX_BULK: Final = 500
_ACTIONS: Final = {
    "approve": "say yes to what needs people, or to what an outage keeps from being evaluated",
    "deny": "end it with a no",
    "cancel": "end what nobody needs any more",
    "reprioritize": "move it to another lane",
    "retry": "try a parked one again, or judge a held one on the policies in force",
}


def register(subparsers: Subparsers) -> None:
    """Add the commands."""
    queue = subparsers.add_parser("queue", help="look at what waits, and decide it", allow_abbrev=False)
    commands = queue.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = commands.add_parser("list", help="what waits, first in line first", allow_abbrev=False)
    listing.add_argument("--state", choices=_STATES)
    listing.add_argument("--lane", choices=_LANES)
    listing.add_argument("--agent", metavar="NAME")
    listing.add_argument("--category", metavar="NAME")
    listing.add_argument("--reason-code", metavar="CODE")
    listing.add_argument("--queued-before", metavar="TIME", help="such as 2026-11-20T10:00:00Z")
    listing.add_argument("--queued-after", metavar="TIME")
    listing.add_argument("--limit", metavar="N", type=int, default=_PAGE, help=f"at most so many (default: {_PAGE})")
    add_service_options(listing)
    listing.set_defaults(run=run_list)
    show = commands.add_parser("show", help="everything about one intent", allow_abbrev=False)
    show.add_argument("intent_id", metavar="ID")
    add_service_options(show)
    show.set_defaults(run=run_show)
    for action, summary in _ACTIONS.items():
        command = commands.add_parser(action, help=summary, allow_abbrev=False)
        command.add_argument("intent_ids", metavar="ID", nargs="+")
        command.add_argument("--note", metavar="TEXT", help="why; needed for several, a denial, high impact")
        if action == "reprioritize":
            command.add_argument("--lane", choices=_LANES, required=True)
        if action == "approve":
            command.add_argument("--act-hash", metavar="DIGEST", help="of the one action that was seen")
        add_service_options(command)
        command.set_defaults(run=run_change, action=action)


def run_list(arguments: argparse.Namespace) -> int:
    """List what waits. Raises: CommandFailed."""
    query = {name: getattr(arguments, name) for name in _FILTERS if getattr(arguments, name) is not None}
    found: list[dict[str, JSON]] = []
    with operator_client(arguments) as client:
        more: dict[str, str] = {}
        while len(found) < arguments.limit:
            limit = str(min(arguments.limit - len(found), _MAX_BULK))
            page = client.get(_QUEUE, **query, **more, limit=limit)
            found += _objects(page.get("items"))
            after = page.get("next")
            if not isinstance(after, str):
                break
            more = {"after": after}
    if arguments.json:
        print(json.dumps({"items": found}))
    else:
        for item in found:
            print(_item_line(item))
        if not found:
            print("nothing waits")
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Show one intent. Raises: CommandFailed."""
    with operator_client(arguments) as client:
        whole = client.get(f"{_QUEUE}/{arguments.intent_id}")
    if arguments.json:
        print(json.dumps(whole))
        return 0
    for name in ("intent_id", "status", "agent", "owner", "impact", "version", "act_hash", "bundle"):
        print(f"{name}: {whole.get(name)}")
    print(f"intent: {json.dumps(whole.get('intent'), indent=2)}")
    judged = whole.get("now")
    if isinstance(judged, dict):
        print(f"the rules say: {judged.get('decision')}, {judged.get('detail')}")
    for need in _objects(whole.get("needed")):
        print(f"needs: {_need_text(need)}")
    outage = whole.get("needed_in_outage")
    if isinstance(outage, dict):
        print(f"while it cannot be evaluated: {outage.get('count')} people, {outage.get('missing')} missing")
    for approval in _objects(whole.get("approvals")):
        counts = "" if approval.get("counts") else " (does not count)"
        print(f"approved: {approval.get('by')} at {approval.get('at')}{counts}: {approval.get('note')}")
    return 0


def run_change(arguments: argparse.Namespace) -> int:
    """Change one intent, or several at once; 1 if one of them was refused. Raises: CommandFailed."""
    ids: list[str] = arguments.intent_ids
    if len(ids) > _MAX_BULK:
        raise CommandFailed(f"at most {_MAX_BULK} intents at once")
    if len(ids) > 1 and arguments.note is None:
        raise CommandFailed("to change several at once, say why with --note")
    with operator_client(arguments) as client:
        if len(ids) == 1:
            body = {**_seen(client, ids[0], arguments), **({} if arguments.note is None else {"note": arguments.note})}
            result: dict[str, JSON] = {"done": True, "intent_id": ids[0]}
            result["intent"] = client.post(f"{_QUEUE}/{ids[0]}/{arguments.action}", body)
            results = [result]
        else:
            items: list[JSON] = [{"intent_id": one, **_seen(client, one, arguments)} for one in ids]
            bulk: dict[str, JSON] = {"action": arguments.action, "items": items, "note": arguments.note}
            results = _objects(client.post(f"{_QUEUE}/bulk", bulk).get("results"))
    if arguments.json:
        print(json.dumps({"results": results}))
    else:
        for one in results:
            print(_result_line(one))
    return 0 if all(one.get("done") is True for one in results) else 1


def _seen(client: OperatorClient, intent_id: str, arguments: argparse.Namespace) -> dict[str, JSON]:
    """Return what a change names of the intent as it is now."""
    whole = client.get(f"{_QUEUE}/{intent_id}")
    seen: dict[str, JSON] = {"version": whole.get("version")}
    if arguments.action == "approve":
        seen |= {"act_hash": arguments.act_hash or whole.get("act_hash"), "bundle": whole.get("bundle")}
    if arguments.action == "reprioritize":
        seen["lane"] = arguments.lane
    return seen


def _objects(found: JSON) -> list[dict[str, JSON]]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _need_text(need: dict[str, JSON]) -> str:
    people = need.get("approved_by")
    given = ", ".join(str(name) for name in people) if isinstance(people, list) and people else "nobody yet"
    return f"{need.get('count')} of {need.get('role')} for {need.get('rule')}; approved by {given}"


def _item_line(item: dict[str, JSON]) -> str:
    needs = "; ".join(f"needs {_need_text(need)}" for need in _objects(item.get("needed")))
    place = f"{item.get('state')}, lane {item.get('lane')}, {item.get('reason_code')}"
    line = f"{item.get('intent_id')}: {item.get('agent')}, {item.get('category')}, {place}"
    return f"{line}, until {item.get('expires_at')}{'; ' + needs if needs else ''}"


def _result_line(result: dict[str, JSON]) -> str:
    intent, problem = result.get("intent"), result.get("problem")
    if isinstance(problem, dict):
        return f"{result.get('intent_id')}: refused, {problem.get('reason_code')}: {problem.get('detail')}"
    if not isinstance(intent, dict):
        return f"{result.get('intent_id')}: no answer"
    outcome = intent.get("outcome")
    detail = f", {outcome.get('detail')}" if isinstance(outcome, dict) else ""
    return f"{result.get('intent_id')}: {intent.get('status')}{detail}"
