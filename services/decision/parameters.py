"""An intent's parameters against the catalogue's declaration: checked, handed to the rules, prepared for the log."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

import rfc8785
from holdfast.audit.record import check_profile
from holdfast.errors import AuditInvalid

from services.decision.catalog import (
    MAX_LONG,
    ArrayParameter,
    BooleanParameter,
    DecimalParameter,
    IntegerParameter,
    ObjectParameter,
    Parameter,
    StringParameter,
    read_decimal,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.strict_json import JSON

    from services.decision.cedar import CedarJSON

#: How deep a logged value may be, so that the record around it stays within its own limit.
_LOGGED_DEPTH = 6


class ParametersInvalid(Exception):
    """The parameters do not fit their declaration; the text names the parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What the audit record says of an intent's parameters, by parameter name.

    Names are the agent's or the catalogue's text, not keys of the record. `digests` are hexadecimal SHA-256 over the
    RFC 8785 bytes of the value. `personal` names those whose values belong in the erasable table, as commitments.
    """

    clear: Mapping[str, JSON] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    personal: tuple[str, ...] = ()


def for_rules(
    declared: Mapping[str, Parameter], given: Mapping[str, JSON], *, additional: bool, where: str = ""
) -> dict[str, CedarJSON]:
    """Return the declared parameters as rules see them; undeclared ones never come through.

    Raises: ParametersInvalid for a missing, undeclared (unless `additional`), or ill-fitting parameter.
    """
    if not additional and (unknown := given.keys() - declared.keys()):
        raise ParametersInvalid(f"the parameter `{where}{_printable(min(unknown))}` is not declared")
    visible: dict[str, CedarJSON] = {}
    for name, parameter in declared.items():
        if name in given:
            visible[name] = _value(parameter, given[name], additional=additional, where=where + name)
        elif parameter.required:
            raise ParametersInvalid(f"the parameter `{where}{name}` is missing")
    return visible


def _value(parameter: Parameter, value: JSON, *, additional: bool, where: str) -> CedarJSON:
    match parameter:
        case StringParameter():
            return _string(parameter, value, where)
        case IntegerParameter():
            return _integer(parameter, value, where)
        case BooleanParameter():
            return _boolean(value, where)
        case DecimalParameter():
            return _decimal(parameter, value, where)
        case ArrayParameter():
            return _array(parameter, value, additional=additional, where=where)
        case ObjectParameter():
            return _object(parameter, value, additional=additional, where=where)
        case _:
            assert_never(parameter)


def _boolean(value: JSON, where: str) -> bool:
    if not isinstance(value, bool):
        raise ParametersInvalid(f"the parameter `{where}` must be true or false")
    return value


def _array(parameter: ArrayParameter, value: JSON, *, additional: bool, where: str) -> CedarJSON:
    if not isinstance(value, list):
        raise ParametersInvalid(f"the parameter `{where}` must be a list")
    if parameter.max_length is not None and len(value) > parameter.max_length:
        raise ParametersInvalid(f"the parameter `{where}` has more than {parameter.max_length} items")
    return [_value(parameter.items, item, additional=additional, where=f"{where}[]") for item in value]


def _object(parameter: ObjectParameter, value: JSON, *, additional: bool, where: str) -> CedarJSON:
    if not isinstance(value, dict):
        raise ParametersInvalid(f"the parameter `{where}` must be an object")
    return for_rules(parameter.fields, value, additional=additional, where=where + ".")


def _string(parameter: StringParameter, value: JSON, where: str) -> str:
    if not isinstance(value, str):
        raise ParametersInvalid(f"the parameter `{where}` must be a string")
    if parameter.enum is not None and value not in parameter.enum:
        raise ParametersInvalid(f"the parameter `{where}` must be one of {', '.join(parameter.enum)}")
    if parameter.max_length is not None and len(value) > parameter.max_length:
        raise ParametersInvalid(f"the parameter `{where}` has more than {parameter.max_length} characters")
    return value


def _integer(parameter: IntegerParameter, value: JSON, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ParametersInvalid(f"the parameter `{where}` must be an integer")
    low = -MAX_LONG - 1 if parameter.min is None else parameter.min
    high = MAX_LONG if parameter.max is None else parameter.max
    if not low <= value <= high:
        raise ParametersInvalid(f"the parameter `{where}` must be from {low} to {high}")
    if parameter.enum is not None and value not in parameter.enum:
        raise ParametersInvalid(f"the parameter `{where}` must be one of {', '.join(map(str, parameter.enum))}")
    return value


def _decimal(parameter: DecimalParameter, value: JSON, where: str) -> CedarJSON:
    if not isinstance(value, str):
        raise ParametersInvalid(f"the parameter `{where}` must be a decimal in a string")
    try:
        number = read_decimal(value)
    except ValueError as error:
        raise ParametersInvalid(f"the parameter `{where}` is not a decimal with at most four places") from error
    if parameter.min is not None and number < read_decimal(parameter.min):
        raise ParametersInvalid(f"the parameter `{where}` must be at least {parameter.min}")
    if parameter.max is not None and number > read_decimal(parameter.max):
        raise ParametersInvalid(f"the parameter `{where}` must be at most {parameter.max}")
    return {"__extn": {"fn": "decimal", "arg": f"{number:.4f}"}}


def logged(declared: Mapping[str, Parameter], given: Mapping[str, JSON]) -> Logged:
    """Return how each given parameter goes into the log: in clear, as a commitment, or as a digest.

    A value that the log's profile cannot hold, such as a float, goes as a digest even where it is declared `log`.
    """
    clear: dict[str, JSON] = {}
    digests: dict[str, str] = {}
    personal: list[str] = []
    for name, value in given.items():
        parameter = declared.get(name)
        if parameter is not None and is_personal(parameter):
            personal.append(name)
        elif parameter is not None and parameter.log and _fits_the_log(value):
            clear[name] = value
        else:
            digests[name] = hashlib.sha256(rfc8785.dumps(value)).hexdigest()
            clear.update(_logged_fields(parameter, value, name))
    return Logged(clear=clear, digests=digests, personal=tuple(personal))


def is_personal(parameter: Parameter) -> bool:
    """Tell whether the parameter, or any part of it, is personal: then all of it is."""
    if isinstance(parameter, ObjectParameter):
        return parameter.personal or any(is_personal(part) for part in parameter.fields.values())
    if isinstance(parameter, ArrayParameter):
        return parameter.personal or is_personal(parameter.items)
    return parameter.personal


def _logged_fields(parameter: Parameter | None, value: JSON, where: str) -> dict[str, JSON]:
    if not isinstance(parameter, ObjectParameter) or not isinstance(value, dict):
        return {}
    clear: dict[str, JSON] = {}
    for name, part in parameter.fields.items():
        if name not in value:
            continue
        if part.log and _fits_the_log(value[name]):
            clear[f"{where}.{name}"] = value[name]
        else:
            clear.update(_logged_fields(part, value[name], f"{where}.{name}"))
    return clear


def _fits_the_log(value: JSON) -> bool:
    try:
        check_profile(value, depth=16 - _LOGGED_DEPTH)
    except AuditInvalid:
        return False
    return True


def _printable(name: str) -> str:
    return name[:64].encode("ascii", "backslashreplace").decode("ascii")
