"""The action digest, against canonical strings written by hand."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
import rfc8785
from holdfast import strict_json
from holdfast.intent import Action, Resource

VECTORS = Path(__file__).parents[2] / "vectors"
CASES = json.loads((VECTORS / "action_digest.json").read_text("utf-8"))["cases"]


def by_name(case):
    return case["name"]


def read(text: str) -> Action:
    document = strict_json.loads(text.encode())
    return Action(
        action=document["action"],
        resource=Resource(**document["resource"]),
        parameters=document["parameters"],
        executor=document["executor"],
    )


def test_there_are_vectors():
    assert len(CASES) >= 12


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_the_canonical_form_is_the_one_written_by_hand(case):
    assert read(case["json"]).canonical().decode() == case["canonical"]


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_the_digest_is_that_of_the_vector(case):
    assert read(case["json"]).digest() == case["digest"]


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_the_vector_agrees_with_the_formula_of_the_protocol(case):
    """Recomputed from the text of the protocol with rfc8785 alone, beside the code under test."""
    canonical = rfc8785.dumps(json.loads(case["json"]))
    hashed = hashlib.sha256(b"holdfast-action/v1\n" + canonical).digest()

    assert canonical.decode() == case["canonical"]
    assert "sha-256:" + base64.urlsafe_b64encode(hashed).decode().rstrip("=") == case["digest"]


def test_different_actions_have_different_digests():
    digests = {case["canonical"]: case["digest"] for case in CASES}

    assert len(set(digests.values())) == len(digests)
