"""JSON Schemas of the bundle's YAML files, for editors. The models are the truth; these follow from them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from services.decision.catalog import Catalog, Resources
from services.decision.manifest import Manifest
from services.decision.settings import Settings
from services.decision.suite import Suite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.strict_json import JSON

    from services.decision.strict_model import StrictModel

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_MODELS: Final[Mapping[str, type[StrictModel]]] = {
    "agent.schema.json": Manifest,
    "catalog.schema.json": Catalog,
    "holdfast.schema.json": Settings,
    "resources.schema.json": Resources,
    "tests.schema.json": Suite,
}


def documents() -> dict[str, str]:
    """Return the text of each schema of a bundle by its file name under docs/schemas."""
    return documents_of(_MODELS)


def documents_of(models: Mapping[str, type[StrictModel]]) -> dict[str, str]:
    """Return each model's schema as text, by the name it is given. Source: JSON Schema 2020-12."""
    texts = {}
    for name, model in models.items():
        schema: dict[str, JSON] = model.model_json_schema()
        document = {"$schema": _DIALECT, **{key: _without_null(value) for key, value in schema.items()}}
        texts[name] = json.dumps(document, indent=2, sort_keys=True) + "\n"
    return texts


def _without_null(node: JSON) -> JSON:
    """Return a schema that says what the reader does: what may be left out may still not be null."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _without_null(value) for key, value in node.items() if not (key == "default" and value is None)}
    choices = kept.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        others = [choice for choice in choices if choice != {"type": "null"}]
        del kept["anyOf"]
        if len(others) == 1 and isinstance(others[0], dict):
            return {**others[0], **kept}
        return {**kept, "anyOf": others}
    return kept
