"""What the author of a misspelt name may have meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import BaseModel

#: Comparing takes time linear in the names; beyond this many there is no hint.
MAX_NAMES: Final = 2_000
_CUTOFF: Final = 0.7


def meant(name: str, known: Iterable[str]) -> str:
    """Return `: did you mean `x`?`, or nothing where no known name is near."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name[:128], names, n=1, cutoff=_CUTOFF) if len(names) <= MAX_NAMES else []
    return f": did you mean `{near[0]}`?" if near else ""


def fields(model: type[BaseModel], location: Sequence[str | int]) -> set[str]:
    """Return the names of the fields that `model` knows at a place in a file."""
    whole: dict[str, Any] = model.model_json_schema()
    found = [whole]
    for part in location:
        found = [inner for schema in found for inner in _inside(whole, schema, part)]
    return {name for schema in found for one in _resolved(whole, schema) for name in one.get("properties", ())}


def _inside(whole: dict[str, Any], schema: dict[str, Any], part: str | int) -> list[dict[str, Any]]:
    inner: list[dict[str, Any]] = []
    for one in _resolved(whole, schema):
        if isinstance(part, int):
            inner.append(one.get("items", {}))
        elif part in one.get("properties", {}):
            inner.append(one["properties"][part])
        elif isinstance(one.get("additionalProperties"), dict):
            inner.append(one["additionalProperties"])
        elif "patternProperties" in one:
            inner.extend(one["patternProperties"].values())
        elif one.get("properties", {}).get("type", {}).get("const") == part:
            inner.append(one)  # pydantic names the chosen branch of a union
    return inner


def _resolved(whole: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schemas that a place may have, without references."""
    while "$ref" in schema:
        schema = whole["$defs"][schema["$ref"].rpartition("/")[2]]
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return [one for branch in branches for one in _resolved(whole, branch)] if branches else [schema]
