"""Cedar's forms of what the bundle says: literals, schema, entity names. Text in, text out.

Source: https://docs.cedarpolicy.com (policy syntax, JSON schema format, entity JSON), Cedar 4.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from services.decision.catalog import (
    ArrayParameter,
    BooleanParameter,
    DecimalParameter,
    IntegerParameter,
    ObjectParameter,
    Parameter,
    StringParameter,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from services.decision.catalog import CatalogAction, Category

#: JSON as Cedar takes it: no null, no floats.
CedarJSON: TypeAlias = "bool | int | str | list[CedarJSON] | dict[str, CedarJSON]"

#: What rules see beside agent, action and resource.
CONTEXT: Final = frozenset(
    {
        "operation",
        "environment",
        "executor",
        "parameters",
        "risk",
        "time",
        "drained",
        "queue_age_seconds",
        "on_behalf_of",
        "model",
    }
)

_STRING: Final[dict[str, CedarJSON]] = {"type": "String"}
_LONG: Final[dict[str, CedarJSON]] = {"type": "Long"}
_BOOLEAN: Final[dict[str, CedarJSON]] = {"type": "Boolean"}
_STRINGS: Final[dict[str, CedarJSON]] = {"type": "Set", "element": {"type": "String"}}
_RESOURCE: Final = {"type": _STRING, "id": _STRING, "sensitivity": _STRING, "labels": _STRINGS}


def quoted(text: str) -> str:
    """Return `text` as a Cedar string literal, whatever it holds."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def like(pattern: str) -> str:
    """Return a pattern with `*` as the right side of Cedar's `like`."""
    return '"' + "".join("*" if character == "*" else _escaped(character) for character in pattern) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isascii() and character.isprintable():
        return character
    return f"\\u{{{ord(character):x}}}"


def action_groups(category_name: str, category: Category) -> tuple[str, ...]:
    """Return the groups in which an action stands."""
    return f"category:{category_name}", f"impact:{category.impact}", f"effect:{category.effect}"


def resource_matches(pattern: str) -> str | None:
    """Return the Cedar condition under which `type/id` matches `pattern`; None when it always does.

    A type holds no slash, so the slash between type and id is either the pattern's first literal slash or inside one of
    the `*` before it: one alternative for each.
    """
    alternatives: list[str] = []
    for index, character in enumerate(pattern):
        if character == "/":
            alternatives.append(_both(pattern[:index], pattern[index + 1 :]))
            break
        if character == "*":
            alternatives.append(_both(pattern[: index + 1], pattern[index:]))
    if "true" in alternatives:
        return None
    return " || ".join(dict.fromkeys(alternatives)) or "false"


def _both(type_pattern: str, id_pattern: str) -> str:
    sides = [_side("type", type_pattern), _side("id", id_pattern)]
    text = " && ".join(side for side in sides if side != "true") or "true"
    return f"({text})" if "&&" in text else text


def _side(attribute: str, pattern: str) -> str:
    if pattern.strip("*") == "" and pattern:
        return "true"
    if "*" in pattern:
        return f"resource.{attribute} like {like(pattern)}"
    return f"resource.{attribute} == {quoted(pattern)}"


def schema(
    actions: Mapping[str, CatalogAction],
    categories: Mapping[str, Category],
    *,
    context: frozenset[str] = CONTEXT,
) -> dict[str, CedarJSON]:
    """Return the Cedar schema of these actions, in Cedar's JSON schema format. Strict: attributes are closed.

    `context` names the attributes that the context has.
    """
    declared: dict[str, CedarJSON] = {}
    for name, action in actions.items():
        groups = action_groups(action.category, categories[action.category])
        for group in groups:
            declared.setdefault(group, {})
        declared[name] = {
            "memberOf": [{"id": group} for group in groups],
            "appliesTo": {
                "principalTypes": ["Agent"],
                "resourceTypes": ["Resource"],
                "context": _context(action, context),
            },
        }
    return {
        "": {
            "entityTypes": {
                "AgentGroup": {},
                "Agent": {"memberOfTypes": ["AgentGroup"], "shape": _record({"owner": _STRING, "labels": _STRINGS})},
                "Resource": {"shape": _record(_RESOURCE)},
            },
            "actions": declared,
        }
    }


def check_resource(attributes: Mapping[str, CedarJSON]) -> None:
    """Return if the attributes are those of the schema's Resource, with its types. Raises: TypeError."""
    if attributes.keys() != _RESOURCE.keys():
        raise TypeError("the resource does not have the attributes of the schema")
    labels = attributes["labels"]
    if not isinstance(labels, list):
        raise TypeError("the resource's labels are a list")
    for text in (attributes["type"], attributes["id"], attributes["sensitivity"], *labels):
        if not isinstance(text, str):
            raise TypeError("the resource's attributes are texts")


def _context(action: CatalogAction, kept: frozenset[str]) -> dict[str, CedarJSON]:
    attributes = {
        "operation": _STRING,
        "environment": _STRING,
        "executor": _STRING,
        "parameters": _parameters(action.parameters),
        "risk": _record({"score": _LONG, "tier": _STRING}),
        "time": _record({"epoch": _LONG, "hour": _LONG, "weekday": _STRING}),
        "drained": _BOOLEAN,
        "queue_age_seconds": _LONG,
        "on_behalf_of": _STRING,
        "model": _STRING,
    }
    return _record({name: attributes[name] for name in sorted(kept)}, optional=("on_behalf_of", "model"))


def _parameters(parameters: Mapping[str, Parameter]) -> dict[str, CedarJSON]:
    return _record(
        {name: _parameter(parameter) for name, parameter in parameters.items()},
        optional=[name for name, parameter in parameters.items() if not parameter.required],
    )


def _parameter(parameter: Parameter) -> dict[str, CedarJSON]:
    match parameter:
        case StringParameter():
            return _STRING
        case IntegerParameter():
            return _LONG
        case BooleanParameter():
            return _BOOLEAN
        case DecimalParameter():
            return {"type": "Extension", "name": "decimal"}
        case ArrayParameter():
            return {"type": "Set", "element": _parameter(parameter.items)}
        case ObjectParameter():
            return _parameters(parameter.fields)
        case _:
            assert_never(parameter)


def _record(attributes: Mapping[str, dict[str, CedarJSON]], *, optional: Iterable[str] = ()) -> dict[str, CedarJSON]:
    left_out = frozenset(optional)
    shape: dict[str, CedarJSON] = {}
    for name, attribute in attributes.items():
        shape[name] = {**attribute, "required": False} if name in left_out else attribute
    return {"type": "Record", "attributes": shape}
