"""What changes from one bundle to another, in the words of policy: looser changes first.

A change is looser when it can only let more through, stricter when it can only let less through, and either when it
depends: a rule whose condition changed, a resource that is described differently. Replays answer those.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from holdfast.strict_json import JSON

    from services.decision.bundle import Bundle
    from services.decision.rules import Rule


class Direction(StrEnum):
    """Which way a change goes, in the order in which changes are listed."""

    LOOSER = "looser"
    EITHER = "either"
    STRICTER = "stricter"
    NEUTRAL = "neutral"


_OPPOSITE: Final = {Direction.LOOSER: Direction.STRICTER, Direction.STRICTER: Direction.LOOSER}
_IN_ORDER: Final = tuple(Direction)
_LEVELS: Final[Mapping[str, tuple[str, ...]]] = {
    "impact": ("critical", "high", "medium", "low"),
    "effect": ("external", "internal_write", "read"),
    "sensitivity": ("restricted", "confidential", "internal", "public"),
    "mode": ("closed", "open"),
}
#: Numbers that let more through the greater they are; where there is none, there is no bound.
_GREATER_IS_LOOSER: Final = frozenset(
    {
        "max",
        "max_length",
        "max_token_seconds",
        "maxCallsPerMinute",
        "maxTokensPerDay",
        "max_per_minute",
        "max_minutes",
        "max_uses",
        "lease_seconds",
        "claim_seconds",
        "ttl_seconds",
    }
)
_GREATER_IS_STRICTER: Final = frozenset({"min", "people"})
#: Truths that let more through, and truths that let less.
_TRUE_IS_LOOSER: Final = frozenset({"additional_parameters", "preauthorized", "reversible"})
_TRUE_IS_STRICTER: Final = frozenset({"required", "proof_of_possession"})
#: Lists of what is let through; where there is none, everything is (`models`: nothing).
_MORE_IS_LOOSER: Final = frozenset(
    {"tools", "models", "environments", "enum", "allow", "executor", "agents", "categories"}
)
_NEUTRAL: Final = frozenset({"description", "taxonomy", "owner", "title", "log", "personal", "version", "apiVersion"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change. `where` is a path of names such as `agents/bot/spec/tools`; None stands for absent."""

    direction: Direction
    where: str
    before: JSON
    after: JSON

    def to_json(self) -> dict[str, JSON]:
        """Return the wire form."""
        return {"direction": self.direction.value, "where": self.where, "before": self.before, "after": self.after}


def diff(old: Bundle, new: Bundle) -> tuple[Change, ...]:
    """Return every change of meaning, looser ones first. Tests, comments and layout have none."""
    changes = [
        *_tree("catalog", _catalog(old), _catalog(new)),
        *_tree("resources", _dumped(old.resources), _dumped(new.resources)),
        *_tree("agents", _manifests(old), _manifests(new)),
        *_tree("settings", old.settings.model_dump(mode="json"), new.settings.model_dump(mode="json")),
        *_rules(old, new),
    ]
    return tuple(sorted(changes, key=lambda change: (_IN_ORDER.index(change.direction), change.where)))


def _catalog(bundle: Bundle) -> dict[str, JSON]:
    document: dict[str, JSON] = bundle.catalog.model_dump(mode="json", by_alias=True)
    return document


def _manifests(bundle: Bundle) -> dict[str, JSON]:
    return {name: manifest.model_dump(mode="json", by_alias=True) for name, manifest in bundle.manifests.items()}


def _dumped(models: Mapping[str, object]) -> dict[str, JSON]:
    return {name: model.model_dump(mode="json") for name, model in models.items()}  # type: ignore[attr-defined]


# --- trees ------------------------------------------------------------------------------------------------------------


def _tree(where: str, old: JSON, new: JSON) -> Iterator[Change]:
    if old == new:
        return
    name = where.rpartition("/")[2]
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _tree(f"{where}/{key}", old.get(key), new.get(key))
    elif name in ("policies", "dataAccess") and isinstance(old, list) and isinstance(new, list):
        yield from _entries(where, old, new)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _lists(where, name, old, new)
    else:
        yield Change(direction=_direction(where, name, old, new), where=where, before=old, after=new)


def _lists(where: str, name: str, old: list[JSON], new: list[JSON]) -> Iterator[Change]:
    looser = name in _MORE_IS_LOOSER or "/approvals/roles/" in where
    kind = Direction.LOOSER if looser else Direction.EITHER
    added, removed = [item for item in new if item not in old], [item for item in old if item not in new]
    for item in added:
        yield Change(direction=kind, where=where, before=None, after=item)
    for item in removed:
        yield Change(direction=_OPPOSITE.get(kind, kind), where=where, before=item, after=None)
    if not added and not removed:
        yield Change(direction=Direction.EITHER, where=where, before=old, after=new)  # another order


