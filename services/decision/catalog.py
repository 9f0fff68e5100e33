"""The catalogue: categories, executors, actions with typed parameters; and what is known of resources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from services.decision.strict_model import ActionName, Distinct, Items, Label, Name, Pattern, StrictModel, Text

MAX_LONG: Final = 2**63 - 1
DEFAULT_TOKEN_SECONDS: Final = 60
MAX_TOKEN_SECONDS: Final = 3600
#: Where Cedar's JSON gives a record another meaning.
CEDAR_ESCAPES: Final = frozenset({"__entity", "__extn", "__expr"})
#: What stands before groups of actions in Cedar.
GROUP_PREFIXES: Final = ("category:", "impact:", "effect:")
#: The verbs of manifests; they are never names of actions.
VERBS: Final = frozenset({"read", "write"})

_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,4})?")
_MAX_DECIMAL: Final = Decimal(MAX_LONG) / 10_000
_RESOURCE_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}|\*")


class Impact(StrEnum):
    """How much harm a category can do."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Effect(StrEnum):
    """How far a category reaches."""

    READ = "read"
    INTERNAL_WRITE = "internal_write"
    EXTERNAL = "external"


class Sensitivity(StrEnum):
    """How carefully a resource is to be treated."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    RESTRICTED = "restricted"


def read_decimal(text: str) -> Decimal:
    """Return the number in a decimal's text: at most four places, Cedar's range. Raises: ValueError."""
    if _DECIMAL.fullmatch(text) is None or abs(number := Decimal(text)) > _MAX_DECIMAL:
        raise ValueError(f"`{text[:40]}` is not a decimal such as `12.3400`")
    return number


def _decimal_text(text: str) -> str:
    read_decimal(text)
    return text


DecimalText = Annotated[str, AfterValidator(_decimal_text)]
Long = Annotated[int, Field(ge=-MAX_LONG - 1, le=MAX_LONG)]


def _parameter_name(name: str) -> str:
    if name in CEDAR_ESCAPES:
        raise ValueError(f"the name `{name}` is reserved")
    return name


ParameterName = Annotated[Label, AfterValidator(_parameter_name)]


class _Declared(StrictModel):
    required: bool = False
    log: bool = False
    personal: bool = False

    @model_validator(mode="after")
    def _one_way_into_the_log(self) -> Self:
        if self.log and self.personal:
            raise ValueError("`log` and `personal` exclude each other")
        return self


class StringParameter(_Declared):
    """Text. `max_length` counts characters."""

    type: Literal["string"]
    enum: Annotated[Distinct[str], Field(min_length=1)] | None = None
    max_length: Annotated[int, Field(ge=1, le=262_144)] | None = None


class IntegerParameter(_Declared):
    """A whole number of 64 bits. `min` and `max` are inclusive."""

    type: Literal["integer"]
    enum: Annotated[Items[Long], Field(min_length=1)] | None = None
    min: Long | None = None
    max: Long | None = None

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("`min` is above `max`")
        return self


class BooleanParameter(_Declared):
    """True or false."""

    type: Literal["boolean"]


class DecimalParameter(_Declared):
    """A number with at most four places, written as a string. `min` and `max` are inclusive."""

    type: Literal["decimal"]
    min: DecimalText | None = None
    max: DecimalText | None = None

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.min is not None and self.max is not None and read_decimal(self.min) > read_decimal(self.max):
            raise ValueError("`min` is above `max`")
        return self


class ArrayParameter(_Declared):
    """A list of `items`, which rules see as a set. `max_length` counts items."""

    type: Literal["array"]
    items: Parameter
    max_length: Annotated[int, Field(ge=1, le=262_144)] | None = None

    @model_validator(mode="after")
    def _items_are_logged_together(self) -> Self:
        if self.items.log:
            raise ValueError("`log` belongs to the array, not to its items")
        if self.items.required:
            raise ValueError("`required` belongs to the array, not to its items")
        return self


class ObjectParameter(_Declared):
    """A record with declared `fields`."""

    type: Literal["object"]
    fields: Mapping[ParameterName, Parameter]


Parameter: TypeAlias = Annotated[
    StringParameter | IntegerParameter | BooleanParameter | DecimalParameter | ArrayParameter | ObjectParameter,
    Field(discriminator="type"),
]


class Category(StrictModel):
    """What kind of thing an action does. Left out, `reversible` is the graver of the two."""

    description: Text = ""
    impact: Annotated[Impact, Field(strict=False)]
    effect: Annotated[Effect, Field(strict=False)]
    reversible: bool = False
    taxonomy: Label | None = None


class Executor(StrictModel):
    """Who acts on a token. `max_token_seconds` caps ordinary tokens; `preauthorized: false` refuses the others."""

    description: Text = ""
    max_token_seconds: Annotated[int, Field(ge=1, le=MAX_TOKEN_SECONDS)] = DEFAULT_TOKEN_SECONDS
    preauthorized: bool = True


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _resource_type(text: str) -> str:
    if _RESOURCE_TYPE.fullmatch(text) is None:
        raise ValueError(f"`{text[:60]}` is not a resource type")
    return text


class CatalogAction(StrictModel):
    """One action. The first executor is the default; `resource` is a type, or `*`."""

    category: Name
    executor: Annotated[
        Distinct[Name],
        Field(min_length=1),
        BeforeValidator(_one_or_more),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ]
    resource: Annotated[str, AfterValidator(_resource_type)]
    parameters: Mapping[ParameterName, Parameter] = Field(default_factory=dict)
    additional_parameters: bool = True
    proof_of_possession: bool = False


def _not_a_group(name: str) -> str:
    if name.startswith(GROUP_PREFIXES):
        raise ValueError(f"the action's name `{name}` starts like a group of actions")
    if name in VERBS:
        raise ValueError(f"the action's name `{name}` is a verb of the manifests")
    return name


class Catalog(StrictModel):
    """catalog.yaml: the closed world of what agents can ask for."""

    version: Literal[1]
    categories: Mapping[Name, Category]
    executors: Mapping[Name, Executor]
    actions: Annotated[Mapping[Annotated[ActionName, AfterValidator(_not_a_group)], CatalogAction], Field(min_length=1)]


class ResourceFacts(StrictModel):
    """What is known of the resources that a pattern matches."""

    sensitivity: Annotated[Sensitivity, Field(strict=False)] = Sensitivity.INTERNAL
    environment: Label | None = None
    labels: Distinct[Label] = ()


class Resources(StrictModel):
    """resources.yaml: facts about resources by `type/id` pattern. The most specific pattern wins as a whole."""

    version: Literal[1]
    resources: Mapping[Pattern, ResourceFacts]
