"""What Intercept answers, written from its documentation and nothing of the importer."""

from __future__ import annotations

import operator
import re
from functools import lru_cache
from typing import Any

import yaml


def decide(source: str, tool: str, args: dict[str, Any], *, counters: float = 1, per_minute: bool = True) -> str:
    """Answer one call. Every counter, after this call, stands at `counters`.

    Without `per_minute` the limits over all tools and a minute are somebody else's: the manifest's rate limit.
    """
    policy = _read(source)
    hidden = policy.get("hide", [])
    if tool in hidden or "*" in hidden:
        return "deny"
    tools = policy.get("tools", {})
    if policy.get("default", "allow") == "deny" and tool not in tools:
        return "deny"
    answer = "allow"
    for rule in [*(tools.get(tool) or {}).get("rules", []), *(tools.get("*") or {}).get("rules", [])]:
        action = rule.get("action", "evaluate")
        if action == "deny":
            return "deny"
        if "rate_limit" in rule:
            if not per_minute and rule in tools.get("*", {}).get("rules", []) and "/minute" in rule["rate_limit"]:
                continue
            if counters > int(rule["rate_limit"].split("/")[0]):
                return "deny"
            continue
        holds = all(_holds(condition, args, counters) for condition in rule.get("conditions", []))
        if action == "evaluate" and not holds:
            return "deny"
        if action == "require_approval" and holds:
            answer = "hold"
    return answer


@lru_cache(maxsize=4)
def _read(source: str) -> Any:
    return yaml.safe_load(source)


def _holds(condition: dict[str, Any], args: dict[str, Any], counters: float) -> bool:
    root, *path = condition["path"].split(".")
    value: Any = counters if root == "state" else args
    found = True
    for name in path if root == "args" else []:
        found = isinstance(value, dict) and name in value
        if not found:
            break
        value = value[name]
    op, expected = condition["op"], condition["value"]
    if op == "exists":
        return (found and value is not None) == expected
    return found and _compare(op, value, expected)


def _compare(op: str, value: Any, expected: Any) -> bool:
    if op in ("eq", "neq", "in", "not_in"):
        listed = expected if isinstance(expected, list) else [expected]
        return any(_equal(value, one) for one in listed) == (op in ("eq", "in"))
    if op == "regex":
        pattern = re.sub(r"(?<!\\)\$", r"\\Z", expected)
        return isinstance(value, str) and re.search(pattern, value) is not None
    if op == "contains":
        if isinstance(value, str):
            return isinstance(expected, str) and expected in value
        return isinstance(value, list) and any(_equal(one, expected) for one in value)
    size = {"lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge}[op]
    return _is_number(value) and size(value, expected)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _equal(left: Any, right: Any) -> bool:
    if _is_number(left) and _is_number(right):
        return left == right
    return type(left) is type(right) and left == right