def _entries(where: str, old: list[JSON], new: list[JSON]) -> Iterator[Change]:
    for item in new:
        if item not in old:
            yield Change(direction=_entry(item), where=where, before=None, after=item)
    for item in old:
        if item not in new:
            yield Change(direction=_OPPOSITE[_entry(item)], where=where, before=item, after=None)


def _entry(entry: JSON) -> Direction:
    allows = not isinstance(entry, dict) or entry.get("effect", "allow") == "allow"
    return Direction.LOOSER if allows else Direction.STRICTER


def _direction(where: str, name: str, old: JSON, new: JSON) -> Direction:
    if name in _NEUTRAL:
        return Direction.NEUTRAL
    if name in _LEVELS and old in _LEVELS[name] and new in _LEVELS[name]:
        return _by(_LEVELS[name].index(str(new)) > _LEVELS[name].index(str(old)))
    if isinstance(old, bool) and isinstance(new, bool) and name in _TRUE_IS_LOOSER | _TRUE_IS_STRICTER:
        return _by(new is (name in _TRUE_IS_LOOSER))
    before, after, rises = _number(old), _number(new), _rises(where, name)
    if before is not None and after is not None and rises is not None:
        return _by(rises is (after > before))
    if old is None or new is None:
        return _came_or_went(where, name, came=old is None)
    return Direction.EITHER


def _rises(where: str, name: str) -> bool | None:
    """Return whether a greater number lets more through; None if that depends."""
    if name in _GREATER_IS_LOOSER or "/max_seconds/" in where or "/risk/tiers/" in where:
        return True
    return False if name in _GREATER_IS_STRICTER or "/risk/weights/" in where else None


def _came_or_went(where: str, name: str, *, came: bool) -> Direction:
    """Return the direction of a whole thing that came or went."""
    parts = where.split("/")
    if len(parts) == 2 and parts[0] == "agents":  # noqa: PLR2004 - agents/NAME
        return _by(came)
    if len(parts) == 3 and parts[:2] in (["catalog", "actions"], ["settings", "break_glass"]):  # noqa: PLR2004
        return _by(came)
    if name in _GREATER_IS_LOOSER | _GREATER_IS_STRICTER or name in ("rateLimit", "schedule", "enum", "environments"):
        return _by(not came)  # a bound that came is stricter
    if name == "models":
        return _by(came)  # without a list no model is let through
    return Direction.EITHER


def _by(looser: bool) -> Direction:  # noqa: FBT001 - the answer itself
    return Direction.LOOSER if looser else Direction.STRICTER


def _number(value: JSON) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


# --- rules ------------------------------------------------------------------------------------------------------------


def _rules(old: Bundle, new: Bundle) -> Iterator[Change]:
    before, after = {rule.id: rule for rule in old.rules}, {rule.id: rule for rule in new.rules}
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one is None or other is None or one.text != other.text:
            yield Change(
                direction=_rule(one, other),
                where=f"rules/{name}",
                before=None if one is None else one.text,
                after=None if other is None else other.text,
            )


def _rule(old: Rule | None, new: Rule | None) -> Direction:  # noqa: PLR0911 - a table of cases
    if old is None and new is not None:
        return _by(not new.forbids)
    if new is None and old is not None:
        return _by(old.forbids)
    if old is None or new is None:
        return Direction.NEUTRAL
    if old.forbids != new.forbids:
        return _by(old.forbids)
    if _without_annotations(old) == _without_annotations(new):
        if old.approval == new.approval:
            return Direction.NEUTRAL
        if old.approval is None or new.approval is None:
            return _by(old.approval is None)  # a forbid that people can lift lets more through
        if old.approval.role == new.approval.role:
            return _by(new.approval.count < old.approval.count)
    return Direction.EITHER


def _without_annotations(rule: Rule) -> str:
    """Return the statement from its effect on, on one line."""
    text = " ".join(rule.text.split())
    found = [place for word in ("permit", "forbid") if (place := _effect(text, word)) >= 0]
    return text[min(found) :] if found else text


def _effect(text: str, word: str) -> int:
    """Return where the effect stands: the first such word outside of a string."""
    quoted = escaped = False
    for place, character in enumerate(text):
        if quoted:
            escaped, quoted = (not escaped and character == "\\"), escaped or character != '"'
        elif character == '"':
            quoted = True
        elif text.startswith(word, place):
            return place
    return -1


def shown(value: JSON) -> str:
    """Return a value for a person."""
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
