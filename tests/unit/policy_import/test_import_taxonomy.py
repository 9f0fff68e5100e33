"""A taxonomy becomes categories, and nobody's permission."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from imported_bundles import imported, notes, refusals

from services.decision.bundle import read_bundle

PUBLISHED = Path(__file__).parents[4] / "shared" / "vectors" / "taxonomy" / "oil-taxonomy.json"

SMALL = {
    "version": "2.0",
    "name": "Small",
    "abbreviation": "S",
    "description": "d",
    "domains": [
        {
            "code": "OIL-100",
            "name": "Software Development",
            "description": "d",
            "categories": [
                {"code": "OIL-101", "name": "Build & CI", "description": "Pipelines"},
                {"code": "OIL-102", "name": "Build / CI", "description": "The same words"},
            ],
        }
    ],
}


def test_categories_keep_their_codes_and_are_taken_for_the_graver():
    result = imported("taxonomy", json.dumps(SMALL, indent=1))
    bundle = read_bundle(result.files)
    found = {name: category.taxonomy for name, category in bundle.catalog.categories.items()}
    assert found == {"software-development.build-ci": "OIL-101", "software-development.build-ci-2": "OIL-102"}
    assert {str(category.impact) for category in bundle.catalog.categories.values()} == {"high"}
    assert bundle.manifests == {}
    assert notes(result) == [
        "source.yaml:6: stricter: the taxonomy says nothing of impact and effect: each category is taken for the graver"
    ]


@pytest.mark.parametrize(
    ("old", "new", "refusal"),
    [
        ('"abbreviation"', '"abbr"', "source.yaml:4: unknown field `abbr`"),
        ('"OIL-102"', '"OIL-101"', "source.yaml:17: the code `OIL-101` stands twice, first on line 12"),
        ('"OIL-102"', "102", "source.yaml:18: `code` must be a string"),
    ],
)
def test_what_the_taxonomy_does_not_know_is_refused_with_its_line(old, new, refusal):
    found = refusals("taxonomy", json.dumps(SMALL, indent=1).replace(old, new))
    assert any(one.startswith(refusal) for one in found), found


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published taxonomy is not beside this checkout")
def test_the_published_taxonomy_comes_over_whole():
    text = PUBLISHED.read_text()
    bundle = read_bundle(imported("taxonomy", text).files)
    codes = {category["code"] for domain in json.loads(text)["domains"] for category in domain["categories"]}
    assert {category.taxonomy for category in bundle.catalog.categories.values()} == codes
