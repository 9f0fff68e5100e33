"""The strictness that every policy file shares: closed, frozen, nothing coerced, errors with their line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from services.decision import finding, hint
from services.decision.finding import BundleInvalid
from services.decision.strict_yaml import compose

if TYPE_CHECKING:
    from services.decision.finding import Finding
    from services.decision.strict_yaml import Node

T = TypeVar("T")
M = TypeVar("M", bound="StrictModel")

#: A name that stands in ids, tokens and addresses.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
#: An action, a tool, a resource pattern: visible characters without spaces.
Pattern = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f\x7f]{1,640}$")]
#: An action's name fits an intent's.
ActionName = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f\x7f]{1,128}$")]
#: Words for people.
Text = Annotated[str, StringConstraints(max_length=2000)]
#: A short label that rules compare.
Label = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,128}$")]

_FILE: Final = "the file"

Items = Annotated[tuple[T, ...], Field(strict=False)]


def _distinct(items: tuple[str, ...]) -> tuple[str, ...]:
    if repeated := sorted({item for item in items if items.count(item) > 1}):
        raise ValueError(f"`{repeated[0]}` stands twice")
    return items


Distinct = Annotated[tuple[T, ...], Field(strict=False), AfterValidator(_distinct)]


class StrictModel(BaseModel):
    """A part of a policy file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


_MESSAGES: Final[dict[str, Callable[[str, dict[str, Any]], str]]] = {
    "missing": lambda name, _: f"`{name}` is missing",
    "extra_forbidden": lambda name, _: f"unknown field `{name}`",
    "string_type": lambda name, _: f"`{name}` must be a string",
    "int_type": lambda name, _: f"`{name}` must be an integer",
    "bool_type": lambda name, _: f"`{name}` must be true or false",
    "tuple_type": lambda name, _: f"`{name}` must be a list",
    "dict_type": lambda name, _: f"`{name}` must be a mapping",
    "mapping_type": lambda name, _: f"`{name}` must be a mapping",
    "model_type": lambda name, _: f"`{name}` must be a mapping",
    "model_attributes_type": lambda name, _: f"`{name}` must be a mapping",
    "enum": lambda name, context: f"`{name}` must be {context['expected']}",
    "literal_error": lambda name, context: f"`{name}` must be {context['expected']}",
    "greater_than_equal": lambda name, context: f"`{name}` must be at least {context['ge']}",
    "less_than_equal": lambda name, context: f"`{name}` must be at most {context['le']}",
    "string_too_long": lambda name, context: f"`{name}` has more than {context['max_length']} characters",
    "string_pattern_mismatch": lambda name, _: f"`{name}` has characters that are not allowed, or a wrong length",
    "too_short": lambda name, _: f"`{name}` must not be empty",
    "too_long": lambda name, context: f"`{name}` has more than {context['max_length']} entries",
    "union_tag_not_found": lambda name, _: f"`type` is missing in `{name}`",
    "union_tag_invalid": lambda name, context: f"`type` of `{name}` must be one of {context['expected_tags']}",
}


def read_model(path: str, data: bytes, model: type[M], *, nulls_below: str | None = None) -> tuple[M, Node]:
    """Return the file as `model`, and its tree for later findings. Raises: BundleInvalid, with places.

    A key without a value is refused, except below keys named `nulls_below`.
    """
    tree = compose(path, data)
    findings = [
        finding.error(path, "a value is missing: write one or remove the key", line=node.line, column=node.column)
        for node in tree.nulls(except_below=nulls_below)
    ]
    if findings:
        raise BundleInvalid(findings)
    try:
        return model.model_validate(tree.plain()), tree
    except ValidationError as failure:
        raise BundleInvalid(_findings(path, tree, model, failure)) from failure


def _findings(path: str, tree: Node, model: type[StrictModel], failure: ValidationError) -> list[Finding]:
    found = []
    for error in failure.errors(include_url=False, include_input=False):
        location = [part for part in error["loc"] if part != "[key]"]
        line, column = tree.at(*location)
        name = str(location[-1]) if location else _FILE
        if isinstance(location[-1] if location else "", int):
            name = f"entry {int(location[-1]) + 1}"
        message = _message(error["type"], name[:60], error.get("ctx", {}), error["msg"])
        if error["type"] == "extra_forbidden":
            message += hint.meant(name, hint.fields(model, location[:-1]))
        message = message.replace(f"`{_FILE}`", _FILE)
        found.append(finding.error(path, message, line=line, column=column))
    return found


def _message(kind: str, name: str, context: dict[str, Any], text: str) -> str:
    if kind == "value_error":
        return str(context["error"])
    if kind in _MESSAGES:
        return _MESSAGES[kind](name, context)
    return f"`{name}`: {text[:1].lower()}{text[1:]}"
