"""`holdfast reviews`: what left around the evaluation, and what people found of it, asked of a running service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from console.runtime.failure import CommandFailed
from console.runtime.operator_client import add_service_options, operator_client

if TYPE_CHECKING:
    import argparse

    from holdfast.strict_json import JSON

    from console.cli.subparsers import Subparsers

_REVIEWS: Final = "/v1/operator/reviews"
_MODES: Final = ("break_glass", "fail_open", "operator")
_PAGE: Final = 100
_MAX_BULK: Final = 500
_BY: Final = {"fail_open": "was let through by fail-open", "operator": "was permitted by operators"}


def register(subparsers: Subparsers) -> None:
    """Add the commands."""
    parser = subparsers.add_parser("reviews", help="look at what left around the evaluation, and close its reviews")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = commands.add_parser("list", help="those that are open, the first due first", allow_abbrev=False)
    listing.add_argument("--all", action="store_true", help="closed ones too, newest first")
    listing.add_argument("--mode", choices=_MODES, help="only of what left this way")
    listing.add_argument("--limit", metavar="N", type=int, default=_PAGE, help=f"at most so many (default: {_PAGE})")
    listing.set_defaults(run=run_list)
    close = commands.add_parser("close", help="say what you found, of one or several", allow_abbrev=False)
    close.add_argument("review_ids", metavar="ID", nargs="+")
    close.add_argument("--verdict", choices=("justified", "unjustified"), required=True)
    close.add_argument("--note", metavar="TEXT", required=True)
    close.set_defaults(run=run_close)
    for command in (listing, close):
        add_service_options(command)


def run_list(arguments: argparse.Namespace) -> int:
    """List reviews. Raises: CommandFailed."""
    asked = {"state": "all" if arguments.all else "open"}
    if arguments.mode is not None:
        asked["mode"] = arguments.mode
    found: list[dict[str, JSON]] = []
    with operator_client(arguments) as client:
        while len(found) < arguments.limit:
            page = client.get(_REVIEWS, **asked, limit=str(min(arguments.limit - len(found), _MAX_BULK)))
            found += _objects(page.get("reviews"))
            after = page.get("next")
            if not isinstance(after, str):
                break
            asked["after"] = after
    if arguments.json:
        print(json.dumps({"reviews": found}))
        return 0
    for item in found:
        print(review_line(item))
    if not found:
        print("no review is open" if asked["state"] == "open" else "there is no review")
    return 0


def run_close(arguments: argparse.Namespace) -> int:
    """Close one review, or several at once; 1 if one of them was refused. Raises: CommandFailed."""
    ids: list[JSON] = list(dict.fromkeys(arguments.review_ids))
    if len(ids) > _MAX_BULK:
        raise CommandFailed(f"at most {_MAX_BULK} reviews at once")
    body: dict[str, JSON] = {"review_ids": ids, "verdict": arguments.verdict, "note": arguments.note}
    with operator_client(arguments) as client:
        results = _objects(client.post(f"{_REVIEWS}/close", body).get("results"))
    if arguments.json:
        print(json.dumps({"results": results}))
    else:
        for one in results:
            print(_result_line(one))
    return 0 if results and all(one.get("done") is True for one in results) else 1


def review_line(item: dict[str, JSON]) -> str:
    """Return one review in one line."""
    closed = item.get("verdict")
    state = closed or ("OVERDUE" if item.get("overdue") else f"due {item.get('due_at')}")
    marks = [name for name in ("flagged", "over_cap", "after_end", "voided") if item.get(name) is True]
    way = _BY.get(str(item.get("mode")), f"used {item.get('policy')}")
    return (
        f"{item.get('review_id')}: {state}, {item.get('agent')} {way} for {item.get('category')} "
        f"at {item.get('used_at')}, intent {item.get('intent_id')}, {', '.join([f'policy {_said(item)}', *marks])}"
        f"{'' if closed else _who_may_not(item)}"
    )


def _who_may_not(item: dict[str, JSON]) -> str:
    match item.get("behind"):
        case []:
            return ", nobody may close it: who stands behind it is not known"
        case list(behind):
            return f", not to be closed by {' or '.join(str(name) for name in behind)}"
        case _:
            return ""


def _said(item: dict[str, JSON]) -> str:
    match item.get("would"):
        case {"then": {"decision": str(then)}, "now": {"decision": str(now)}}:
            return f"said {then} then and says {now} now"
        case _:
            return "was not asked yet"


def _result_line(result: dict[str, JSON]) -> str:
    problem = result.get("problem")
    if isinstance(problem, dict):
        return f"{result.get('review_id')}: refused, {problem.get('reason_code')}: {problem.get('detail')}"
    return f"{result.get('review_id')}: {result.get('verdict')}"


def _objects(found: JSON) -> list[dict[str, JSON]]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
