"""A taxonomy of intents, as categories for a catalogue. Source: open-intent-layer, src/oil-taxonomy.json.

Nobody may do anything with the result: it has categories and where their actions go, and no agent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from console.policy_import.draft import Action, Category, Draft
from console.policy_import.source import Imported, Refusals, Source, visible
from services.decision.strict_model import Items, StrictModel, read_model

if TYPE_CHECKING:
    from collections.abc import Mapping

EXECUTOR: Final = "unassigned"

_NOT_WORDS = re.compile(r"[^a-z0-9]+")

Code = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Title = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[str, Field(max_length=2000)]


class _Category(StrictModel):
    code: Code
    name: Title
    description: Words = ""


class _Domain(StrictModel):
    code: Code
    name: Title
    description: Words = ""
    categories: Items[_Category] = ()


class _Taxonomy(StrictModel):
    version: Words
    name: Title
    abbreviation: Words = ""
    description: Words = ""
    domains: Items[_Domain]


def convert(source: Source, *, keep: frozenset[str]) -> Imported:
    """Return a bundle of categories, each with a glob for its actions. Raises: BundleInvalid, UnknownAllowance."""
    taxonomy, tree = read_model(source.path, source.data, _Taxonomy)
    draft, refusals = Draft(source.path, keep), Refusals()
    draft.remarks.append(f"{visible(taxonomy.name)} {visible(taxonomy.version)}: categories to choose from, no agents.")
    draft.executors[EXECUTOR] = "Put the executor of each action here"
    codes: dict[str, int] = {}
    for index, domain in enumerate(taxonomy.domains):
        for number, category in enumerate(domain.categories):
            line = tree.at("domains", index, "categories", number)[0]
            if category.code in codes:
                refusals.add(
                    source.path, line, f"the code `{category.code}` stands twice, first on line {codes[category.code]}"
                )
            codes.setdefault(category.code, line)
            name = _name(domain.name, category.name, draft.categories)
            draft.categories[name] = Category(
                description=category.description or category.name,
                taxonomy=category.code,
                comments=() if number else (f"{visible(domain.code)} {visible(domain.name)}",),
            )
            draft.actions[f"{name}.*"] = Action(category=name, executor=EXECUTOR)
    if not codes:
        refusals.add(source.path, tree.at("domains")[0], "the taxonomy has no categories")
    refusals.check()
    message = "the taxonomy says nothing of impact and effect: each category is taken for the graver"
    draft.stricter(source.path, tree.at("domains")[0], message)
    return draft.finish()


def _name(domain: str, category: str, taken: Mapping[str, Category]) -> str:
    base = f"{_slug(domain)}.{_slug(category)}"
    number, name = 1, base
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def _slug(text: str) -> str:
    return _NOT_WORDS.sub("-", text.lower()).strip("-")[:60] or "unnamed"
